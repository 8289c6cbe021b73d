"""Scaled dot-product attention: two matrix products around a masked softmax."""

from __future__ import annotations

import math
from typing import Any

from fedcore.errors import ArgumentError, ShapeError, user_line
from fedcore.tensor.ops.arguments import flag, operand, real, spreads
from fedcore.tensor.ops.elementwise import where
from fedcore.tensor.ops.linalg import matmul
from fedcore.tensor.ops.shape import expand_dims, swapaxes
from fedcore.tensor.ops.softmax import softmax
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["scaled_dot_product_attention"]

_NAME = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    key: Any = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v, over the keys.

    A boolean `mask` is true where a query may see a key, a floating one is added to the scores.
    `causal` lets query i see the keys up to i + S - T, so that the last query sees all. A query
    that may see nothing gets zeros and passes no derivative, not NaN. `dropout` is the rate at
    which probabilities are dropped, drawn from `key`.
    Shapes: q (..., T, d), k (..., S, d), v (..., S, m), ... being (batch, heads); mask broadcasts
    to (..., T, S); result (..., T, m).
    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.
    Raises: ShapeError if the shapes do not fit, ArgumentError for dropout without a key.

    >>> scaled_dot_product_attention([[1.0]], [[0.0], [0.0]], [[2.0], [4.0]]).tolist()
    [[3.0]]
    """
    queries, keys, values = (operand(_NAME, x) for x in (q, k, v))
    _check_shapes(queries, keys, values)
    dropout = real(_NAME, "dropout", dropout)
    if dropout and key is None:
        raise ArgumentError(
            f"scaled_dot_product_attention: dropout {dropout} without a key",
            where=user_line(),
            why="random numbers come from a key alone",
            fix="pass key=, or no dropout in evaluation",
        )
    # Scaling q touches T·d numbers, scaling the scores T·S.
    scores = matmul(queries * (1.0 / math.sqrt(queries.shape[-1])), swapaxes(keys, -1, -2))
    if mask is not None:
        scores = scores + _as_scores(operand(_NAME, mask), scores)
    if flag(_NAME, "causal", causal):
        scores = scores + _as_scores(_causal(scores), scores)
    weights = softmax(scores)
    if dropout:
        weights = operations.dropout(weights, key, rate=dropout)
    return matmul(weights, values)


def _as_scores(mask: Tensor, scores: Tensor) -> Tensor:
    """A boolean mask as 0 and minus infinity: the choice is made once, not in each head."""
    if not spreads(mask.shape, scores.shape):
        raise ShapeError(
            f"{_NAME}: a mask {mask.shape} for scores {scores.shape}",
            where=user_line(),
            why="the mask says of each query and key whether they meet",
            fix="pass a mask (queries, keys), or one that spreads to the scores",
        )
    if mask.dtype.kind != "b":
        return mask
    return where(mask, tensor(0.0, dtype=scores.dtype), tensor(-math.inf, dtype=scores.dtype))


def _causal(scores: Tensor) -> Tensor:
    """Whether query i may see key j: j <= i + keys - queries."""
    queries, keys = scores.shape[-2:]
    first = keys - queries
    rows = operations.arange(first, first + queries, like=scores)
    return expand_dims(rows, 1) >= operations.arange(keys, like=scores)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    fits = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[-1] == k.shape[-1]
    if not (fits and k.shape[-2] == v.shape[-2] and k.shape[-2] > 0 and q.shape[-1] > 0):
        raise ShapeError(
            f"scaled_dot_product_attention: q {q.shape}, k {k.shape}, v {v.shape}",
            where=user_line(),
            why="q and k share their last axis, k and v their last but one",
            fix="pass q (..., T, d), k (..., S, d) and v (..., S, m)",
        )


operations.register("scaled_dot_product_attention", scaled_dot_product_attention)
