"""Training on one machine in one call: `fit`, `evaluate`, `predict`.

The step is a pure function of flat vectors and is recorded once and replayed. The same function,
mapped over clients, is what federated simulation runs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.ravel import ravel
from fedcore.autograd.replay import compile
from fedcore.data.dataset import Dataset
from fedcore.errors import ArgumentError, DivergenceError, ShapeError, user_line
from fedcore.metrics import Metric, accuracy, binary_accuracy, check_names, measured, metric_name
from fedcore.nn.module import Module
from fedcore.nn.state import ravel_state
from fedcore.optim.optimizer import Optimizer
from fedcore.optim.schedules import Schedule
from fedcore.progress import Report, reporter
from fedcore.step import Loss, skip_empty, train_step
from fedcore.tensor import blas
from fedcore.tensor.backend import Backend, current_backend, to_host
from fedcore.tensor.random import Key
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, tensor

__all__ = [
    "Fitted",
    "Loss",
    "Metric",
    "accuracy",
    "as_dataset",
    "binary_accuracy",
    "evaluate",
    "fit",
    "predict",
    "skip_empty",
    "takes",
    "train_step",
]

Model = TypeVar("Model", bound=Module)
Data = Dataset | tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Fitted(Generic[Model]):
    """What `fit` gives: the trained model, and by name one value an epoch."""

    model: Model
    history: dict[str, list[float]]


@blas.one_thread()
def fit(
    model: Model,
    dataset: Data,
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int,
    validation: Data | None = None,
    seed: int = 0,
    metrics: Sequence[Metric] = (),
    schedule: Schedule | None = None,
    clip_norm: float | None = None,
    progress: bool | Callable[[Report], bool | None] = True,
) -> Fitted[Model]:
    """Train `model` on shuffled batches of `dataset`, a Dataset or a pair (x, y).

    `loss` is one of `fedcore.nn` or a function that keeps the contract of `Loss`: called as
    loss(prediction, target, weight=weight), it gives the weighted mean over the examples.
    `schedule` replaces the optimiser's rate, by step. `metrics` are functions like `accuracy`; the
    history holds "loss" and each metric by its name, and with `validation` the same as "val_...".
    The run depends on `seed` alone, and uses one thread of BLAS. Floating data become float32.
    `progress` prints, or is a function called with a report after each epoch; when it returns True,
    training ends there.
    Raises: DivergenceError naming the step whose loss is not finite; ArgumentError for epochs or a
    batch size below 1, a rate below 0, functions that cannot be called as they will be, or metrics
    that share a name; DatasetError for an empty dataset; what the layers raise.
    """
    _check_parts(model, loss, metrics)
    _check_rules(optimizer, schedule)
    data, held_out = as_dataset(dataset), None if validation is None else as_dataset(validation)
    if not isinstance(epochs, Integral) or isinstance(epochs, bool) or epochs < 1:
        raise ArgumentError(
            f"fit: epochs is {epochs!r:.80}",
            where=user_line(),
            why="it counts how often training passes over the data",
            fix="pass an integer of at least 1",
        )
    theta, rebuild = ravel(model)
    if theta.size == 0:
        raise ArgumentError(
            f"fit: the {type(model).__name__} has no parameters",
            where=user_line(),
            why="there is nothing to train",
            fix="hold layers in the model's attributes: self.layer = nn.Linear(4, 2, key=0)",
        )
    state, rebuild_state = ravel_state(model)
    moments = optimizer.init(theta)
    one_step = train_step(
        rebuild, loss=loss, optimizer=optimizer, metrics=metrics, clip_norm=clip_norm
    )
    step = compile(one_step, donate=(0, 2))
    names = ["loss", *map(metric_name, metrics)]
    history: dict[str, list[float]] = {name: [] for name in names}
    steps = data.steps_per_epoch(batch_size)
    device = theta.backend
    report = reporter(progress, epochs=epochs, steps=steps)
    for epoch in range(epochs):
        totals = np.zeros(len(names))
        for index, batch in enumerate(data.batches(batch_size, key=seed, epoch=epoch)):
            now = epoch * steps + index
            rate = optimizer.lr if schedule is None else _rate(schedule, now)
            key = Key(seed, "forward").fold(now).words()
            inputs = [device.asarray(_single(a)) for a in (batch.x, batch.y, batch.weight, key)]
            with _without_warnings():
                theta, state, moments, value, sums = step(theta, state, moments, *inputs, rate)
            reached = value.item()
            if not math.isfinite(reached):
                raise _diverged(reached, epoch, index, rate)
            totals += [reached * batch.weight.sum(), *[total.item() for total in sums]]
            report.step(epoch, index, reached)
        logs = dict(zip(names, (totals / len(data)).tolist(), strict=True))
        model = rebuild_state(rebuild(theta), state)
        if held_out is not None:
            with _without_warnings():
                measures = evaluate(
                    model, held_out, loss=loss, metrics=metrics, batch_size=max(batch_size, 256)
                )
            logs |= {f"val_{name}": number for name, number in measures.items()}
        for name, number in logs.items():
            history.setdefault(name, []).append(number)
        if report.epoch(Report(epoch, epochs, logs)):
            break
    return Fitted(model, history)


@blas.one_thread()
def evaluate(
    model: Module,
    dataset: Data,
    *,
    loss: Loss | None = None,
    metrics: Sequence[Metric] | None = None,
    batch_size: int = 256,
) -> dict[str, float]:
    """The mean loss, if one is given, and the mean of each metric over all examples.

    By default the metrics are `[accuracy]` if the targets are integers, else none.
    Raises: DatasetError for an empty dataset, ArgumentError for a batch size below 1 or
    metrics that share a name.
    """
    data = as_dataset(dataset)
    if metrics is None:
        metrics = [accuracy] if data.y.dtype.kind in "iu" else []
    _check_parts(model, loss, metrics)
    device = _device(model)
    totals: dict[str, float] = {}
    for batch in data.evaluation_batches(batch_size):
        x, y, weight = (tensor(device.asarray(_single(part))) for part in batch)
        prediction = model(x)
        if loss is not None:
            value = loss(prediction, y, weight=weight).item() * len(batch.y)
            totals["loss"] = totals.get("loss", 0.0) + value
        for metric in metrics:
            value = operations.sum(measured(metric, prediction, y)).item()
            totals[metric_name(metric)] = totals.get(metric_name(metric), 0.0) + value
    return {name: total / len(data) for name, total in totals.items()}


@blas.one_thread()
def predict(model: Module, x: Any, *, batch_size: int = 256) -> NDArray[Any]:
    """The outputs of `model` for the examples x (N, ...), computed batch by batch.

    Raises: DatasetError if there are none, ArgumentError for a batch size below 1 or a model that
    gives more than one output, ShapeError if the output has not one row an example.
    """
    _check_parts(model)
    x = to_host(x)
    data = as_dataset((x, np.zeros(x.shape[:1], np.int8)))
    device, outputs = _device(model), []
    for batch in data.evaluation_batches(batch_size):
        output = model(device.asarray(_single(batch.x)))
        if not isinstance(output, Tensor):
            raise ArgumentError(
                f"predict: the {type(model).__name__} gives a {type(output).__name__}",
                where=user_line(),
                why="a prediction is one array with a row an example",
                fix="choose one output: nn.Sequential(nn.LSTM(...), nn.last_step, ...)",
            )
        if output.shape[:1] != (len(batch.x),):
            raise ShapeError(
                f"predict: an output of shape {output.shape} for {len(batch.x)} examples of shape "
                f"{x.shape[1:]}",
                where=user_line(),
                why="the first axis of x counts the examples, and each has one row of the output",
                fix="give one example a batch axis of length 1: predict(model, x[None])",
            )
        outputs.append(output.numpy())
    return np.concatenate(outputs)


def as_dataset(data: Data) -> Dataset:
    """`data`, or the data set of a pair. Raises: ArgumentError; DatasetError; DtypeError."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return Dataset(to_host(data[0]), to_host(data[1]))
    raise ArgumentError(
        f"training: the data are a {type(data).__name__}",
        where=user_line(),
        why="examples come with their targets",
        fix="pass a Dataset, or a pair of arrays (x, y)",
    )


def _rate(schedule: Schedule, step: int) -> float:
    given: Any = schedule(step)
    try:
        rate = math.nan if isinstance(given, str) else float(given)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise ArgumentError(
            f"fit: the schedule gives the rate {given!r:.80} at step {step}",
            where=user_line(),
            why="a learning rate is finite and at least 0",
            fix="check the schedule over all steps, or use one of fedcore.optim",
        )
    return rate


def _check_parts(model: object, loss: object = None, metrics: object = ()) -> None:
    """Refuse what can be neither called nor trained, before the first batch is computed."""
    if not isinstance(model, Module):
        raise ArgumentError(
            f"training: the model is {model!r:.80}",
            where=user_line(),
            why="parameters are found in a module, made with its sizes",
            fix="pass its model: fitted.model"
            if isinstance(model, Fitted)
            else "pass an nn.Module such as nn.Sequential(...)",
        )
    if loss is not None and not takes(loss, "prediction", "target", weight="weight"):
        raise ArgumentError(
            f"training: the loss is {loss!r:.80}",
            where=user_line(),
            why="it is called as loss(prediction, target, weight=...), with weight 0 on padding",
            fix="pass one of fedcore.nn, such as nn.cross_entropy, or a function like them",
        )
    if not isinstance(metrics, list | tuple) or not all(takes(m, "y", "target") for m in metrics):
        raise ArgumentError(
            f"training: the metrics are {metrics!r:.80}",
            where=user_line(),
            why="each is called as metric(prediction, target)",
            fix="pass a list of functions: metrics=[accuracy]",
        )
    check_names(metrics)


def _check_rules(optimizer: object, schedule: object) -> None:
    init, step = getattr(optimizer, "init", None), getattr(optimizer, "step", None)
    if (
        isinstance(optimizer, type)
        or not takes(init, "theta")
        or not takes(step, "theta", "gradient", "state", lr=0.1)
    ):
        raise ArgumentError(
            f"fit: the optimizer is {optimizer!r:.80}",
            where=user_line(),
            why="it makes its state with init(theta), and turns gradients into steps with "
            "step(theta, gradient, state, lr=...)",
            fix="pass one of fedcore.optim with its rate, such as optim.SGD(lr=0.1), or an object "
            "with these two methods",
        )
    rate = getattr(optimizer, "lr", None)
    if schedule is None and not (isinstance(rate, Real) and 0 <= float(rate) < math.inf):
        raise ArgumentError(
            f"fit: the {type(optimizer).__name__} has the rate lr={rate!r:.80}",
            where=user_line(),
            why="without a schedule the rate of every step is the optimizer's lr, a finite number "
            "of at least 0",
            fix="give the optimizer an attribute lr, or pass fit(schedule=optim.constant(0.1))",
        )
    if schedule is not None and not takes(schedule, 0):
        raise ArgumentError(
            f"fit: the schedule is {schedule!r:.80}",
            where=user_line(),
            why="it is called with the number of the step",
            fix="pass one of fedcore.optim, such as optim.constant(0.1)",
        )


def takes(function: object, *args: object, **options: object) -> bool:
    """Whether `function` can be called so, as far as it says what it takes."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError:
        return False
    except ValueError:  # some built-in functions do not say
        return True
    return True


def _device(model: Module) -> Backend:
    """Where the parameters are: batches are brought there."""
    return next((value.backend for value in model.parameters().values()), current_backend())


def _single(values: NDArray[Any]) -> NDArray[Any]:
    """Floating data in the precision of the parameters."""
    return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values


def _without_warnings() -> np.errstate:
    """A loss that is not finite is an error of its own: NumPy need not warn before it."""
    return np.errstate(over="ignore", divide="ignore", invalid="ignore")


def _diverged(value: float, epoch: int, index: int, rate: float) -> DivergenceError:
    return DivergenceError(
        f"fit: the loss is {value} in epoch {epoch + 1} at step {index + 1}",
        where=user_line(),
        why=f"the last steps, at a learning rate of {rate:g}, left the region where it is finite, "
        "or the data hold NaN or infinity",
        fix="lower the rate, clip with clip_norm=1.0, and check the data with numpy.isfinite",
    )
