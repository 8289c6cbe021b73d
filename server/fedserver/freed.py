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

__all__ = ["Collection", "collect_rarely", "give_back", "one_heap"]

_M_ARENA_MAX = -8  # of glibc's malloc.h
_NEW_OBJECTS = 50_000  # some ten megabytes
_ALL_EVERY = 60


def collect_rarely() -> None:
    """Searches for circles after 50,000 new objects in place of 700, and none that are there now.

    The searches took 14 % of the processor time of a round of 2,000 clients.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


class Collection:
    """Searches for circles by the time, where too little is new for `collect_rarely`.

    Each call looks through the newest objects, which takes milliseconds, and every sixtieth through
    all: what a search finds in use it passes over later, until one of all.
    """

    def __init__(self) -> None:
        self._calls = 0

    async def __call__(self) -> None:
        self._calls += 1
        gc.collect(0 if self._calls % _ALL_EVERY else 2)


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
