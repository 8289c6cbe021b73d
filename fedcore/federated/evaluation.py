"""How good a model is on a device's own data: sums over examples, which add up between devices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedcore.data import Dataset
from fedcore.federated.choices import METRICS
from fedcore.federated.flat import FlatModel
from fedcore.federated.programs import TrainingRequest
from fedcore.metrics import Metric, measured
from fedcore.nn import Module
from fedcore.step import Loss
from fedcore.tensor import blas
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import tensor

__all__ = ["evaluate_sums", "measure"]

_ROWS = 256


@blas.one_thread()
def evaluate_sums(
    model: Module, dataset: Dataset, *, loss: Loss, metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """The number of examples, and sums over them of the loss and of each metric by its name.

    The keys are those of `fields.statistics_of`; floating data are read as float32.

    >>> from fedcore import nn
    >>> from fedcore.metrics import accuracy
    >>> data = Dataset(np.eye(2, dtype=np.float32), np.array([0, 0]))
    >>> found = evaluate_sums(
    ...     nn.Sequential(nn.flatten), data, loss=nn.cross_entropy, metrics={"accuracy": accuracy}
    ... )
    >>> found["evaluation_examples"], found["evaluation_accuracy"]
    (2, 1.0)
    """
    sums = dict.fromkeys(["loss", *metrics], 0.0)
    for batch in dataset.evaluation_batches(_ROWS):
        x, y, weight = (
            tensor(part.astype(np.float32, copy=False) if part.dtype.kind == "f" else part)
            for part in batch
        )
        with np.errstate(all="ignore"):
            prediction = model(x)
            sums["loss"] += loss(prediction, y, weight=weight).item() * len(batch.y)
            for name, metric in metrics.items():
                sums[name] += operations.sum(measured(metric, prediction, y)).item()
    found: dict[str, float] = {"evaluation_examples": len(dataset)}
    return found | {f"evaluation_{name}": value for name, value in sums.items()}


def measure(flat: FlatModel, request: TrainingRequest) -> dict[str, float]:
    """What `evaluate_sums` finds for the model that was sent; the request's owner is told of it."""
    found = evaluate_sums(
        flat.model(request.theta),
        request.dataset,
        loss=flat.loss,
        metrics={name: METRICS[name] for name in request.task.evaluation.metrics},
    )
    request.measured(found)
    return found
