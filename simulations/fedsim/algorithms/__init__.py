"""Algorithms to study, beside those of a federation: one a file."""

from fedsim.algorithms.algorithm import Algorithm, Local, Sent, State, Trained, Turnout, Vector
from fedsim.algorithms.choices import ALGORITHMS, AlgorithmChoice
from fedsim.algorithms.steered import Steered

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AlgorithmChoice",
    "Local",
    "Sent",
    "State",
    "Steered",
    "Trained",
    "Turnout",
    "Vector",
]
