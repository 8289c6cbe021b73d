"""What a round used goes back to the system: the GNU C library would keep most of it for itself.

Its `malloc` learns from each large array that was freed to keep the next, in every thread for
itself: a model of 4 MB then left 40 MB of holes.
"""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["return_large_arrays"]

_MMAP_THRESHOLD: Final = -3  # M_MMAP_THRESHOLD of malloc.h, see mallopt(3)
_LARGE: Final = 256 * 1024


def return_large_arrays() -> bool:
    """Lets the process hold no freed array of 256 KiB or more; whether this system can.

    It is a setting of the whole process, so that only a program of one purpose takes it.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGE))
