"""Algorithms to study, beside those of a federation: one a file."""

from fedsim.algorithms.algorithm import Algorithm, Facts, Local, Sent, State, Trained, Vector

__all__ = ["Algorithm", "Facts", "Local", "Sent", "State", "Trained", "Vector"]
