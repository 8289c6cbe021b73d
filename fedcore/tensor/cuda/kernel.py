"""A CUDA C function over arrays, compiled by CuPy when it is first called.

Nothing here imports CuPy: the caller passes the module that owns its arrays. Kernels read and write
arrays that are dense in row-major order, never with atomics, so that a result does not depend on
the order in which threads run.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcore.errors import DtypeError

__all__ = ["Kernel", "dense", "in_words"]

THREADS = 256  # a block: a multiple of every warp, and enough of them to hide a read of memory
MAX_BLOCKS = 1 << 16  # each thread then takes several elements, a whole grid apart
NARROW = 1 << 30  # elements up to which 32-bit places, whose division is faster, cannot overflow

_C_TYPES = {
    np.dtype(name): c
    for name, c in {
        "float32": "float",
        "float64": "double",
        "int8": "signed char",
        "int16": "short",
        "int32": "int",
        "int64": "long long",
        "uint8": "unsigned char",
        "bool": "bool",
        "complex128": "Word",
    }.items()
}

WORD = np.dtype(np.complex128)  # sixteen bytes, which a thread moves at once, of whatever they are

_WORD = "struct alignas(16) Word { double halves[2]; };\n"
_PREAMBLE = """
#define EACH(i, count) \\
    for (I i = blockIdx.x * (I)blockDim.x + threadIdx.x; i < (count); \\
         i += (I)gridDim.x * (I)blockDim.x)
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The function `name` of `source`: T is the type of its elements, I that of its places.

    Its first parameter is the number of elements that its threads share out. `EACH(i, count)` is
    the loop over those of one thread.
    """

    name: str
    source: str

    def __call__(self, xp: Any, count: int, *arguments: Any, dtype: np.dtype[Any]) -> None:
        """Run for `count` elements on arrays and whole numbers; T is `dtype`.

        Raises: DtypeError for a type that no kernel is compiled for.
        """
        if not count:  # CUDA refuses an empty grid
            return
        sizes = [count, *[a.size for a in arguments if not isinstance(a, int)]]
        place = np.int32 if max(sizes) <= NARROW else np.int64
        given = [place(a) if isinstance(a, int) else a for a in (count, *arguments)]
        blocks = min(-(-count // THREADS), MAX_BLOCKS)
        _compiled(xp, self, dtype, place is np.int32)((blocks,), (THREADS,), tuple(given))


@functools.cache
def _compiled(xp: Any, kernel: Kernel, dtype: np.dtype[Any], narrow: bool) -> Any:
    element = _C_TYPES.get(dtype)
    if element is None:
        raise DtypeError(
            f"{kernel.name}: no GPU kernel for {dtype}",
            why="kernels are compiled for " + ", ".join(str(d) for d in _C_TYPES),
            fix="convert with x.astype('float32')",
        )
    place = "int" if narrow else "long long"
    code = f"{_WORD}typedef {element} T;\ntypedef {place} I;\n{_PREAMBLE}{kernel.source}"
    return xp.RawKernel(code, kernel.name)


def dense(xp: Any, array: Any, shape: tuple[int, ...] | None = None) -> Any:
    """`array`, spread to `shape` if it is given, in row-major order: a kernel sees memory alone."""
    if shape is not None and array.shape != shape:
        array = xp.broadcast_to(array, shape)
    return array if array.flags.c_contiguous else array.copy(order="C")


def in_words(*arrays: Any) -> tuple[Any, ...] | None:
    """Dense arrays as words of sixteen bytes, or None where their rows hold no whole words.

    Their last axis becomes shorter. For kernels that move elements and never look at them.
    """
    width = arrays[0].itemsize * arrays[0].shape[-1]
    if width % WORD.itemsize or any(a.data.ptr % WORD.itemsize for a in arrays):
        return None
    return tuple(a.view(WORD) for a in arrays)
