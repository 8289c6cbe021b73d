"""The three products of a convolution as steps on fixed buffers, for eager calls and replays alike.

Each is linear in both operands. Lanes are worked on in blocks whose columns fit the cache; the
products of a lane are the same whatever the number of lanes. Lanes of one image each that share
one kernel, as per-example gradients have them, are read as batches of a fixed number of images.
Here images are (*lanes, N, H, W, C) and kernels (*lanes, KH, KW, C, F), with a lane axis or more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fedcore.tensor import blas
from fedcore.tensor.ops.columns import BLOCK_BYTES, Columns, Geometry, Product, Step, matrix, pixels
from fedcore.tensor.scratch import empty
from fedcore.tensor.transposing import bind_copy

__all__ = ["convolve", "input_gradient", "weight_gradient"]

Array = np.ndarray[Any, Any]
Lanes = tuple[int, ...]
Block = tuple[slice, ...]

THIN_RESULT = 8  # features up to which products of columns are faster by columns: 74 -> 25 + 12 µs
IMAGES = 8  # lanes of one image that are read as a batch: always as many, so that no bit changes
THIN = 31  # features up to which this is so of products with a kernel transposed: 60 -> 33 + 5 µs


def convolve(x: Array, w: Array, out: Array, geometry: Geometry) -> list[Step]:
    """The steps that write into `out` the images x correlated with the kernels w."""
    shared = _share_a_kernel(x, w)
    if shared and x.shape[-5] < IMAGES:
        return _filled_up(convolve, x, w, out, geometry)
    steps: list[Step] = []
    kernel = _readable(w, steps)
    lanes, rows, down = x.shape[:-4], geometry.block_rows, geometry.result[0]
    size, blocks = _blocks(lanes, geometry, shared=shared)
    if shared:
        size, geometry = _as_batch(size, geometry)
        rows = geometry.block_rows
    columns = Columns(geometry, size, x.dtype, rows=rows)
    by_columns = geometry.first and out.shape[-1] <= THIN_RESULT
    scratch: Array | None = None
    for block in blocks:
        pad, images = columns.images(_turned(x[block], shared))
        steps += pad
        whole = pixels(_turned(_of(out, block, lanes), shared))
        if by_columns and scratch is None:
            scratch = _by_columns(whole[..., :rows, :, :, :])
        for first in range(0, down, rows):
            count = min(rows, down - first)
            steps += columns.fill(images, first=first, rows=count)
            target = whole[..., first : first + count, :, :, :]
            if scratch is None:
                to, last = _writable(target)
            else:
                dense = scratch[..., :count, :, :, :]
                to, last = _matrix(dense), [bind_copy(dense, target)]
            beta = 0.0
            for product, part in columns.products(columns.arrays, rows=count):
                taps = _of(kernel, block, lanes)[..., _taps(product, geometry), :]
                steps.append(blas.bind_gemm(part, taps, to, beta=beta))
                beta = 1.0
            steps += last
    return steps


def input_gradient(g: Array, w: Array, out: Array, geometry: Geometry) -> list[Step]:
    """The steps that write into `out` the cotangent of the images, given g, that of the result."""
    shared = _share_a_kernel(g, w)
    if shared and g.shape[-5] < IMAGES:
        return _filled_up(input_gradient, g, w, out, geometry)
    steps: list[Step] = []
    kernel = _readable(w, steps)
    lanes = out.shape[:-4]
    size, blocks = _blocks(lanes, geometry, shared=shared)
    if shared:
        size, geometry = _as_batch(size, geometry)
    columns = Columns(geometry, size, out.dtype)
    by_columns = geometry.first and g.shape[-1] <= THIN
    dense: Array | None = None
    for block in blocks:
        steps += [partial(rest.fill, 0) for rest in columns.rows_before_and_after() if rest.size]
        own = pixels(_turned(_of(g, block, lanes), shared))
        if by_columns:
            dense = _by_columns(own) if dense is None else dense
            steps.append(bind_copy(own, dense))
            a = _matrix(dense)
        else:
            a = _readable(own, steps)
        for product, part in columns.products(columns.arrays):
            taps = _of(kernel, block, lanes)[..., _taps(product, geometry), :]
            beta = 0.0 if product.opens else 1.0
            steps.append(blas.bind_gemm(a, taps.swapaxes(-1, -2), part, beta=beta))
        steps += columns.add_up(_turned(out[block], shared))
    return steps


def weight_gradient(x: Array, g: Array, out: Array, geometry: Geometry) -> list[Step]:
    """The steps that write into `out` the cotangent of the kernels, given g, that of the result."""
    steps: list[Step] = []
    values = _readable(pixels(g), steps)
    result, last = _writable(out)
    lanes = x.shape[:-4]
    size, blocks = _blocks(lanes, geometry)
    rows, down = geometry.block_rows, geometry.result[0]
    pixels_of_row = geometry.result[1] * geometry.batch
    one_image_a_lane = geometry.batch == 1 and size[-1] > 1
    if one_image_a_lane:  # the columns of a batch are made by longer runs
        size, geometry, rows = (*size[:-1], 1), replace(geometry, batch=size[-1]), down
    columns = Columns(geometry, size, x.dtype, rows=rows)
    turn, arrays = columns.with_images_as_lanes() if one_image_a_lane else ([], columns.arrays)
    for block in blocks:
        own = x[block]
        pad, images = columns.images(own.swapaxes(-5, -4) if one_image_a_lane else own)
        steps += pad
        b, to = _of(values, block, lanes), _of(result, block, lanes)
        for first in range(0, down, rows):
            count = min(rows, down - first)
            steps += columns.fill(images, first=first, rows=count)
            steps += turn
            part_of_b = b[..., first * pixels_of_row : (first + count) * pixels_of_row, :]
            for product, part in columns.products(arrays, rows=count):
                taps = to[..., _taps(product, geometry), :]
                beta = 0.0 if first == 0 else 1.0
                steps.append(blas.bind_gemm(part.swapaxes(-1, -2), part_of_b, taps, beta=beta))
    return steps + last


def _share_a_kernel(x: Array, w: Array) -> bool:
    """Whether the lanes of the last level, one image each and with one kernel, become a batch."""
    alone = x.shape[-4] == 1 and x.shape[-5] > 1 and w.shape[-5] == 1
    return bool(alone and blas.rows_are_alike())


def _as_batch(size: Lanes, geometry: Geometry) -> tuple[Lanes, Geometry]:
    """The lanes of a block as the images of one lane."""
    return (*size[:-1], 1), replace(geometry, batch=size[-1])


def _turned(images: Array, shared: bool) -> Array:
    return images.swapaxes(-5, -4) if shared else images


def _filled_up(
    product: Callable[[Array, Array, Array, Geometry], list[Step]],
    a: Array,
    w: Array,
    out: Array,
    geometry: Geometry,
) -> list[Step]:
    """`product` of as many images as are always worked on together: zeros stand for the others."""
    count = a.shape[-5]
    wide, result = (np.zeros((*x.shape[:-5], IMAGES, *x.shape[-4:]), x.dtype) for x in (a, out))
    return [
        partial(np.copyto, wide[..., :count, :, :, :, :], a),
        *product(wide, w, result, geometry),
        partial(np.copyto, out, result[..., :count, :, :, :, :]),
    ]


def _taps(product: Product, geometry: Geometry) -> slice:
    """The rows of the kernel as a matrix (KH·KW·C, F) that enter a product."""
    width = geometry.kernel[1] * geometry.channels
    return slice(product.first * width, product.last * width)


# ---- arrays as matrices (*lanes, R, K): all but the last of the core axes are the rows


def _readable(a: Array, steps: list[Step]) -> Array:
    """`a` as a matrix that products can read; where it needs a copy, a step makes it."""
    found = _as_matrix(a)
    if found is not None:
        return found
    dense = empty(np, a.shape, a.dtype)
    steps.append(bind_copy(a, dense))
    return _matrix(dense)


def _writable(out: Array) -> tuple[Array, list[Step]]:
    """A matrix for the values of `out`, and the steps that bring them there if it is not `out`."""
    found = _as_matrix(out)
    if found is not None:
        return found, []
    dense = empty(np, out.shape, out.dtype)
    return _matrix(dense), [bind_copy(dense, out)]


def _by_columns(a: Array) -> Array:
    """Memory like `a`, but with its last axis before the other core axes."""
    shape = (*a.shape[:-4], a.shape[-1], *a.shape[-4:-1])
    return np.moveaxis(empty(np, shape, a.dtype), -4, -1)


def _matrix(a: Array) -> Array:
    return matrix(a, a.ndim - 4, 3)


def _as_matrix(a: Array) -> Array | None:
    try:
        found = _matrix(a)
    except ValueError:  # NumPy's answer where the axes do not merge
        return None
    return found if blas.is_multipliable(found) else None


# ---- blocks of lanes


def _blocks(lanes: Lanes, geometry: Geometry, *, shared: bool = False) -> tuple[Lanes, list[Block]]:
    """The lanes of one block, and the blocks: all of one size, so that the last may overlap."""
    *outer, last = lanes
    size = IMAGES if shared else max(1, min(last, 2 * BLOCK_BYTES // max(1, geometry.column_bytes)))
    starts = [min(start, last - size) for start in range(0, last, size)]
    blocks = [
        (*[slice(i, i + 1) for i in index], slice(start, start + size))
        for index in np.ndindex(*outer)
        for start in starts
    ]
    return (*(1,) * len(outer), size), blocks


def _of(a: Array, block: Block, lanes: Lanes) -> Array:
    """The lanes of `a` that meet a block of an array of `lanes`; an axis of size 1 meets all."""
    chosen = zip(a.shape, lanes, block, strict=False)
    return a[tuple(slice(None) if 1 in (n, m) else part for n, m, part in chosen)]
