"""How far rows are from each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.tensor import blas
from fedsim.algorithms.algorithm import Vector
from fedsim.robust.rule import columns, finite_rows

__all__ = ["squared_distances"]


@blas.one_thread()
def squared_distances(updates: Vector) -> NDArray[np.float64]:
    """|u_i - u_j|² of all rows of (n, D), as (n, n); infinite for a row with NaN or infinity.

    Formula: |u_i|² - 2⟨u_i, u_j⟩ + |u_j|², of a Gram matrix that is summed in float64 over blocks
    of columns. A row of huge numbers spoils the precision of its own distances alone.
    """
    gram = np.zeros((len(updates), len(updates)))
    for part in columns(updates):
        block = updates[:, part].astype(np.float64)
        gram += block @ block.T
    squares = gram.diagonal()
    found: NDArray[np.float64] = np.maximum(squares[:, None] - 2 * gram + squares, 0.0)
    finite = finite_rows(updates)
    found[~finite] = found[:, ~finite] = np.inf
    np.fill_diagonal(found, 0.0)
    return found
