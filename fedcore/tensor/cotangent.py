"""Cotangents that stay factored: the gradient of a weight may never need to exist as an array.

`Outer(x, g)` stands for x^T g, `Rows(index, g)` for rows scattered into zeros, and `Pieces` for the
parts of one flat vector. Each offers `array()`, `norm2()` (its squared norm in each lane) and
`weighted_sum(c)` (the sum over the last lane with coefficients c), for per-example clipping.
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
    "weighted_sum",
]


class Factored:
    """The base of the factored cotangents."""

    __slots__ = ()

    def array(self) -> Tensor:
        """The cotangent as one tensor."""
        raise NotImplementedError

    def norm2(self) -> Tensor:
        """The squared Euclidean norm in each lane, 0-d."""
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


def norm2(cotangent: Cotangent) -> Tensor:
    """The squared Euclidean norm in each lane, 0-d."""
    if isinstance(cotangent, Factored):
        return cotangent.norm2()
    flat = ops.reshape(cotangent, (1, cotangent.size))
    return ops.reshape(ops.row_norms2(flat), ())


def weighted_sum(cotangent: Cotangent, c: Tensor, *, axis: int, size: int) -> Cotangent:
    """The sum over lane `axis`, the last, of c times the cotangent.

    A lane whose coefficient is zero adds nothing, even if its cotangent is not finite.
    """
    if isinstance(cotangent, Factored):
        return cotangent.weighted_sum(c, axis=axis, size=size)
    shape = cotangent.shape
    row = ops.reshape(ops.drop_lanes(cotangent, c), (1, cotangent.size))
    rows = ops.fold_lane(row, axis=axis, size=size)
    coefficients = ops.fold_lane(ops.reshape(c, (1, 1)), axis=axis, size=size)
    return ops.reshape(ops.matmul(coefficients.mT, rows), shape)


def _at_most(gram: Tensor, total: Tensor, *, terms: int) -> Tensor:
    """The squared norm from a Gram sum, raised by what rounding may have taken from it.

    `total` bounds the square of the sum of the rows' norms. Where rows cancel, rounding is of their
    size and not of the sum's: a gradient of norm 478 once passed for one of norm 1.
    Source: Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019,
    theorem 2.4, with lambda = 8.
    """
    unit = float(np.finfo(gram.dtype).eps) / 2
    return ops.maximum(gram, 0.0) + total * (8.0 * math.sqrt(terms) * unit)


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

    def norm2(self) -> Tensor:
        x, g = self.rows()
        count, k, m = x.shape[0], x.shape[1], g.shape[1]
        if count == 1:
            return ops.reshape(ops.row_norms2(x) * ops.row_norms2(g), ())
        if count * (k + m) < k * m:  # FLOPs: Gram T^2 (k + m) against T k m for the array
            gram = ops.matmul(x, x.mT) * ops.matmul(g, g.mT)
            return _at_most(ops.sum(gram), norm2(x) * norm2(g), terms=k + m + count * count)
        return norm2(self.array())

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
        return Outer.of(ops.drop_lanes(x, c), ops.drop_lanes(c * g, c)).sum_lanes(
            axis=axis, sizes=(size,)
        )


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

    def norm2(self) -> Tensor:
        index, g = self._joined()
        rows, width = g.shape
        if rows * rows >= self.count * width:
            return norm2(self.array())
        same = ops.expand_dims(index, 1) == ops.expand_dims(index, 0)  # repeated rows add up
        gram = ops.where(same, ops.matmul(g, g.mT), 0.0)
        return _at_most(ops.sum(gram), norm2(g) * float(rows), terms=width + rows * rows)

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
        kept = ops.drop_lanes(c * g, c)
        return Rows(((index, kept),), count=self.count).sum_lanes(axis=axis, sizes=(size,))


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
