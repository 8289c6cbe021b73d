"""Columns: the windows of a batch of images as rows of a matrix, expanded along the width only.

Each row of the kernel then is one product, accumulated, whose operand is a range of the columns'
rows: a kernel of height K needs a K-th of the memory of the usual im2col (model C's second layer:
6 µs against 17 for the copy, and the products are as fast). With a stride, the image rows are cut
into as many phases. The columns of images with few channels lie in memory before the pixels, so
that each copy is a long run of pixels; very few channels take all kernel rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fedcore.tensor.ops.windows import Border, Pair, slid
from fedcore.tensor.scratch import empty
from fedcore.tensor.transposing import bind_copy

__all__ = [
    "BLOCK_BYTES",
    "Columns",
    "Geometry",
    "Product",
    "Step",
    "matrix",
    "new_images",
    "pixels",
]

Array = np.ndarray[Any, Any]
Step = Callable[[], Any]

FEW = 32  # channels; from here on rows of columns are copied as runs of KW·C values
BLOCK_BYTES = 1 << 18  # columns worked on at once: a quarter of a 1 MB second-level cache
MERGED = 16  # KW·C below which one product takes all kernel rows: it would be too thin otherwise


def pixels(x: Array) -> Array:
    """Images (..., N, H, W, C) seen as (..., H, W, N, C), their order in memory."""
    return np.moveaxis(x, -4, -2)


def new_images(lanes: tuple[int, ...], core: tuple[int, ...], dtype: Any) -> Array:
    """Memory for images (*lanes, N, H, W, C), pixel by pixel: (H, W, N, C).

    A row of a result then is a row of a matrix product, and pooling works on runs of N·C values.
    """
    n, h, w, c = core
    return np.moveaxis(np.empty((*lanes, h, w, n, c), dtype=dtype), -2, -4)


@dataclass(frozen=True, slots=True)
class Product:
    """The kernel rows [first, last) and the row of the columns at which their images begin."""

    first: int
    last: int
    start: int
    opens: bool  # whether it is the first of its columns


@dataclass(frozen=True, slots=True)
class Slab:
    """Columns of the padded image rows `row`, `row` + stride, ..., and the products they enter."""

    row: int
    rows: int
    depth: int  # kernel rows inside the columns: all of them, or 1
    products: tuple[Product, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """One convolution: `batch` images of `size` and `channels`, and how the kernel moves."""

    batch: int
    size: Pair
    channels: int
    kernel: Pair
    stride: Pair
    padding: Border
    dilation: Pair

    @property
    def result(self) -> Pair:
        """The height and width of the result."""
        down, across = (
            slid(n, k, stride=s, dilation=d, border=b)
            for n, k, s, d, b in zip(
                self.size, self.kernel, self.stride, self.dilation, self.padding, strict=True
            )
        )
        return down, across

    @property
    def padded(self) -> Pair:
        """The height and width of the images with their borders."""
        (h, w), (rows, columns) = self.size, self.padding
        return h + sum(rows), w + sum(columns)

    @property
    def first(self) -> bool:
        """Whether the columns lie before the pixels."""
        return self.channels < FEW

    @property
    def merged(self) -> bool:
        """Whether the columns hold all kernel rows, so that one product takes them."""
        return self.first and self.kernel[1] * self.channels < MERGED

    @property
    def column_bytes(self) -> int:
        """An estimate of the memory of the columns, for four bytes a number."""
        return self._row_bytes * (self.result[0] + self._reach)

    @property
    def block_rows(self) -> int:
        """How many rows of the result are worked on at once: all that the cache holds.

        Blocks whose columns overlap by more than a third are not worth it: then it is all rows.
        """
        down = self.result[0]
        fitting = BLOCK_BYTES // max(1, self._row_bytes) - self._reach
        if fitting >= down or fitting < max(1, 3 * self._reach):
            return down
        return -(-down // -(-down // fitting))

    @property
    def _row_bytes(self) -> int:
        """The columns of one row of the result."""
        depth = self.kernel[0] if self.merged else 1
        return 4 * self.batch * self.result[1] * depth * self.kernel[1] * self.channels

    @property
    def _reach(self) -> int:
        """How many more rows the columns have than the result."""
        return 0 if self.merged else (self.kernel[0] - 1) * self.dilation[0] // self.stride[0]

    def slabs(self, down: int) -> tuple[Slab, ...]:
        """The columns for `down` rows of the result, and which kernel rows read them where."""
        height = self.kernel[0]
        if self.merged:
            return (Slab(0, down, height, (Product(0, height, 0, True),)),)
        slabs = []
        stride, dilation = self.stride[0], self.dilation[0]
        for phase in range(stride):
            rows = [i for i in range(height) if i * dilation % stride == phase]
            products = tuple(Product(i, i + 1, i * dilation // stride, i == rows[0]) for i in rows)
            if products:
                slabs.append(Slab(phase, products[-1].start + down, 1, products))
        return tuple(slabs)


class Columns:
    """Memory for the columns of some lanes' images, and the steps that fill it or add it up.

    It is for `rows` rows of the result at a time, by default all.
    """

    def __init__(
        self, geometry: Geometry, lanes: tuple[int, ...], dtype: Any, *, rows: int | None = None
    ) -> None:
        self.geometry, self.lanes, self.dtype = geometry, lanes, dtype
        g, (down, across) = geometry, geometry.result
        self.rows = down if rows is None else rows
        self.slabs = g.slabs(self.rows)
        self.arrays = []  # (*lanes, rows, Wo, N, depth, KW, C) each
        for slab in self.slabs:
            inner = (slab.depth, g.kernel[1], g.channels)
            outer = (slab.rows, across, g.batch)
            if g.first:
                array = empty(np, (*lanes, *inner, *outer), dtype)
                array = np.moveaxis(array, (-6, -5, -4), (-3, -2, -1))
            else:
                array = empty(np, (*lanes, *outer, *inner), dtype)
            self.arrays.append(array)

    def products(
        self, arrays: list[Array], *, rows: int | None = None
    ) -> Iterator[tuple[Product, Array]]:
        """Each product with its part of the columns, a matrix (*lanes, rows·Wo·N, K)."""
        for slab, array in zip(self.slabs, arrays, strict=True):
            for product in slab.products:
                stop = product.start + (self.rows if rows is None else rows)
                part = array[..., product.start : stop, :, :, :, :, :]
                yield product, matrix(part, array.ndim - 6, 3)

    def rows_before_and_after(self) -> Iterator[Array]:
        """The rows of the columns that the first product of a slab does not write."""
        for slab, array in zip(self.slabs, self.arrays, strict=True):
            start = slab.products[0].start
            stop = start + self.rows
            yield from (array[..., :start, :, :, :, :, :], array[..., stop:, :, :, :, :, :])

    def with_images_as_lanes(self) -> tuple[list[Step], list[Array]]:
        """The columns read with each image as a lane, and the steps that this takes once filled.

        Columns before the pixels are transposed: products cannot take them from between.
        """
        steps: list[Step] = []
        arrays = []
        for array in self.arrays:
            apart = array.swapaxes(-7, -4)  # (..., N, rows, Wo, 1, depth, KW, C)
            if self.geometry.first:
                source, core = np.moveaxis(apart, (-3, -2, -1), (-6, -5, -4)), apart.ndim - 6
                dense = empty(np, source.shape, self.dtype)
                steps.append(bind_copy(source, dense))
                apart = np.moveaxis(dense, (core, core + 1, core + 2), (-3, -2, -1))
            arrays.append(apart)
        return steps, arrays

    # ---- from images to columns

    def images(self, x: Array) -> tuple[list[Step], Array]:
        """The images x (*lanes, N, H, W, C) with their borders, and the steps that write these."""
        g, source = self.geometry, pixels(x)
        runs = x.strides[-4 if g.first else -1] == x.itemsize
        if runs and g.padding == ((0, 0), (0, 0)):
            return [], source
        steps: list[Step] = []
        if g.first and not runs:
            steps.append(bind_copy(source, self._dense))
            source = self._dense
        (top, _), (left, _) = g.padding
        inside = self._padded[..., top : top + g.size[0], left : left + g.size[1], :, :]
        return [*steps, partial(np.copyto, inside, source)], self._padded

    def fill(self, images: Array, *, first: int = 0, rows: int | None = None) -> list[Step]:
        """The steps that write the columns for `rows` rows of the result from `first` on."""
        less = 0 if rows is None else self.rows - rows
        steps: list[Step] = []
        for slab, array in zip(self.slabs, self.arrays, strict=True):
            count = slab.rows - less
            windows = self._windows(images, slab, first * self.geometry.stride[0], count)
            steps.append(partial(np.copyto, array[..., :count, :, :, :, :, :], windows))
        return steps

    @cached_property
    def _padded(self) -> Array:
        """Images with borders of zeros (*lanes, H, W, N, C), in the order that makes long runs."""
        (height, width), n, c = self.geometry.padded, self.geometry.batch, self.geometry.channels
        if self.geometry.first:
            return np.moveaxis(np.zeros((*self.lanes, c, height, width, n), self.dtype), -4, -1)
        return np.zeros((*self.lanes, height, n, width, c), self.dtype).swapaxes(-2, -3)

    @cached_property
    def _dense(self) -> Array:
        """Images (*lanes, H, W, N, C) with the channels first in memory."""
        g = self.geometry
        return np.moveaxis(
            empty(np, (*self.lanes, g.channels, *g.size, g.batch), self.dtype), -4, -1
        )

    def _windows(self, padded: Array, slab: Slab, above: int, rows: int) -> Array:
        """The windows of a slab (*lanes, rows, Wo, N, depth, KW, C) below `above`: a view."""
        g = self.geometry
        *lanes, down, across, batch, channel = padded.strides
        return as_strided(
            padded[..., above + slab.row :, :, :, :],
            (
                *padded.shape[:-4],
                rows,
                g.result[1],
                g.batch,
                slab.depth,
                g.kernel[1],
                g.channels,
            ),
            (
                *lanes,
                down * g.stride[0],
                across * g.stride[1],
                batch,
                down * g.dilation[0],
                across * g.dilation[1],
                channel,
            ),
            writeable=False,
        )

    # ---- from columns back to images

    def add_up(self, out: Array) -> list[Step]:
        """The steps that write into the images `out` (*lanes, N, H, W, C) the sums of the columns.

        Every pixel receives the values of all windows that it is in.
        """
        g, target = self.geometry, pixels(out)
        if g.first and out.strides[-4] != out.itemsize:
            target = self._dense
        taps = [
            (source, place)
            for slab, array in zip(self.slabs, self.arrays, strict=True)
            for source, place in self._taps(slab, array)
        ]
        whole = (slice(0, g.size[0], 1), slice(0, g.size[1], 1))
        taps.sort(key=lambda tap: tap[1] != whole)  # one that covers the image spares the zeros
        steps: list[Step] = []
        if not taps or taps[0][1] != whole:
            steps.append(partial(target.fill, 0))
        for position, (source, (rows, columns)) in enumerate(taps):
            part = target[..., rows, columns, :, :]
            if position == 0 and (rows, columns) == whole:
                steps.append(partial(np.copyto, part, source))
            else:
                steps.append(partial(np.add, part, source, part))
        if target is self.__dict__.get("_dense"):
            steps.append(bind_copy(target, pixels(out)))
        return steps

    def _taps(self, slab: Slab, array: Array) -> Iterator[tuple[Array, tuple[slice, slice]]]:
        """For each tap of the kernel: its columns inside the image, and the pixels they are of."""
        g = self.geometry
        (top, _), (left, _) = g.padding
        for i in range(slab.depth):
            rows, down = _inside(
                slab.row + i * g.dilation[0] - top, g.stride[0], slab.rows, g.size[0]
            )
            for j in range(g.kernel[1]):
                columns, across = _inside(
                    j * g.dilation[1] - left, g.stride[1], g.result[1], g.size[1]
                )
                if rows.start < rows.stop and columns.start < columns.stop:
                    yield array[..., rows, columns, :, i, j, :], (down, across)


def _inside(offset: int, stride: int, count: int, size: int) -> tuple[slice, slice]:
    """Which of the positions offset, offset + stride, ... lie in [0, size), and where."""
    first = max(0, -(offset // stride))
    last = min(count, (size - 1 - offset) // stride + 1)
    start = offset + first * stride
    return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)


def matrix(a: Array, lanes: int, rows: int) -> Array:
    """`a` as (*lanes, R, K), its `rows` axes after the lanes merged and the rest merged: a view.

    Raises: ValueError if that needs a copy.
    """
    shape = a.shape
    return np.reshape(
        a,
        (*shape[:lanes], math.prod(shape[lanes : lanes + rows]), math.prod(shape[lanes + rows :])),
        copy=False,
    )
