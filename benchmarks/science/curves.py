"""How many rounds a curve of accuracies takes to a target, and how that is said of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from fedsim.records import RoundRecord

__all__ = ["Curve", "curve_of", "rounds_to", "smoothed"]

Curve: TypeAlias = Sequence[tuple[int, float]]
"""The accuracy on the test set after so many rounds, in the order of the rounds."""


def curve_of(records: Sequence[RoundRecord]) -> Curve:
    """The rounds after which the model was measured; the first round is 1."""
    return [
        (record.round + 1, record.test.accuracy)
        for record in records
        if record.test is not None and record.test.accuracy is not None
    ]


def rounds_to(curve: Curve, target: float) -> float | None:
    """Where the best accuracy so far crosses `target`, between two measurements linearly; or None.

    Source: McMahan et al. 2017, section 3, "Increasing parallelism".

    >>> rounds_to([(1, 0.5), (2, 0.4), (4, 0.9)], 0.7)
    3.0
    """
    best: tuple[float, float] = (0, 0.0)
    for round, accuracy in curve:
        if accuracy >= target:
            before, low = best
            return before + (round - before) * (target - low) / (accuracy - low)
        # The best so far holds until it is surpassed, so that the line begins at the round before.
        best = (round, max(best[1], accuracy))
    return None


def smoothed(curve: Curve) -> Curve:
    """The best accuracy up to each round, as the paper draws and counts it.

    >>> smoothed([(1, 0.5), (2, 0.4)])
    [(1, 0.5), (2, 0.5)]
    """
    found: list[tuple[int, float]] = []
    best = 0.0
    for round, accuracy in curve:
        best = max(best, accuracy)
        found.append((round, best))
    return found
