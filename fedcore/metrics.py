"""What is measured beside the loss: functions that give one value for each example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from fedcore.errors import ArgumentError, DtypeError, ShapeError, user_line
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["Metric", "accuracy", "binary_accuracy", "check_names", "measured", "metric_name"]

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """For each example the share of right classes, the class being the place of the largest score.

    Shapes: prediction (N, ..., K) with K at least 2, target (N, ...) of class numbers -> (N,).
    Raises: DtypeError for a target that is not of integers, ShapeError for other shapes.

    >>> accuracy(tensor([[0.1, 0.9], [0.8, 0.2]]), tensor([1, 1])).tolist()
    [1.0, 0.0]
    """
    prediction, target = tensor(prediction), tensor(target)
    if target.dtype.kind not in "iu":
        raise DtypeError(
            f"accuracy: the targets are {target.dtype}",
            where=user_line(),
            why="it compares class numbers",
            fix="pass class numbers (of one-hot rows their argmax), use binary_accuracy for "
            "targets 0 and 1 of one score each, or metrics=[] for none",
        )
    if prediction.shape[:-1] != target.shape or not target.ndim or prediction.shape[-1] < 2:
        raise ShapeError(
            f"accuracy: predictions {prediction.shape} with targets {target.shape}",
            where=user_line(),
            why="predictions (N, ..., K) have one axis more than their targets (N, ...), with a "
            "score for each of K >= 2 classes",
            fix="use binary_accuracy for one score an example, or metrics=[] for none",
        )
    right = (operations.argmax(prediction, axis=-1) == target).astype(np.float32)
    return right if right.ndim == 1 else right.mean(axis=tuple(range(1, right.ndim)))


def binary_accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """For each example 1 if the logit is above 0 and the target 1, or not above and 0; else 0.

    Shapes: prediction (N,) or (N, 1) of logits, target (N,) or (N, 1) of 0 and 1 -> (N,).
    Raises: ShapeError for other shapes.

    >>> binary_accuracy(tensor([[2.0], [-1.0], [3.0]]), tensor([1, 0, 0])).tolist()
    [1.0, 1.0, 0.0]
    """
    prediction, target = tensor(prediction), tensor(target)
    count = prediction.size
    if any(x.shape not in ((count,), (count, 1)) for x in (prediction, target)):
        raise ShapeError(
            f"binary_accuracy: predictions {prediction.shape} with targets {target.shape}",
            where=user_line(),
            why="each example has one logit and one target, both (N,) or (N, 1)",
            fix="use accuracy for a score for each class",
        )
    positive = (prediction > 0.0).reshape(count).astype(np.float32)
    return (positive == target.reshape(count).astype(np.float32)).astype(np.float32)


def measured(metric: Metric, prediction: Tensor, target: Tensor) -> Tensor:
    """The metric's value of every example (B,).

    Raises: ShapeError if it is shaped otherwise, since a mean over the epoch would then be wrong.
    """
    values = tensor(metric(prediction, target))
    if values.shape != target.shape[:1]:
        raise ShapeError(
            f"metric {metric_name(metric)}: values of shape {values.shape} for {target.shape[:1]} "
            "examples",
            where=user_line(),
            why="each example counts alike, also in a last batch that is not full",
            fix="return one value an example, as fedcore.training.accuracy does",
        )
    return values


def metric_name(metric: Metric) -> str:
    """The name of a metric in a history."""
    return getattr(metric, "__name__", type(metric).__name__)


def check_names(metrics: Sequence[Metric]) -> None:
    """Refuse metrics that share a name in a history with each other or with the loss.

    Raises: ArgumentError naming them, since the values of one would be added to those of the other.
    """
    names = ["loss", *map(metric_name, metrics)]
    counts = Counter([*names, *(f"val_{name}" for name in names)])
    shared = [name for name in dict.fromkeys(names) if counts[name] > 1]
    if shared:
        raise ArgumentError(
            f"training: more than one measure is named {', '.join(shared):.200}",
            where=user_line(),
            why="a history holds the loss as 'loss', each metric by the name of its function, and "
            "both of the validation as 'val_...'",
            fix="give each metric once and a name of its own: write it with def, or set the "
            "__name__ of a lambda or functools.partial",
        )
