"""Memory that was freed goes back to the system, and is not kept in a heap for every thread.

The C library keeps what pieces of a megabyte leave behind: after a hundred updates of 100 MB, 70 MB
in the heaps of its threads. Nothing else asks for so much at once as the making of a round's model,
so before that it is told to let go.
"""

from __future__ import annotations

import ctypes

__all__ = ["give_back", "one_heap"]

_M_ARENA_MAX = -8  # of glibc's malloc.h


def give_back() -> None:
    """Returns what is freed to the system, where the C library can (glibc); takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def one_heap() -> None:
    """Lets threads that are yet to come share one heap, where the C library can (glibc)."""
    options = getattr(ctypes.CDLL(None), "mallopt", None)
    if options is not None:
        options(_M_ARENA_MAX, 1)
