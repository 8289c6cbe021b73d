"""The mean of a round, decoded from its sum piece by piece, beside which no second copy stands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedcore.federated.update import Mean, UpdateLayout
from fedserver.accumulation import Totals

__all__ = ["mean_of"]


def mean_of(layout: UpdateLayout, totals: Totals, reports: int) -> Mean:
    """What `layout.mean` makes of the same sums, in the memory of the mean and of one piece.

    Raises: UpdateError for sums such as no reports add up to.
    """
    measured = totals[1]
    vector = np.empty(layout.dimension, np.float32)
    found = None
    for first, sums in totals.pieces(0):
        # Every coordinate is judged and scaled by itself: a piece is an update of its own.
        found = replace(layout, dimension=len(sums)).mean((sums, measured), reports)
        vector[first : first + len(sums)] = found.vector
    assert found is not None
    return replace(found, vector=vector)
