"""Pooling as steps on fixed buffers: along the height, then along the width.

Both directions are the same work on another axis, so a window of K·K costs 2 K passes, of which the
second half is over the smaller array. The height comes first because whole image rows lie together
in memory: its passes, the larger ones, are over long runs (28×28×8, 20 images: 27 µs a pass along
the width, 12 along the height). So among equal values the first wins in the order of the columns:
that of the least column, and there of the least row. Windows may overlap, or leave elements out.
The arrays are images (..., N, H, W, C) of any strides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fedcore.tensor import scratch
from fedcore.tensor.ops.windows import Pair, slid

__all__ = ["Step", "gather", "images_like", "pool", "route", "run", "spread"]

Step = Callable[[], Any]

HEIGHT, WIDTH = -3, -2


def run(steps: list[Step]) -> None:
    """Make the steps one after another."""
    for step in steps:
        step()


def images_like(xp: Any, x: Any, core: tuple[int, ...]) -> Any:
    """Memory for images of shape `core`, in the lanes of x and with its order of axes."""
    return _laid_out(x, core, partial(xp.empty, dtype=x.dtype))


def _scratch_like(xp: Any, x: Any, core: tuple[int, ...], dtype: Any = None) -> Any:
    """The same for what is written and read in one run."""
    return _laid_out(x, core, lambda shape: scratch.empty(xp, shape, dtype or x.dtype))


def _laid_out(x: Any, core: tuple[int, ...], new: Callable[[tuple[int, ...]], Any]) -> Any:
    shape = (*x.shape[: x.ndim - 4], *core)
    order = sorted(range(x.ndim), key=lambda a: -abs(x.strides[a]))
    return new(tuple(shape[a] for a in order)).transpose([order.index(a) for a in range(x.ndim)])


def pool(xp: Any, reduce: Any, x: Any, out: Any, *, window: Pair, stride: Pair) -> list[Step]:
    """The steps that write into `out` each window of x, reduced by a ufunc of two operands."""
    low = _scratch_like(xp, x, (x.shape[-4], out.shape[-3], x.shape[-2], x.shape[-1]))
    return [
        *_reduce(xp, reduce, x, low, HEIGHT, window[0], stride[0]),
        *_reduce(xp, reduce, low, out, WIDTH, window[1], stride[1]),
    ]


def _reduce(
    xp: Any, reduce: Any, x: Any, out: Any, axis: int, window: int, stride: int
) -> list[Step]:
    first, *rest = _taps(x, axis, window, stride)
    if not rest:
        return [partial(xp.copyto, out, first)]
    steps: list[Step] = [partial(reduce, first, rest[0], out=out)]
    return steps + [partial(reduce, out, tap, out=out) for tap in rest[1:]]


def _taps(x: Any, axis: int, window: int, stride: int) -> list[Any]:
    """For each position in the window, its elements of all windows."""
    count = slid(x.shape[axis], window, stride=stride)
    behind = (slice(None),) * (-1 - axis)
    return [
        x[(..., slice(k, k + (count - 1) * stride + 1, stride), *behind)] for k in range(window)
    ]


def _maxima(xp: Any, x: Any, window: Pair, stride: Pair) -> tuple[list[Step], Any, Any]:
    """The maxima of x along the height, and of these along the width if the routing needs them."""
    down, across = (slid(x.shape[a], window[a + 3], stride=stride[a + 3]) for a in (HEIGHT, WIDTH))
    n, _, w, c = x.shape[-4:]
    low = _scratch_like(xp, x, (n, down, w, c))
    steps = _reduce(xp, xp.maximum, x, low, HEIGHT, window[0], stride[0])
    if window[1] < 3:
        return steps, low, None
    top = _scratch_like(xp, x, (n, down, across, c))
    return steps + _reduce(xp, xp.maximum, low, top, WIDTH, window[1], stride[1]), low, top


# ---- the derivative: values go to the winners


def route(xp: Any, g: Any, x: Any, out: Any, *, window: Pair, stride: Pair) -> list[Step]:
    """The steps that write into `out` each value of g at the maximum of its window of x."""
    steps, low, top = _maxima(xp, x, window, stride)
    middle = _scratch_like(xp, out, (*low.shape[-4:],))
    steps += _route(xp, g, low, middle, top, WIDTH, window[1], stride[1])
    return steps + _route(xp, middle, x, out, low, HEIGHT, window[0], stride[0])


def _route(
    xp: Any, g: Any, x: Any, out: Any, top: Any, axis: int, window: int, stride: int
) -> list[Step]:
    """One axis of `route`; what a tap does not take is left for the later ones."""
    steps: list[Step] = []
    sources, targets = (_taps(a, axis, window, stride) for a in (x, out))
    if stride != window or x.shape[axis] % window:
        steps.append(partial(out.fill, 0))
    adds = stride < window
    core = g.shape[-4:]
    taken = _scratch_like(xp, out, core) if adds else None
    rest = _scratch_like(xp, out, core) if adds or window > 2 else None
    hit = _scratch_like(xp, x, core, bool)
    left = g
    for k, (source, target) in enumerate(zip(sources[:-1], targets[:-1], strict=True)):
        last = k == window - 2
        if last:
            steps.append(partial(xp.greater_equal, source, sources[-1], hit))
        else:
            steps.append(partial(xp.equal, source, top, hit))
        share = taken if adds else target
        after = targets[-1] if last and not adds else rest
        steps.append(partial(xp.multiply, left, hit, share))
        steps.append(partial(xp.subtract, left, share, after))
        if adds:
            steps.append(partial(xp.add, target, share, target))
        left = after
    if adds:
        steps.append(partial(xp.add, targets[-1], left, targets[-1]))
    elif window == 1:
        steps.append(partial(xp.copyto, targets[0], g))
    return steps


def gather(xp: Any, h: Any, x: Any, out: Any, *, window: Pair, stride: Pair) -> list[Step]:
    """The steps that write into `out` the value of h at the maximum of each window of x."""
    steps, low, top = _maxima(xp, x, window, stride)
    middle = _scratch_like(xp, out, (*low.shape[-4:],))
    steps += _gather(xp, h, x, middle, low, HEIGHT, window[0], stride[0])
    return steps + _gather(xp, middle, low, out, top, WIDTH, window[1], stride[1])


def _gather(
    xp: Any, h: Any, x: Any, out: Any, top: Any, axis: int, window: int, stride: int
) -> list[Step]:
    """One axis of `gather`, from the last tap to the first, so that the first winner stays."""
    sources, values = (_taps(a, axis, window, stride) for a in (x, h))
    hit = _scratch_like(xp, x, out.shape[-4:], bool)
    steps: list[Step] = [partial(xp.copyto, out, values[-1])]
    for k in range(window - 2, -1, -1):
        if k == window - 2:
            steps.append(partial(xp.greater_equal, sources[k], sources[-1], hit))
        else:
            steps.append(partial(xp.equal, sources[k], top, hit))
        steps.append(partial(xp.copyto, out, values[k], where=hit))
    return steps


# ---- the transpose of summing


def spread(xp: Any, g: Any, out: Any, *, window: Pair, stride: Pair) -> list[Step]:
    """The steps that add each value of g to all elements of its window of `out`."""
    n, down, _, c = g.shape[-4:]
    middle = _scratch_like(xp, out, (n, down, out.shape[-2], c))
    return [
        *_spread(xp, g, middle, WIDTH, window[1], stride[1]),
        *_spread(xp, middle, out, HEIGHT, window[0], stride[0]),
    ]


def _spread(xp: Any, g: Any, out: Any, axis: int, window: int, stride: int) -> list[Step]:
    targets = _taps(out, axis, window, stride)
    if stride == window and out.shape[axis] % window == 0:
        return [partial(xp.copyto, target, g) for target in targets]
    return [partial(out.fill, 0), *[partial(xp.add, t, g, t) for t in targets]]
