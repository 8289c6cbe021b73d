"""Algorithms to study, beside those of a federation: one a file."""

from fedsim.algorithms.algorithm import Algorithm, Facts, Local, Sent, State, Trained, Vector
from fedsim.algorithms.choices import ALGORITHMS, AlgorithmChoice
from fedsim.algorithms.steered import Steered

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AlgorithmChoice",
    "Facts",
    "Local",
    "Sent",
    "State",
    "Steered",
    "Trained",
    "Vector",
]
