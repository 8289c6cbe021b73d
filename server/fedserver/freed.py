"""Memory that was freed goes back to the system, and is not kept in a heap for every thread.

The C library keeps what pieces of a megabyte leave behind: after a hundred updates of 100 MB, 70 MB
in the heaps of its threads. Nothing else asks for so much at once as the making of a round's model,
so before that it is told to let go.

What Python frees late are circles of objects that refer to each other. Few are ours, but gRPC makes
one of six objects for each call, and a larger one for each that is refused. A search goes through
objects of all the clients that wait: under load it comes by their number, else by the time.
"""

from __future__ import annotations

import ctypes
import gc

__all__ = ["collect_new", "collect_rarely", "give_back", "one_heap"]

_M_ARENA_MAX = -8  # of glibc's malloc.h
_NEW_OBJECTS = 50_000  # some ten megabytes


def collect_rarely() -> None:
    """Searches for circles after 50,000 new objects in place of 700.

    The searches took 14 % of the processor time of a round of 2,000 clients.
    """
    gc.set_threshold(_NEW_OBJECTS)


async def collect_new() -> None:
    """Searches for circles among the newest objects: milliseconds, where `collect_rarely` waits."""
    gc.collect(0)


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
