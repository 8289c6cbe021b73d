"""How closely a sum on the grid is checked: each contribution by itself, or their sum once."""

from __future__ import annotations

from enum import Enum

__all__ = ["Grade"]


class Grade(Enum):
    """How records are put on the grid.

    EXACT: each record's clipped gradient is truncated by itself, its norm checked in integers.
    SUM: the sum of the clipped gradients, computed in float64, is truncated once; the declared
    sensitivity grows by that rounding. Declared for models whose dense weights meet one row an
    example: where they meet several, as in a sequence, rows that cancel could round to more.
    """

    EXACT = "exact"
    SUM = "sum-quantised"
