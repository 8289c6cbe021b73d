"""What is protected, and against which difference: a number without these two says nothing."""

from __future__ import annotations

from enum import Enum

__all__ = ["Adjacency", "Unit"]


class Unit(Enum):
    """Whose data may change without anybody being able to tell.

    RECORD: one training example. CLIENT: everything that one client holds. USER: everything of one
    person, who may own several clients.
    """

    RECORD = "record"
    CLIENT = "client"
    USER = "user"


class Adjacency(Enum):
    """In what two neighbouring datasets differ: by one unit, and how.

    ADD_REMOVE: it is there or not. ZERO_OUT: its contribution is replaced by zeros, so that the
    number of units is public. REPLACE_ONE: it is replaced by any other.
    """

    ADD_REMOVE = "add or remove one"
    ZERO_OUT = "replace one by zeros"
    REPLACE_ONE = "replace one"

    @property
    def clipping_norms(self) -> int:
        """By how many clipping norms a sum of clipped vectors differs between neighbours.

        >>> Adjacency.ADD_REMOVE.clipping_norms, Adjacency.REPLACE_ONE.clipping_norms
        (1, 2)
        """
        return 2 if self is Adjacency.REPLACE_ONE else 1
