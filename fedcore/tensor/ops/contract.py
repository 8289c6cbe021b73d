"""Tensor contraction written as subscripts, lowered to matrix products.

`contract` never calls einsum: that left BLAS on some NumPy versions and took 7.1 ms where the
product took 1.2 (100 x 32 x 128 by 128 x 128), up to 34 ms with its own optimiser. Operands are
contracted from left to right; what only one of them has and nobody needs is summed first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedcore.errors import ArgumentError, ShapeError, user_line
from fedcore.tensor.ops.arguments import companion, operand, whole
from fedcore.tensor.ops.axes import negative_axes
from fedcore.tensor.ops.elementwise import (
    absolute,
    isfinite,
    maximum,
    multiply,
    square,
    stop_gradient,
    where,
)
from fedcore.tensor.ops.functions import root
from fedcore.tensor.ops.linalg import matmul
from fedcore.tensor.ops.reduce import max as max_, sum as sum_
from fedcore.tensor.ops.shape import expand_dims, permute_dims, reshape
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Axis, Tensor

__all__ = ["contract", "dot", "norm", "outer", "tensordot"]


def contract(subscripts: str, *operands: Any) -> Tensor:
    """The sum of products that `subscripts` names, as `numpy.einsum`: one letter an axis.

    Letters that are not in the output are summed. Without "->" the output has the letters that
    stand once, in alphabetical order. A letter may not stand twice in one operand: take its
    `diagonal` first.
    Raises: ArgumentError if the subscripts do not fit the operands, ShapeError if lengths differ.

    >>> contract("ij,jk->ik", [[1.0, 2.0]], [[3.0], [4.0]]).tolist()
    [[11.0]]
    """
    terms, output = _parse(subscripts, len(operands))
    xs = [operand("contract", x) for x in operands]
    lengths = _lengths(subscripts, terms, xs)
    if unknown := [a for a in output if a not in lengths]:
        raise _refused(subscripts, f"no operand has {', '.join(unknown)}")
    letters, x = _reduced(terms[0], xs[0], {*output, *"".join(terms[1:])})
    for i in range(1, len(xs)):
        needed = {*output, *"".join(terms[i + 1 :])}
        term, other = _reduced(terms[i], xs[i], needed | set(letters))
        letters, x = _reduced(letters, x, needed | set(term))
        letters, x = _pair(letters, x, term, other, needed)
    letters, x = _reduced(letters, x, set(output))
    return x if letters == output else permute_dims(x, [letters.index(a) for a in output])


def _parse(subscripts: str, count: int) -> tuple[list[str], str]:
    if not isinstance(subscripts, str):
        raise _refused(subscripts, "the axes are named by a text")
    text = subscripts.replace(" ", "")
    inputs, arrow, output = text.partition("->")
    terms = inputs.split(",")
    if any(not a.isascii() or not a.isalpha() for a in (*"".join(terms), *output)):
        raise _refused(subscripts, "an axis is one letter, terms are parted by commas")
    if len(terms) != count:
        raise _refused(subscripts, f"{len(terms)} terms for {count} operands")
    if not arrow:
        letters = "".join(terms)
        output = "".join(sorted(a for a in set(letters) if letters.count(a) == 1))
    for term in (*terms, output):
        if len(set(term)) != len(term):
            raise _refused(subscripts, f"a letter stands twice in {term!r}; take a diagonal first")
    return terms, output


def _refused(subscripts: object, why: str) -> ArgumentError:
    return ArgumentError(
        f"contract: {subscripts!r:.80}",
        where=user_line(),
        why=why,
        fix="write one letter an axis, such as 'bij,bjk->bik'",
    )


def _lengths(subscripts: str, terms: list[str], xs: list[Tensor]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for term, x in zip(terms, xs, strict=True):
        if len(term) != x.ndim:
            raise _refused(subscripts, f"{term!r} does not name the axes of shape {x.shape}")
        for letter, n in zip(term, x.shape, strict=True):
            known = lengths.setdefault(letter, n)
            if n != known:
                raise ShapeError(
                    f"contract: {subscripts!r}: axis {letter} has lengths {known} and {n}",
                    where=user_line(),
                    why="axes of one letter must be equally long",
                    fix="check the shapes " + ", ".join(str(y.shape) for y in xs),
                )
    return lengths


def _reduced(term: str, x: Tensor, needed: set[str]) -> tuple[str, Tensor]:
    """The operand without the axes that nobody needs."""
    gone = tuple(i for i, a in enumerate(term) if a not in needed)
    if not gone:
        return term, x
    return "".join(a for a in term if a in needed), sum_(x, axis=gone)


def _pair(left: str, x: Tensor, right: str, y: Tensor, needed: set[str]) -> tuple[str, Tensor]:
    """The product of two operands, summed over what only the two of them have."""
    batch = [a for a in left if a in right and a in needed]
    inner = [a for a in left if a in right and a not in needed]
    rows = [a for a in left if a not in right]
    columns = [a for a in right if a not in left]
    product = matmul(_matrix(left, x, batch, rows, inner), _matrix(right, y, batch, inner, columns))
    kept = [x.shape[left.index(a)] for a in batch + rows]
    kept += [y.shape[right.index(a)] for a in columns]
    return "".join([*batch, *rows, *columns]), reshape(product, kept)


def _matrix(term: str, x: Tensor, batch: list[str], first: list[str], second: list[str]) -> Tensor:
    """The axes as (batch..., first, second), the last two merged to one axis each."""
    x = permute_dims(x, [term.index(a) for a in (*batch, *first, *second)])
    k, m = len(batch), len(batch) + len(first)
    return reshape(x, (*x.shape[:k], math.prod(x.shape[k:m]), math.prod(x.shape[m:])))


def outer(a: Any, b: Any) -> Tensor:
    """All products of an element of `a` (n,) and one of `b` (m,): (n, m)."""
    a, b = operand("outer", a), operand("outer", b)
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(
            f"outer: shapes {a.shape} and {b.shape}",
            where=user_line(),
            why="the outer product is of two vectors",
            fix="flatten the operands, or use contract",
        )
    return matmul(expand_dims(a, 1), expand_dims(b, 0))


def dot(a: Any, b: Any) -> Tensor:
    """The product of vectors and matrices as `@`, and of a number with anything as `*`.

    Raises: ShapeError if an operand has more than two axes, where NumPy's `dot` and `@` differ.
    """
    a, b = companion("dot", a), companion("dot", b)
    ranks = [x.ndim if isinstance(x, Tensor) else 0 for x in (a, b)]
    if ranks[0] > 2 or ranks[1] > 2:
        raise ShapeError(
            f"dot: shapes {a.shape} and {b.shape}",
            where=user_line(),
            why="it is of vectors and matrices",
            fix="use matmul for stacks of matrices, tensordot or contract to sum over other axes",
        )
    return matmul(a, b) if 0 not in ranks else multiply(a, b)


def tensordot(a: Any, b: Any, axes: int = 2) -> Tensor:
    """The product summed over the last `axes` axes of `a` and the first of `b`, one matmul.

    Raises: ShapeError if their lengths differ.
    """
    a, b = operand("tensordot", a), operand("tensordot", b)
    axes = whole("tensordot", "axes", axes)
    if not 0 <= axes <= min(a.ndim, b.ndim) or a.shape[a.ndim - axes :] != b.shape[:axes]:
        raise ShapeError(
            f"tensordot: {axes} axes of shapes {a.shape} and {b.shape}",
            where=user_line(),
            why="the last lengths of the first operand must be the first of the second",
            fix="permute an operand, or use contract",
        )
    kept, inner = a.shape[: a.ndim - axes], math.prod(b.shape[:axes])
    right = reshape(b, (inner, math.prod(b.shape[axes:])))
    return reshape(matmul(reshape(a, (math.prod(kept), inner)), right), (*kept, *b.shape[axes:]))


def norm(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The Euclidean norm along `axis`, or of everything; its derivative at 0 is 0, a subgradient.

    Floating numbers are scaled by the largest, so that no square overflows or vanishes.
    """
    x = operand("norm", x)
    axes = negative_axes("norm", axis, x.ndim)
    if x.dtype.kind != "f" or x.size == 0:
        return root(sum_(square(x), axis=axes, keepdims=keepdims))
    largest = stop_gradient(max_(absolute(x), axis=axes, keepdims=True))
    least = float(4 * np.finfo(x.dtype).tiny)  # a cotangent times less would lose its digits
    scale = where(isfinite(largest), maximum(largest, least), 1.0)
    length = root(sum_(square(x / scale), axis=axes, keepdims=keepdims))
    return length * reshape(scale, length.shape)


for _operation in (contract, outer, dot, tensordot, norm):
    operations.register(_operation.__name__, _operation)
