"""Memory that was freed goes back to the system before a round's model is made.

The C library keeps what pieces of a megabyte leave behind, in heaps of several threads: after a
hundred updates more than a model. Nothing else asks for so much at once, so it is told when.
"""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Returns what is freed to the system, where the C library can (glibc); takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
