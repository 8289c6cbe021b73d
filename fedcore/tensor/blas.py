"""Matrix products by the BLAS inside NumPy, because `np.matmul` has no β and cannot be prepared.

Without β, which adds to what `out` holds, a step θ ← θ − η xᵀg costs two more passes over θ: 45 µs
against 27 for 785×20·20×200. `bind_gemm` checks and prepares a product once for the buffers of a
replay, after which a call costs 0.6 µs; `gemm` itself spends 16 µs on its checks. The library is
the OpenBLAS of NumPy's wheels, loaded in any case; with another build of NumPy (conda, MKL,
Accelerate) the same functions compute with `np.matmul`, equal up to rounding.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.errors import ArgumentError, DtypeError, ShapeError

__all__ = [
    "add_scaled",
    "bind_gemm",
    "gemm",
    "get_threads",
    "is_multipliable",
    "kernels",
    "library",
    "multipliable",
    "one_thread",
    "prepare",
    "rows_are_alike",
    "rows_together",
    "scalar",
    "set_threads",
    "use_avx512",
]

Scalar = ctypes.c_float | ctypes.c_double
Factor = float | Scalar

_REAL: dict[np.dtype[Any], tuple[str, type[Scalar]]] = {
    np.dtype(np.float32): ("s", ctypes.c_float),
    np.dtype(np.float64): ("d", ctypes.c_double),
}
_ROW_MAJOR, _NO_TRANS, _TRANS = ctypes.c_int(101), ctypes.c_int(111), ctypes.c_int(112)
_SMALL = 1_000_000  # up to this m·k·n OpenBLAS multiplies without packing, if it has AVX-512,
_SMALL_RESULT = 1_200  # but no larger results than this if only the right operand is transposed
_AVX512_KERNELS = frozenset({"skylakex", "cooperlake", "sapphirerapids"})
_switching = threading.Lock()


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The OpenBLAS (64-bit integers) of NumPy's wheel, or None; nothing is loaded before this."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            try:
                found = ctypes.CDLL(str(path))
                for name in ("cblas_sgemm64_", "cblas_dgemm64_", "openblas_get_corename64_"):
                    found["scipy_" + name]
            except (OSError, AttributeError):  # another file of the folder, or another build
                continue
            return found
    return None


def _call(name: str, *args: Any, result: Any = None) -> Any:
    """Call `scipy_openblas_<name>64_`, which must exist; ctypes releases the interpreter lock."""
    function = library()[f"scipy_openblas_{name}64_"]  # type: ignore[index]
    function.restype = result
    return function(*args)


def get_threads() -> int | None:
    """The number of threads NumPy's BLAS uses in this process; None if it is not known."""
    return int(_call("get_num_threads", result=ctypes.c_int)) if library() else None


def set_threads(n: int) -> bool:
    """Let NumPy's BLAS use `n` threads in this whole process; False if it cannot be told.

    Raises: ArgumentError if n is not positive.
    """
    if n < 1:
        raise ArgumentError(f"set_threads: {n} threads", why="a call needs a thread", fix="n >= 1")
    if library():
        _call("set_num_threads", ctypes.c_int(n))
    return library() is not None


def kernels() -> str | None:
    """The processor whose kernels OpenBLAS chose, such as "Haswell" or "SkylakeX"; None without."""
    return _call("get_corename", result=ctypes.c_char_p).decode() if library() else None


def use_avx512() -> bool:
    """Make OpenBLAS use its AVX-512 kernels where it took an AVX-512 processor for an older one.

    OpenBLAS up to 0.3.34 takes AMD's Zen 5 for a Haswell and reaches half of its speed (model A of
    the benchmarks: 2,220 client-trainings/s a core against 3,570). Returns whether AVX-512 kernels
    are in use. No other thread may be inside BLAS; products change in the last bits, so processes
    that promise each other equal bits must all call this, or none.
    Source: OpenBLAS issue 6029 and `driver/others/dynamic.c`, whose detection is run once more.
    """
    blas = library()
    if blas is None or _has_avx512_kernels():
        return blas is not None
    simd = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    if not {"AVX512_SKX", "X86_V4"} & set(simd) or not hasattr(blas, "gotoblas_SKYLAKEX"):
        return False
    with _switching:
        before = os.environ.get("OPENBLAS_CORETYPE")  # only to put it back: it is the sole argument
        os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"  # that the detection takes
        try:
            blas.gotoblas_dynamic_quit()
            blas.gotoblas_dynamic_init()
        finally:
            del os.environ["OPENBLAS_CORETYPE"]
            if before is not None:
                os.environ["OPENBLAS_CORETYPE"] = before
    return _has_avx512_kernels()


def prepare(*, threads: int = 1) -> None:
    """Set NumPy's BLAS up for training: one thread a worker, and the kernels of this processor.

    Call it first in every process that trains; parallelism is over lanes, never within a product.
    """
    set_threads(threads)
    use_avx512()


@dataclass
class _Single:
    """How many ask for one thread, and the number to go back to: the library has one for all."""

    held: int = 0
    before: int = 1


_single = _Single()


@contextmanager
def one_thread() -> Iterator[None]:
    """One BLAS thread in this process for the time within: more would order sums otherwise.

    Where several threads are within, the number before comes back when the last one leaves.
    """
    with _switching:
        if not _single.held:
            _single.before = get_threads() or 1
            set_threads(1)
        _single.held += 1
    try:
        yield
    finally:
        with _switching:
            _single.held -= 1
            if not _single.held:
                set_threads(_single.before)


def _has_avx512_kernels() -> bool:
    return (kernels() or "").lower() in _AVX512_KERNELS


def rows_are_alike() -> bool:
    """Whether a row of a product has the same bits wherever it stands, among however many rows.

    Not by OpenBLAS's kernels for processors before AVX-512: those sum rows by twelves, the first
    six of them otherwise than the last, and what is left over by fours.
    """
    return _has_avx512_kernels()


def rows_together() -> int:
    """Among how many rows each has the same bits, in whichever place.

    16 are as fast as all at once where OpenBLAS does not pack (784×200: 105 GFLOP/s).
    """
    return 16 if rows_are_alike() else 8


def scalar(dtype: np.dtype[Any], value: float = 0.0) -> Scalar:
    """A factor of `dtype` that bound calls read when they run: set its `value` in between."""
    return _REAL[dtype][1](value)


def gemm(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, *, alpha: Factor = 1.0, beta: float = 0.0
) -> None:
    """Write alpha·a·b + beta·out into `out`; with beta = 0 the old content is not read.

    Shapes: a (..., m, k), b (..., k, n), out (..., m, n); the leading lane axes of a and b have the
    size of those of out, or 1. Each lane is a product by itself: its bits do not depend on how many
    lanes there are. One dtype, float32 or float64. One core axis of each array must have unit
    stride, the other any larger one, so transposes and slices need no copy.
    Raises: ShapeError, DtypeError, ArgumentError (strides, or `out` read-only or overlapping).

    >>> theta = np.ones((2, 3), np.float32)
    >>> x, g = np.ones((4, 2), np.float32), np.ones((4, 3), np.float32)
    >>> gemm(x.T, g, theta, alpha=-0.5, beta=1.0)
    >>> theta
    array([[-1., -1., -1.],
           [-1., -1., -1.]], dtype=float32)
    """
    bind_gemm(a, b, out, alpha=alpha, beta=beta)()


def bind_gemm(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, *, alpha: Factor = 1.0, beta: float = 0.0
) -> Callable[[], None]:
    """`gemm` on these very buffers, checked and prepared now, computed at each call of the result.

    The result keeps the arrays alive. An `alpha` made by `scalar` is read at each call. Same
    arguments, bits and errors as `gemm`.
    """
    _check(a, b, out)
    blas = library()
    if blas is None or 0 in out.shape or a.shape[-1] == 0:
        return functools.partial(_matmul, a, b, out, alpha, beta)
    calls = tuple(_calls(blas, a, b, out, alpha, beta))
    return functools.partial(_run, calls, (a, b, out))


def _run(calls: tuple[Callable[[], None], ...], _alive: tuple[np.ndarray, ...]) -> None:
    for call in calls:
        call()


def _matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray, alpha: Factor, beta: float) -> None:
    """The same by NumPy alone."""
    alpha = float(alpha.value if isinstance(alpha, ctypes.c_float | ctypes.c_double) else alpha)
    if (alpha, beta) == (1.0, 0.0):
        np.matmul(a, b, out=out)
        return
    dtype = out.dtype.type
    product = np.matmul(a, b) * dtype(alpha)
    out[...] = product if beta == 0 else product + out * dtype(beta)


def _calls(
    blas: ctypes.CDLL, a: np.ndarray, b: np.ndarray, out: np.ndarray, alpha: Factor, beta: float
) -> Iterator[Callable[[], None]]:
    """Bound calls of cblas_?gemm: one a lane, or one for each piece of it."""
    letter, real = _REAL[out.dtype]
    function = blas[f"scipy_cblas_{letter}gemm64_"]
    function.restype = None
    if _leading(out, "out")[0]:  # outᵀ = bᵀ aᵀ, so that only one storage order is left
        a, b, out = b.swapaxes(-1, -2), a.swapaxes(-1, -2), out.swapaxes(-1, -2)
    (m, k), n, size = a.shape[-2:], b.shape[-1], out.itemsize
    (a_t, lda), (b_t, ldb), (_, ldc) = _leading(a, "a"), _leading(b, "b"), _leading(out, "out")
    steps_a, steps_b = (
        ((size, size * lda) if a_t else (size * lda, size)),
        ((size, size * ldb) if b_t else (size * ldb, size)),
    )
    pieces = _pieces(m, k, n, a_t, b_t)
    lanes, starts = out.shape[:-2], [x.ctypes.data for x in (a, b, out)]
    steps = [
        np.broadcast_to(x, lanes + x.shape[-2:]).strides[:-2] if lanes else () for x in (a, b, out)
    ]
    for lane in np.ndindex(lanes):
        at_a, at_b, at_out = (
            start + sum(i * step for i, step in zip(lane, by, strict=True))
            for start, by in zip(starts, steps, strict=True)
        )
        for rows, inner, columns in pieces:
            yield functools.partial(
                function,
                _ROW_MAJOR,
                _TRANS if a_t else _NO_TRANS,
                _TRANS if b_t else _NO_TRANS,
                *(ctypes.c_int64(len(part)) for part in (rows, columns, inner)),
                alpha if isinstance(alpha, ctypes.c_float | ctypes.c_double) else real(alpha),
                ctypes.c_void_p(at_a + rows.start * steps_a[0] + inner.start * steps_a[1]),
                ctypes.c_int64(lda),
                ctypes.c_void_p(at_b + inner.start * steps_b[0] + columns.start * steps_b[1]),
                ctypes.c_int64(ldb),
                real(beta if inner.start == 0 else 1.0),
                ctypes.c_void_p(at_out + size * (rows.start * ldc + columns.start)),
                ctypes.c_int64(ldc),
            )


def _pieces(m: int, k: int, n: int, a_t: bool, b_t: bool) -> list[tuple[range, range, range]]:
    """The ranges of rows, of the inner axis and of columns that are multiplied in one call each.

    Up to `_SMALL` operations the AVX-512 kernels of OpenBLAS multiply without packing the operands,
    which costs as much as it gains where two of the sizes are small. So such a product is cut
    along its longest axis: 3920×160·160×64 82 -> 97 GFLOP/s, 20×784·784×200 126 -> 199,
    20×512·(3136×512)ᵀ 43 -> 92. Shorter pieces than are asked for here lose more than they gain.
    """
    lengths = [m, k, n]
    if m * k * n > _SMALL // 5 and min(m, n) > 1 and _has_avx512_kernels():
        axis = lengths.index(max(lengths))
        longest = _SMALL // (m * k * n // lengths[axis])
        least = 60
        if b_t and not a_t:  # these kernels take small results and long sums only
            axis = 0 if m > n else 2
            longest = min(_SMALL_RESULT // min(m, n), _SMALL // (k * min(m, n)))
            least = 16 if k >= 128 else max(m, n)
        elif axis == 2 or (a_t and b_t and axis == 0):
            least = 190
        if longest >= least and lengths[axis] > longest:
            longest -= longest % 16 if longest >= 48 else 0
            whole = [range(length) for length in lengths]
            cuts = []
            for start in range(0, lengths[axis], longest):
                whole[axis] = range(start, min(start + longest, lengths[axis]))
                cuts.append((whole[0], whole[1], whole[2]))
            return cuts
    return [(range(m), range(k), range(n))]


def add_scaled(out: np.ndarray, x: np.ndarray, factor: float) -> None:
    """Out += factor·x, of dense arrays of one shape, float32 or float64, in one pass over memory.

    Without the library in two, which round twice: bits are those of one machine.
    Raises: ShapeError, DtypeError, ArgumentError for arrays with gaps.
    """
    if out.shape != x.shape:
        raise ShapeError(f"add_scaled: {out.shape} and {x.shape}", why="they differ", fix="reshape")
    if out.dtype != x.dtype or out.dtype not in _REAL:
        raise DtypeError(
            f"add_scaled: {out.dtype} and {x.dtype}", why="both float32 or float64", fix="convert"
        )
    if not (out.flags.c_contiguous and x.flags.c_contiguous and out.flags.writeable):
        raise ArgumentError("add_scaled: arrays with gaps", why="memory is one run", fix="copy")
    blas = library()
    letter, real = _REAL[out.dtype]
    if blas is None or not hasattr(blas, f"scipy_cblas_{letter}axpy64_"):
        out += out.dtype.type(factor) * x
        return
    function = blas[f"scipy_cblas_{letter}axpy64_"]
    function.restype = None
    one, length = ctypes.c_int64(1), ctypes.c_int64(out.size)
    at = (ctypes.c_void_p(x.ctypes.data), one, ctypes.c_void_p(out.ctypes.data), one)
    function(length, real(factor), *at)


def _leading(x: np.ndarray, name: str) -> tuple[bool, int]:
    """Whether the core of `x` is stored transposed, and its leading dimension in elements."""
    (rows, columns), (down, right), size = x.shape[-2:], x.strides[-2:], x.itemsize
    if (right == size or columns == 1) and (rows == 1 or _fits(down, columns, size)):
        return False, down // size if rows > 1 else columns
    if (down == size or rows == 1) and (columns == 1 or _fits(right, rows, size)):
        return True, right // size if columns > 1 else rows
    raise ArgumentError(
        f"gemm: {name} has core shape {x.shape[-2:]} and strides {x.strides[-2:]} bytes",
        why="one core axis must have unit stride and the other must not overlap it",
        fix=f"copy it: np.ascontiguousarray({name})",
    )


def is_multipliable(x: np.ndarray) -> bool:
    """Whether `gemm` takes the core strides of `x` as they are."""
    (rows, columns), (down, right), size = x.shape[-2:], x.strides[-2:], x.itemsize
    return bool(
        ((right == size or columns == 1) and (rows == 1 or _fits(down, columns, size)))
        or ((down == size or rows == 1) and (columns == 1 or _fits(right, rows, size)))
    )


def multipliable(x: np.ndarray) -> np.ndarray:
    """`x`, or a copy of it if its strides keep `gemm` from reading it."""
    return x if is_multipliable(x) else np.ascontiguousarray(x)


def _fits(stride: int, length: int, size: int) -> bool:
    return stride >= length * size and stride % size == 0


def _check(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    arrays = {"a": a, "b": b, "out": out}
    if not a.dtype == b.dtype == out.dtype or out.dtype not in _REAL:
        found = ", ".join(f"{name} {x.dtype}" for name, x in arrays.items())
        raise DtypeError(f"gemm: {found}", why="all must be float32, or all float64", fix="convert")
    shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
    if min(a.ndim, b.ndim, out.ndim) < 2:
        raise ShapeError(f"gemm: {shapes}", why="each needs two core axes", fix="use x[:, None]")
    if a.shape[-1] != b.shape[-2] or out.shape[-2:] != (a.shape[-2], b.shape[-1]):
        raise ShapeError(f"gemm: {shapes}", why="expected (m, k), (k, n) and (m, n)", fix="reshape")
    lanes = out.shape[:-2]
    for x in (a, b):
        own = x.shape[:-2]
        if len(own) > len(lanes) or any(
            i not in (1, j) for i, j in zip(own[::-1], lanes[::-1], strict=False)
        ):
            raise ShapeError(
                f"gemm: {shapes}", why=f"lane axes must be those of out, {lanes}, or 1", fix="align"
            )
    for name, x in arrays.items():
        if x.size:
            _leading(x, name)
    repeats = any(step == 0 and n > 1 for step, n in zip(out.strides, out.shape, strict=True))
    if not out.flags.writeable or (repeats and out.size):
        raise ArgumentError("gemm: out cannot be written", why="read-only or broadcast", fix="copy")
    if any(np.may_share_memory(out, x) and np.shares_memory(out, x) for x in (a, b)):
        raise ArgumentError("gemm: out overlaps an operand", why="it is read", fix="use a new out")
