"""Cotangents that stay factored: the gradient of a weight may never need to exist as an array.

`Outer(x, g)` stands for x^T g, `Rows(index, g)` for rows scattered into zeros, and `Pieces` for the
parts of one flat vector. Each offers `array()` and, for per-example clipping, `norm2()` (its
squared norm in each lane, raised by what rounding may hide) and `weighted_sum(c)` (the sum over the
last lane with coefficients c). Norms and coefficients are float64: float32 squares leave its range.
Source of the norms: Goodfellow, "Efficient Per-Example Gradient Computations", 2015, and for
several rows the Gram form of Li et al., "Large Language Models Can Be Strong Differentially
Private Learners", 2022, section 4.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np

from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor

__all__ = [
    "Cotangent",
    "Factored",
    "Outer",
    "Pieces",
    "Rows",
    "accumulate",
    "as_array",
    "norm2",
    "settled",
    "weighted_sum",
]

_TINY = float(np.finfo(np.float64).tiny)  # what may be lost to underflow in a sum of squares
_FAR = 2.0**30  # within this factor of 1, scales need no care


class Factored:
    """The base of the factored cotangents."""

    __slots__ = ()

    def array(self) -> Tensor:
        """The cotangent as one tensor."""
        raise NotImplementedError

    def settled(self) -> Cotangent:
        """The same in the form whose norm and weighted sum are cheaper, or safe to round."""
        return self

    def norm2(self) -> Tensor:
        """The squared Euclidean norm in each lane, 0-d, in float64."""
        return norm2(self.array())

    def merged(self, other: Factored) -> Factored | None:
        """The sum with `other` in factored form, or None if that needs arrays."""
        return None

    def sum_lanes(self, *, axis: int, sizes: tuple[int, ...]) -> Cotangent:
        """The sum over the lanes from `axis` on."""
        return ops.sum_lanes(self.array(), axis=axis, sizes=sizes)

    def weighted_sum(self, c: Tensor, *, axis: int, size: int) -> Cotangent:
        """The sum over lane `axis`, the last, with one coefficient a lane: c is 0-d in each."""
        return weighted_sum(self.array(), c, axis=axis, size=size)


Cotangent = Tensor | Factored


def as_array(cotangent: Cotangent) -> Tensor:
    """The cotangent as one tensor."""
    return cotangent if isinstance(cotangent, Tensor) else cotangent.array()


def accumulate(a: Cotangent, b: Cotangent) -> Cotangent:
    """A + b, factored where both allow it."""
    if isinstance(a, Factored) and isinstance(b, Factored):
        merged = a.merged(b)
        if merged is not None:
            return merged
    return as_array(a) + as_array(b)


def settled(cotangent: Cotangent) -> Cotangent:
    """The cotangent in the form to measure and to add up: what is settled is joined only once."""
    return cotangent.settled() if isinstance(cotangent, Factored) else cotangent


def norm2(cotangent: Cotangent) -> Tensor:
    """The squared Euclidean norm in each lane, 0-d, in float64.

    Of an array it is right to 64 roundings of its dtype. Of products it is raised by a bound of
    what their sum may gain by rounding, and so that they are at most 1024 times as long in float32.
    """
    if isinstance(cotangent, Factored):
        return cotangent.norm2()
    flat = ops.reshape(cotangent, (1, cotangent.size))
    return ops.reshape(ops.row_norms2(flat), ())


def weighted_sum(cotangent: Cotangent, c: Tensor, *, axis: int, size: int) -> Cotangent:
    """The sum over lane `axis`, the last, of c times the cotangent; c is float64, from 0 to 1.

    A lane whose coefficient is zero adds nothing, even if its cotangent is not finite.
    """
    if isinstance(cotangent, Factored):
        return cotangent.weighted_sum(c, axis=axis, size=size)
    shape = cotangent.shape
    # a coefficient below 1 / _FAR is split in two, for float32 would round it as a denormal number
    c = ops.reshape(c, (1,))
    scale = ops.where(c < 1.0 / _FAR, ops.sign(c) / _FAR, 1.0)
    row = ops.scale_rows(ops.reshape(cotangent, (1, cotangent.size)), scale)
    rows = ops.fold_lane(row, axis=axis, size=size)
    coefficient = ops.cast(c / ops.maximum(scale, 1.0 / _FAR), dtype=cotangent.dtype)
    coefficients = ops.fold_lane(ops.reshape(coefficient, (1, 1)), axis=axis, size=size)
    return ops.reshape(ops.matmul(coefficients.mT, rows), shape)


def _raised(n2: Tensor, total2: Tensor, *, rows: int, terms: int, dtype: np.dtype[Any]) -> Tensor:
    """The squared norm of a sum of products, raised by what rounding may add to the sum.

    `n2` is the squared norm as float64 found it, `total2` the square of what it would be if no rows
    cancelled. Where they do, rounding is of their size and not of the sum's: a gradient of norm 478
    once passed for one of norm 1. The sum of `rows` products in `dtype` errs by less than
    (rows + 8) u total; the root of `far` covers the rounding of n2, and keeps what is added below
    1 / sqrt(far) of the clipping norm.
    Sources: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1; for the
    `terms` of n2 Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019,
    theorem 2.4, with lambda = 8.
    """
    eps, eps64 = float(np.finfo(dtype).eps), float(np.finfo(np.float64).eps)
    far = 8.0 * eps + 4.0 * math.sqrt(terms) * eps64
    length = ops.sqrt(ops.maximum(n2, 0.0) + total2 * far)
    return ops.square(length + ops.sqrt(total2) * ((rows + 8) * eps / 2))


class Outer(Factored):
    """The sum of x^T g over `pairs` of x (R, k) and g (R, m): the cotangent of a (k, m) weight."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: tuple[tuple[Tensor, Tensor], ...]) -> None:
        self.pairs = pairs

    @classmethod
    def of(cls, x: Tensor, g: Tensor) -> Outer:
        """The factored x^T g."""
        return cls(((x, g),))

    def array(self) -> Tensor:
        return reduce(operator.add, [ops.matmul(x.mT, g) for x, g in self.pairs])

    def rows(self) -> tuple[Tensor, Tensor]:
        """All pairs as one: rows concatenated."""
        if len(self.pairs) == 1:
            return self.pairs[0]
        xs, gs = zip(*self.pairs, strict=True)
        return ops.concatenate(xs, axis=0), ops.concatenate(gs, axis=0)

    def settled(self) -> Cotangent:
        x, g = self.rows()
        count, k, m = x.shape[0], x.shape[1], g.shape[1]
        # FLOPs: Gram T^2 (k + m) against T k m for the array
        return Outer.of(x, g) if count == 1 or count * (k + m) < k * m else self.array()

    def norm2(self) -> Tensor:
        x, g = self.rows()
        rows2 = (ops.row_norms2(x) + _TINY) * (ops.row_norms2(g) + _TINY)
        count, k, m = x.shape[0], x.shape[1], g.shape[1]
        if count == 1:
            return ops.reshape(rows2, ())
        total2 = ops.square(ops.sum(ops.sqrt(rows2 + _TINY)))
        wide = [ops.astype(part, np.float64) for part in (x, g)]
        n2 = ops.sum(reduce(operator.mul, [ops.matmul(part, part.mT) for part in wide]))
        terms = k + m + count * count
        return _raised(n2, total2, rows=count, terms=terms, dtype=x.dtype)

    def merged(self, other: Factored) -> Factored | None:
        return Outer(self.pairs + other.pairs) if isinstance(other, Outer) else None

    def sum_lanes(self, *, axis: int, sizes: tuple[int, ...]) -> Cotangent:
        x, g = self.rows()
        for lane in range(axis + len(sizes) - 1, axis - 1, -1):
            size = sizes[lane - axis]
            x = ops.fold_lane(x, axis=lane, size=size)
            g = ops.fold_lane(g, axis=lane, size=size)
        return Outer.of(x, g)

    def weighted_sum(self, c: Tensor, *, axis: int, size: int) -> Cotangent:
        x, g = self.rows()
        # rows of extreme scales come near 1, for c g may be too small for float32 beside them
        x2 = ops.where(c == 0.0, 1.0, ops.row_norms2(x) + _TINY)
        unit = ops.sqrt(x2 / ops.clip(x2, _FAR**-2, _FAR**2))
        scaled = Outer.of(ops.scale_rows(x, ops.sign(c) / unit), ops.scale_rows(g, c * unit))
        return scaled.sum_lanes(axis=axis, sizes=(size,))


class Rows(Factored):
    """Rows g (R, m) added into zeros (count, m) at `index` (R,): the cotangent of an embedding."""

    __slots__ = ("count", "pairs")

    def __init__(self, pairs: tuple[tuple[Tensor, Tensor], ...], *, count: int) -> None:
        self.pairs, self.count = pairs, count

    def _joined(self) -> tuple[Tensor, Tensor]:
        if len(self.pairs) == 1:
            return self.pairs[0]
        index, gs = zip(*self.pairs, strict=True)
        return ops.concatenate(index, axis=0), ops.concatenate(gs, axis=0)

    def array(self) -> Tensor:
        index, g = self._joined()
        return ops.scatter_rows(index, g, count=self.count)

    def settled(self) -> Cotangent:
        index, g = self._joined()
        rows, width = g.shape
        few = rows * rows < self.count * width
        return Rows(((index, g),), count=self.count) if few else self.array()

    def norm2(self) -> Tensor:
        index, g = self._joined()
        rows, width = g.shape
        wide = ops.astype(g, np.float64)
        same = ops.expand_dims(index, 1) == ops.expand_dims(index, 0)  # repeated rows add up
        lengths = ops.sqrt(ops.row_norms2(g) + _TINY)
        pairs = ops.expand_dims(lengths, 1) * ops.expand_dims(lengths, 0)
        n2 = ops.sum(ops.where(same, ops.matmul(wide, wide.mT), 0.0))
        total2 = ops.sum(ops.where(same, pairs, 0.0))
        return _raised(n2, total2, rows=rows, terms=width + rows * rows, dtype=g.dtype)

    def merged(self, other: Factored) -> Factored | None:
        return Rows(self.pairs + other.pairs, count=self.count) if isinstance(other, Rows) else None

    def sum_lanes(self, *, axis: int, sizes: tuple[int, ...]) -> Cotangent:
        index, g = self._joined()
        for lane in range(axis + len(sizes) - 1, axis - 1, -1):
            size = sizes[lane - axis]
            index = ops.fold_lane(index, axis=lane, size=size)
            g = ops.fold_lane(g, axis=lane, size=size)
        return Rows(((index, g),), count=self.count)

    def weighted_sum(self, c: Tensor, *, axis: int, size: int) -> Cotangent:
        index, g = self._joined()
        scaled = ops.scale_rows(g, ops.reshape(c, (1,)))
        return Rows(((index, scaled),), count=self.count).sum_lanes(axis=axis, sizes=(size,))


class Pieces(Factored):
    """The parts of a flat (size,) vector's cotangent by (offset, shape); what is absent is zero.

    Parameters are views of one vector; this is why a gradient is written once into one buffer and
    never is a chain of slice derivatives, each of which would allocate all of it.
    """

    __slots__ = ("parts", "size")

    def __init__(
        self, parts: Mapping[tuple[int, tuple[int, ...]], Cotangent], *, size: int
    ) -> None:
        self.parts, self.size = dict(parts), size

    @property
    def disjoint(self) -> bool:
        """Whether no two parts overlap."""
        layout = sorted(self.parts)
        return all(a[0] + math.prod(a[1]) <= b[0] for a, b in pairwise(layout))

    def array(self) -> Tensor:
        layout = sorted(self.parts)
        if not self.disjoint:
            parts = [Pieces({key: self.parts[key]}, size=self.size).array() for key in layout]
            return reduce(operator.add, parts)
        return ops.assemble(
            [as_array(self.parts[key]) for key in layout],
            offsets=tuple(offset for offset, _ in layout),
            size=self.size,
        )

    def settled(self) -> Cotangent:
        if not self.disjoint:  # parts that overlap may cancel: their sum is what is clipped
            return self.array()
        return Pieces({key: settled(part) for key, part in self.parts.items()}, size=self.size)

    def norm2(self) -> Tensor:
        if not self.disjoint:
            return norm2(self.array())
        return reduce(operator.add, [norm2(part) for part in self.parts.values()])

    def merged(self, other: Factored) -> Factored | None:
        if not isinstance(other, Pieces):
            return None
        parts = dict(self.parts)
        for key, part in other.parts.items():
            parts[key] = accumulate(parts[key], part) if key in parts else part
        return Pieces(parts, size=self.size)

    def sum_lanes(self, *, axis: int, sizes: tuple[int, ...]) -> Cotangent:
        parts = {
            key: part.sum_lanes(axis=axis, sizes=sizes)
            if isinstance(part, Factored)
            else ops.sum_lanes(part, axis=axis, sizes=sizes)
            for key, part in self.parts.items()
        }
        return Pieces(parts, size=self.size)

    def weighted_sum(self, c: Tensor, *, axis: int, size: int) -> Cotangent:
        return Pieces(
            {key: weighted_sum(part, c, axis=axis, size=size) for key, part in self.parts.items()},
            size=self.size,
        )
