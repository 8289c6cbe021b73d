"""Convolution as three primitives, each linear in both operands and each the others' derivative.

So second derivatives need no further rule. Groups are lanes: a group has its own channels and its
own kernel, as a client has its own images and parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedcore.errors import DtypeError, ShapeError
from fedcore.tensor.ops import conv_by_patches
from fedcore.tensor.ops.columns import Geometry, Step, new_images
from fedcore.tensor.ops.conv_by_patches import as_lanes
from fedcore.tensor.ops.conv_kernels import convolve, input_gradient, weight_gradient
from fedcore.tensor.ops.windows import Border, Pair, places
from fedcore.tensor.primitive import Core, Shape, primitive

__all__ = ["conv2d_input_gradient", "conv2d_primitive", "conv2d_weight_gradient"]

Array = np.ndarray[Any, Any]


def _result_shape(
    x: Shape, w: Shape, *, stride: Pair, padding: Border, dilation: Pair, groups: int
) -> Shape:
    if x[3] != w[2] * groups or w[3] % groups:
        raise ShapeError(
            f"conv2d: images {x} meet a kernel {w} in {groups} groups; expected a kernel "
            f"(KH, KW, {x[3] // groups}, F) with F a multiple of {groups}",
            why="each group of channels has its own part of the kernel",
            fix="compare the channels of the images with the layer before",
        )
    down, across = places(
        "conv2d", x, (w[0], w[1]), stride=stride, dilation=dilation, border=padding
    )
    return x[0], down, across, w[3]


def _cost(result: Shape, kernel: Shape) -> int:
    """Two operations for each tap of each value of the result."""
    return 2 * math.prod(result) * math.prod(kernel[:3])


# ---- what the kernels of NumPy need


def _new(x: Array, w: Array, core: Shape) -> Array:
    """Memory for images of every lane of x and w; lanes of one image are laid out as a batch."""
    lanes = np.broadcast_shapes(x.shape[:-4], w.shape[:-4])
    if lanes and core[0] == 1 and math.prod(w.shape[:-4]) == 1:
        batch = (lanes[-1], *core[1:])
        return new_images((*lanes[:-1], 1), batch, x.dtype).swapaxes(-5, -4)
    return new_images(lanes, core, x.dtype)


def _run(steps: list[Step]) -> None:
    for step in steps:
        step()


def _check(*arrays: Array) -> None:
    dtypes = {a.dtype for a in arrays}
    if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        raise DtypeError(
            "the operands are of " + ", ".join(sorted(str(d) for d in dtypes)),
            why="a convolution multiplies float32, or float64",
            fix="convert them to float32",
        )


# ---- the primitives


@primitive(
    batch=Core(4, 4),
    shape=_result_shape,
    cost=lambda x, w, **params: _cost(_result_shape(x, w, **params), w),
    onnx="Conv",
    public=False,
    name="conv2d",
    vjps=(
        lambda g, y, x, w, **params: conv2d_input_gradient(g, w, size=x.shape[1:3], **params),
        lambda g, y, x, w, **params: conv2d_weight_gradient(x, g, kernel=w.shape[:2], **params),
    ),
)
def conv2d_primitive(
    xp: Any,
    x: Array,
    w: Array,
    *,
    stride: Pair,
    padding: Border,
    dilation: Pair,
    groups: int,
    out: Any = None,
) -> Any:
    """Images (N, H, W, C) correlated with a kernel (KH, KW, C / groups, F): (N, Ho, Wo, F)."""
    params: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    if out is None:
        core = _result_shape(x.shape[-4:], w.shape[-4:], groups=groups, **params)
        out = _new(x, w, core)
    _prepare_conv2d(xp, x, w, out=out, groups=groups, **params)()
    return out


@conv2d_primitive.prepared("numpy")
def _prepare_conv2d(
    xp: Any, x: Array, w: Array, *, out: Array, groups: int, **params: Any
) -> Callable[[], None]:
    _check(x, w)
    x, w, out = as_lanes(x, groups), as_lanes(w, groups), as_lanes(out, groups)
    geometry = Geometry(
        batch=x.shape[-4],
        size=x.shape[-3:-1],
        channels=x.shape[-1],
        kernel=w.shape[-4:-2],
        **params,
    )
    return partial(_run, convolve(x, w, out, geometry))


@primitive(
    batch=Core(4, 4),
    shape=lambda g, w, *, size, groups, **params: (g[0], *size, w[2] * groups),
    cost=lambda g, w, **params: _cost(g, w),
    public=False,
    vjps=(
        lambda h, y, g, w, *, size, **params: conv2d_primitive(h, w, **params),
        lambda h, y, g, w, *, size, **params: conv2d_weight_gradient(
            h, g, kernel=w.shape[:2], **params
        ),
    ),
)
def conv2d_input_gradient(
    xp: Any,
    g: Array,
    w: Array,
    *,
    size: Pair,
    stride: Pair,
    padding: Border,
    dilation: Pair,
    groups: int,
    out: Any = None,
) -> Any:
    """The cotangent of images of `size`, given g (N, Ho, Wo, F) of their convolution with w."""
    params: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    if out is None:
        out = _new(g, w, (g.shape[-4], *size, w.shape[-2] * groups))
    _prepare_input_gradient(xp, g, w, out=out, size=size, groups=groups, **params)()
    return out


@conv2d_input_gradient.prepared("numpy")
def _prepare_input_gradient(
    xp: Any, g: Array, w: Array, *, out: Array, size: Pair, groups: int, **params: Any
) -> Callable[[], None]:
    _check(g, w)
    g, w, out = as_lanes(g, groups), as_lanes(w, groups), as_lanes(out, groups)
    geometry = Geometry(
        batch=g.shape[-4], size=size, channels=w.shape[-2], kernel=w.shape[-4:-2], **params
    )
    return partial(_run, input_gradient(g, w, out, geometry))


@primitive(
    batch=Core(4, 4),
    shape=lambda x, g, *, kernel, groups, **params: (*kernel, x[3] // groups, g[3]),
    cost=lambda x, g, *, kernel, groups, **params: _cost(g, (*kernel, x[3] // groups, g[3])),
    public=False,
    vjps=(
        lambda h, y, x, g, *, kernel, **params: conv2d_input_gradient(
            g, h, size=x.shape[1:3], **params
        ),
        lambda h, y, x, g, *, kernel, **params: conv2d_primitive(x, h, **params),
    ),
)
def conv2d_weight_gradient(
    xp: Any,
    x: Array,
    g: Array,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Border,
    dilation: Pair,
    groups: int,
    out: Any = None,
) -> Any:
    """The cotangent of a kernel (KH, KW), given g (N, Ho, Wo, F) of its convolution with x."""
    params: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    if out is None:
        lanes = np.broadcast_shapes(x.shape[:-4], g.shape[:-4])
        out = np.empty((*lanes, *kernel, x.shape[-1] // groups, g.shape[-1]), x.dtype)
    _prepare_weight_gradient(xp, x, g, out=out, kernel=kernel, groups=groups, **params)()
    return out


@conv2d_weight_gradient.prepared("numpy")
def _prepare_weight_gradient(
    xp: Any, x: Array, g: Array, *, out: Array, kernel: Pair, groups: int, **params: Any
) -> Callable[[], None]:
    _check(x, g)
    x, g, out = as_lanes(x, groups), as_lanes(g, groups), as_lanes(out, groups)
    geometry = Geometry(
        batch=x.shape[-4], size=x.shape[-3:-1], channels=x.shape[-1], kernel=kernel, **params
    )
    return partial(_run, weight_gradient(x, g, out, geometry))


for _primitive, _by_patches in (
    (conv2d_primitive, conv_by_patches.convolve),
    (conv2d_input_gradient, conv_by_patches.input_gradient),
    (conv2d_weight_gradient, conv_by_patches.weight_gradient),
):
    _primitive.on("cupy")(_by_patches)
