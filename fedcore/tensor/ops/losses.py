"""Losses, one number an example, reduced by one rule that lets padded examples weigh nothing.

`reduction` is "mean", "sum" or "none". `weight` has the leading axes of the losses, usually one
number an example; a weighted mean is sum(w·l) / sum(w), and 0 where all weights are 0, so that
neither a padded row nor a client of padding alone disturbs a gradient. For the mean no weight may
be negative or NaN; a sum takes any, such as the advantages of a policy gradient.
"""

from __future__ import annotations

import math
from typing import Any

from fedcore.errors import ArgumentError, DtypeError, ShapeError, user_line
from fedcore.tensor.ops.activations import softplus
from fedcore.tensor.ops.arguments import choice, operand, real
from fedcore.tensor.ops.bounds import bounded
from fedcore.tensor.ops.elementwise import (
    absolute,
    cast,
    divide,
    log,
    minimum,
    multiply,
    require_floating,
    square,
    where,
)
from fedcore.tensor.ops.reduce import sum as sum_
from fedcore.tensor.ops.shape import expand_dims, reshape
from fedcore.tensor.ops.softmax import check_labels, softmax_cross_entropy
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber",
    "kl_div",
    "l1",
    "mse",
    "nll",
    "reduced",
]

_ROUNDING = 1e-6  # by which a computed probability may leave [0, 1]


def reduced(name: str, losses: Tensor, *, weight: Any, reduction: str) -> Tensor:
    """`losses` weighted and reduced by the rule of this module.

    Raises: ArgumentError for another `reduction` or a negative weight of a mean, ShapeError if
    `weight` does not fit, or for the mean of nothing.
    """
    choice(name, "reduction", reduction, ("mean", "sum", "none"))
    total: Any = losses.size
    if weight is not None:
        w = _spread_weight(name, operand(name, weight), losses)
        if reduction == "mean":
            w = bounded(
                w,
                low=0.0,
                high=math.inf,
                error=ArgumentError,
                what=f"{name}: the weights",
                why="a mean divides by their sum, and an example cannot count less than not at all",
                fix='pass weights of at least 0, or reduction="sum"',
            )
        losses = losses * w
        total, trailing = sum_(w), losses.size // w.size if w.size else 1
        total = total if trailing == 1 else total * trailing
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum_(losses)
    if weight is None:
        if total == 0:
            raise ShapeError(
                f"{name}: the mean over no examples, shape {losses.shape}",
                where=user_line(),
                why="the mean of an empty set is undefined",
                fix="check for empty batches first",
            )
        return multiply(sum_(losses), 1.0 / total)
    return divide(sum_(losses), where(total == 0.0, 1.0, total))


def _spread_weight(name: str, weight: Tensor, losses: Tensor) -> Tensor:
    """`weight` in the losses' dtype, with axes of length 1 for the trailing ones it lacks."""
    if weight.shape != losses.shape[: weight.ndim]:
        raise ShapeError(
            f"{name}: weights {weight.shape} for losses {losses.shape}",
            where=user_line(),
            why="weights have the leading axes of the losses",
            fix="pass one weight an example",
        )
    if weight.dtype != losses.dtype:
        weight = cast(weight, dtype=losses.dtype)
    return reshape(weight, weight.shape + (1,) * (losses.ndim - weight.ndim))


def cross_entropy(
    logits: Any,
    labels: Any,
    *,
    label_smoothing: float = 0.0,
    weight: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-log softmax(logits) at the labels.

    Shapes: logits (..., classes), labels (...) of whole numbers; losses (...). With
    `label_smoothing` e the target is (1 - e) of the label and e / classes of every class.
    Source: Szegedy et al., "Rethinking the Inception Architecture", 2016, section 7.
    Raises: AxisError for a label that is no class, ShapeError, DtypeError, ArgumentError.

    >>> round(cross_entropy([[0.0, 0.0]], [1]).item(), 6)
    0.693147
    """
    x, t = operand("cross_entropy", logits), operand("cross_entropy", labels)
    check_labels("cross_entropy", x, t)
    smoothing = real("cross_entropy", "label_smoothing", label_smoothing, low=0.0, high=1.0)
    losses = softmax_cross_entropy(x, t, smoothing=smoothing)
    return reduced("cross_entropy", losses, weight=weight, reduction=reduction)


def nll(
    log_probabilities: Any, labels: Any, *, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """Minus the log-probabilities at the labels: cross entropy after `log_softmax`.

    Shapes: log_probabilities (..., classes), labels (...) of whole numbers; losses (...).
    A negative label counts from the end, as an index does.
    Raises: AxisError for a label past the classes, ShapeError, DtypeError, ArgumentError.

    >>> nll([[-1.0, -2.0]], [1]).item()
    2.0
    """
    x, t = operand("nll", log_probabilities), operand("nll", labels)
    check_labels("nll", x, t)
    losses = -reshape(operations.take_along_axis(x, expand_dims(t, -1), axis=-1), t.shape)
    return reduced("nll", losses, weight=weight, reduction=reduction)


def binary_cross_entropy_with_logits(
    logits: Any, targets: Any, *, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """-t·log(sigmoid(x)) - (1 - t)·log(1 - sigmoid(x)) as softplus(x) - t·x, which is stable.

    Shapes: logits and targets (...), targets from 0 to 1; losses (...).
    Raises: ShapeError, DtypeError, ArgumentError, also for a target outside of 0 to 1.

    >>> binary_cross_entropy_with_logits([1000.0, -1000.0], [1.0, 0.0]).item()
    0.0
    """
    name = "binary_cross_entropy_with_logits"
    x, t = _pair(name, logits, targets)
    t = bounded(
        t,
        low=-_ROUNDING,
        high=1.0 + _ROUNDING,
        error=ArgumentError,
        what=f"{name}: the targets",
        why="a target is the probability of the class 1, from 0 to 1; beyond it the loss has no "
        "lower bound",
        fix="map the two classes to 0 and 1: targets of -1 and 1 to (t + 1) / 2",
    )
    return reduced(name, softplus(x) - t * x, weight=weight, reduction=reduction)


def mse(predictions: Any, targets: Any, *, weight: Any = None, reduction: str = "mean") -> Tensor:
    """The squared error. Shapes: both (...); losses (...).

    Raises: ShapeError, DtypeError, ArgumentError.

    >>> mse([1.0, 3.0], [0.0, 0.0], weight=[1.0, 0.0]).item()
    1.0
    """
    x, t = _pair("mse", predictions, targets)
    return reduced("mse", square(x - t), weight=weight, reduction=reduction)


def l1(predictions: Any, targets: Any, *, weight: Any = None, reduction: str = "mean") -> Tensor:
    """The absolute error. Shapes: both (...); losses (...).

    Raises: ShapeError, DtypeError, ArgumentError.
    """
    x, t = _pair("l1", predictions, targets)
    return reduced("l1", absolute(x - t), weight=weight, reduction=reduction)


def huber(
    predictions: Any,
    targets: Any,
    *,
    delta: float = 1.0,
    weight: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Half the squared error up to `delta`, beyond it the line that continues smoothly.

    Shapes: both (...); losses (...). Source: Huber, "Robust Estimation of a Location Parameter",
    1964. Raises: ShapeError, DtypeError, ArgumentError if `delta` is not positive.

    >>> huber([0.5, 3.0], [0.0, 0.0], reduction="none").tolist()
    [0.125, 2.5]
    """
    delta = real("huber", "delta", delta)
    if not (delta > 0.0 and math.isfinite(delta)):
        raise ArgumentError(
            f"huber: delta is {delta}",
            where=user_line(),
            why="it is the error at which the parabola becomes a line",
            fix="pass a positive number",
        )
    x, t = _pair("huber", predictions, targets)
    error = absolute(x - t)
    inner = minimum(error, delta)  # inner(error - inner / 2) is both branches in one
    losses = inner * (error - inner * 0.5)
    return reduced("huber", losses, weight=weight, reduction=reduction)


def kl_div(
    log_probabilities: Any, target: Any, *, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """The Kullback-Leibler divergence sum(t·(log t - x)) of each row; 0·log 0 counts 0.

    Shapes: log_probabilities x and probabilities t (..., classes); losses (...). "mean" is over
    rows. Raises: ShapeError, DtypeError, ArgumentError.

    >>> kl_div([[-0.6931472, -0.6931472]], [[0.5, 0.5]]).item()
    0.0
    """
    x, t = _pair("kl_div", log_probabilities, target)
    entropy = t * log(where(t > 0.0, t, 1.0))
    cross = t * where(t > 0.0, x, 0.0)
    losses = sum_(entropy - cross, axis=-1)
    return reduced("kl_div", losses, weight=weight, reduction=reduction)


def _pair(name: str, predictions: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of one shape: silent broadcasting of (B,) against (B, 1) would be a bug."""
    x, t = operand(name, predictions), operand(name, targets)
    require_floating(name, x)
    if t.dtype.kind == "f" and x.dtype != t.dtype:
        raise DtypeError(
            f"{name}: predictions of {x.dtype} with targets of {t.dtype}",
            where=user_line(),
            why="mixing precisions would silently turn float32 work into float64",
            fix=f"convert the targets with astype({str(x.dtype)!r})",
        )
    if x.shape != t.shape:
        raise ShapeError(
            f"{name}: predictions {x.shape} with targets {t.shape}",
            where=user_line(),
            why="each prediction has one target, and nothing is broadcast",
            fix=_alike(x.shape, t.shape),
        )
    return x, t


def _alike(predictions: tuple[int, ...], targets: tuple[int, ...]) -> str:
    """How to bring predictions and targets of these shapes to one."""
    if predictions == (*targets, 1):
        return "give the targets an axis, y[..., None], or take it from the predictions, [..., 0]"
    if targets == (*predictions, 1):
        return "take the last axis from the targets: y[..., 0]"
    return "reshape one of them"


for _operation in (
    cross_entropy,
    nll,
    binary_cross_entropy_with_logits,
    mse,
    l1,
    huber,
    kl_div,
):
    operations.register(_operation.__name__, _operation)
