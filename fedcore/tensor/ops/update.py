"""theta + scale * gradient, where the gradient of a weight never is written down.

For plain SGD this removes two of the three passes over the parameters: each factored part x^T g is
added straight into its slice of theta by an accumulating product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from fedcore.tensor import blas
from fedcore.tensor.cotangent import Cotangent, Outer, Pieces, as_array
from fedcore.tensor.ops.flat import leaf
from fedcore.tensor.ops.linalg import matmul
from fedcore.tensor.ops.reduce import sum as sum_
from fedcore.tensor.primitive import Core, Shape, bind, primitive
from fedcore.tensor.scratch import empty
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["add_scaled"]

Layout = tuple[tuple[int, tuple[int, ...], int], ...]  # offset, shape, pairs (0: an array)


def add_scaled(theta: Tensor, gradient: Cotangent, scale: Any) -> Tensor:
    """The sum theta + scale * gradient for a flat theta (D,) and a gradient that may be factored.

    The step of SGD is `add_scaled(theta, gradient, -lr)`.
    """
    if not isinstance(gradient, Pieces) or not gradient.disjoint:
        step: Tensor = as_array(gradient) * scale
        return theta + step
    operands: list[Tensor] = []
    layout = []
    for offset, shape in sorted(gradient.parts):
        part = gradient.parts[offset, shape]
        if isinstance(part, Outer):
            operands += [x for pair in part.pairs for x in pair]
            layout.append((offset, shape, len(part.pairs)))
        else:
            operands.append(as_array(part))
            layout.append((offset, shape, 0))
    factor = scale if isinstance(scale, Tensor) else Tensor(_like(theta, scale))
    return bind(add_scaled_primitive, (theta, factor, *operands), {"layout": tuple(layout)})


def _like(theta: Tensor, scale: Any) -> Any:
    return theta.backend.asarray(tensor(scale).data, dtype=theta.dtype)


def _joint_vjp(
    g: Tensor,
    y: Tensor,
    theta: Tensor,
    scale: Tensor,
    *operands: Tensor,
    needed: tuple[bool, ...],
    layout: Layout,
) -> list[Tensor | None]:
    factors: list[Tensor | None] = []
    slope: Tensor | None = None
    rest = iter(operands)
    for offset, shape, pairs in layout:
        part = leaf(g, offset=offset, shape=shape)
        for _ in range(max(pairs, 1)):
            x = next(rest)
            if pairs:
                h = next(rest)
                moved = matmul(x, part)
                factors += [matmul(h, part.mT) * scale, moved * scale]
                term = sum_(moved * h)
            else:
                factors.append(part * scale)
                term = sum_(part * x)
            slope = term if slope is None else slope + term
    return [f if want else None for f, want in zip([g, slope, *factors], needed, strict=True)]


@primitive(
    batch=Core(1, 0),
    shape=lambda theta, *shapes, layout: theta,
    joint_vjp=_joint_vjp,
    inplace=1,
    public=False,
    name="add_scaled",
)
def add_scaled_primitive(
    xp: Any, theta: Any, scale: Any, *operands: Any, layout: Layout, out: Any = None
) -> Any:
    """Theta with scale times each part added at its offset."""
    lanes = np.broadcast_shapes(theta.shape[:-1], scale.shape, *_lane_shapes(operands, layout))
    if out is None:
        out = xp.empty((*lanes, theta.shape[-1]), dtype=theta.dtype)
    run = _prepare(xp, theta, scale, *operands, layout=layout, out=out) if xp is np else None
    if run is not None:
        run()
        return out
    if out is not theta:
        xp.copyto(out, theta)
    for target, x, h in _targets(out, operands, layout):
        core = target.ndim - scale.ndim
        part = x if h is None else xp.matmul(x.swapaxes(-1, -2), h)
        target += part * scale.reshape(scale.shape + (1,) * core)
    return out


@add_scaled_primitive.prepared("numpy")
def _prepare(
    xp: Any, theta: Any, scale: Any, *operands: Any, layout: Layout, out: Any
) -> Callable[[], Any] | None:
    """The copies and accumulating products on fixed buffers; the scales are read at each call.

    Lanes with scales of their own are multiplied one by one, as one lane alone is: to scale a
    product before it is added rounds once more than BLAS does.
    """
    if not all(
        blas.is_multipliable(x) and blas.is_multipliable(h)
        for _, x, h in _targets(out, operands, layout)
        if h is not None
    ):
        return None
    steps: list[Callable[[], Any]] = []
    if out is not theta:
        steps.append(partial(np.copyto, out, theta))
    alphas = [blas.scalar(theta.dtype) for _ in range(scale.size)]
    for target, x, h in _targets(out, operands, layout):
        core = target.ndim - out.ndim + 1
        if h is None:
            each = scale.reshape(scale.shape + (1,) * core)
            scaled = empty(np, np.broadcast_shapes(x.shape, each.shape), theta.dtype)
            steps.append(partial(np.multiply, x, each, scaled))
            steps.append(partial(np.add, target, scaled, target))
        else:
            sharing = _sharing(scale, x.swapaxes(-1, -2), h, target)
            for matrices, alpha in zip(sharing, alphas, strict=True):
                steps.append(blas.bind_gemm(*matrices, alpha=alpha, beta=1.0))
    return partial(_run, steps, alphas, scale)


def _sharing(scale: Any, *matrices: Any) -> Iterator[list[Any]]:
    """The lanes of matrices that share one scale, for each of the scales."""
    lanes = max(a.ndim for a in matrices) - 2
    shape = (1,) * (lanes - scale.ndim) + scale.shape
    whole = [a.reshape((1,) * (lanes + 2 - a.ndim) + a.shape) for a in matrices]
    for index in np.ndindex(shape):
        yield [a[_meeting(index, shape, a.shape[:lanes])] for a in whole]


def _meeting(index: Shape, shape: Shape, lanes: Shape) -> tuple[slice, ...]:
    """Of an array with these `lanes`, those that meet one place in `shape`."""
    sizes = zip(index, shape, lanes, strict=True)
    return tuple(slice(i, i + 1) if n == m else slice(None) for i, n, m in sizes)


def _run(steps: list[Callable[[], Any]], alphas: list[blas.Scalar], scale: Any) -> None:
    for alpha, value in zip(alphas, scale.ravel().tolist(), strict=True):
        alpha.value = value
    for step in steps:
        step()


def _lane_shapes(operands: tuple[Any, ...], layout: Layout) -> Iterator[tuple[int, ...]]:
    rest = iter(operands)
    for _, shape, pairs in layout:
        for _ in range(max(2 * pairs, 1)):
            x = next(rest)
            yield x.shape[: x.ndim - (2 if pairs else len(shape))]


def _targets(
    out: Any, operands: tuple[Any, ...], layout: Layout
) -> Iterator[tuple[Any, Any, Any | None]]:
    """For each product or array: the slice of `out` it is added to, and its one or two factors."""
    rest = iter(operands)
    for offset, shape, pairs in layout:
        target = out[..., offset : offset + math.prod(shape)].reshape(*out.shape[:-1], *shape)
        for _ in range(max(pairs, 1)):
            x = next(rest)
            yield target, x, (next(rest) if pairs else None)
