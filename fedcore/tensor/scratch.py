"""Memory that bound kernels work in while they run: the same for all calls of a replay.

Columns of a convolution and the like are written and read within one call. With memory of its own
each call found none of it in the cache.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

__all__ = ["Scratch", "empty"]

_LINE: Final = 64  # bytes of a cache line
_LEAST: Final = 1 << 16  # a device has few models' memory, and many models need no more


class _Lent(threading.local):
    """What this thread's kernels are bound with."""

    scratch: Scratch | None = None


_lent = _Lent()


class Scratch:
    """A block of which every call gets parts from the beginning; for the calls of one thread."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._used = 0

    @contextmanager
    def lent(self) -> Iterator[None]:
        """While one call is bound, `empty` gives parts of the block, which overlap no other's."""
        before, _lent.scratch, self._used = _lent.scratch, self, 0
        try:
            yield
        finally:
            _lent.scratch = before

    def take(self, size: int) -> np.ndarray[Any, Any]:
        """So many bytes, from the beginning of a cache line on."""
        start = self._used
        self._used += -(-size // _LINE) * _LINE
        if self._used > len(self._block):  # whoever has parts of the old block keeps it
            made = np.empty(max(_LEAST, self._used, 2 * len(self._block)) + _LINE, np.uint8)
            self._block = made[-made.ctypes.data % _LINE :][: len(made) - _LINE]
        return self._block[start : start + size]


def empty(xp: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory for a call's own use: it holds nothing from one run of the call to the next.

    A part of the scratch that is lent, if one is, and memory of its own otherwise.
    """
    scratch = _lent.scratch
    if scratch is None or xp is not np:
        return xp.empty(shape, dtype=dtype)
    dtype = np.dtype(dtype)
    return scratch.take(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
