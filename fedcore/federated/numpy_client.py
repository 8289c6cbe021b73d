"""A client written for another framework as a program: lists of arrays in, lists of arrays out.

Any object with the methods of Flower's NumPyClient will do, and Flower need not be installed. It
serves tasks whose model is given as arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DivergenceError, ProgramError
from fedcore.federated.programs import Progress, TrainingRequest, TrainingResult
from fedcore.federated.spec import ArraySpec
from fedcore.federated.task import Task
from fedcore.federated.training import require_wanted

__all__ = ["NumPyClient", "NumPyClientProgram"]

Arrays = list[NDArray[Any]]


class NumPyClient(Protocol):
    """What the wrapped object has to have; `config` holds the task's options and the round."""

    def get_parameters(self, config: dict[str, Any]) -> Arrays:
        """Its own parameters, for the first model of a task."""
        ...

    def fit(
        self, parameters: Arrays, config: dict[str, Any]
    ) -> tuple[Arrays, int, Mapping[str, Any]]:
        """The parameters after training, on how many examples, and what was measured."""
        ...

    def evaluate(
        self, parameters: Arrays, config: dict[str, Any]
    ) -> tuple[float, int, Mapping[str, Any]]:
        """The mean loss, over how many examples, and means of what was measured."""
        ...


class NumPyClientProgram:
    """`client` as a program for tasks with `[[model.arrays]]`; it brings its own data.

    `fit` is called with copies of the arrays in float32, and with a config of the task's training
    options and "round", "seed", "stream", "server_round" (counted from 1) and "learning_rate"; its
    metric "loss", a mean over examples, is reported, and so are the task's metrics of `evaluate`.
    It cannot be stopped while `fit` runs, but what it gives after a cancellation is dropped.

    >>> class Client:
    ...     def fit(self, parameters, config):
    ...         return [array + 1 for array in parameters], 10, {}
    >>> program = NumPyClientProgram(Client())
    """

    def __init__(self, client: Any) -> None:
        if not callable(getattr(client, "fit", None)):
            raise ProgramError(
                f"a {type(client).__name__} has no method fit",
                why="training calls client.fit(parameters, config)",
                fix="pass an object with the methods of a NumPyClient, not its class",
            )
        self._client: NumPyClient = client

    def first_model(self, task: Task) -> NDArray[np.float32]:
        """What `get_parameters` gives, as the first model of a task: (D,).

        Raises: ProgramError for other shapes, DivergenceError for NaN or infinity.
        """
        given = self._client.get_parameters({})
        return _joined(given, task.model.arrays, "get_parameters")

    def train(self, request: TrainingRequest, /) -> TrainingResult:
        """Calls `fit`, and before it `evaluate` if the round asks for it.

        Raises: ProgramError for a task whose model is ours, and for what has not the task's shapes;
        DivergenceError for NaN or infinity; CancelledError.
        """
        specs = request.task.model.arrays
        if not specs:
            raise ProgramError(
                f"task {request.task.name!r} has a model of layers",
                why="a NumPyClient trains lists of arrays, whose names and shapes a task gives",
                fix="describe the model by [[model.arrays]], or train with program = 'local'",
            )
        require_wanted(request)
        measured = self._measured(request) if request.evaluate else {}
        require_wanted(request)
        answer = self._client.fit(_split(request.theta, specs), _config(request))
        require_wanted(request)
        arrays, examples, metrics = _triple(answer, "fit", "(parameters, examples, metrics)")
        weight = _count(examples, "fit")
        delta = _joined(arrays, specs, "fit") - request.theta
        loss = _number(metrics, "loss", "fit")
        request.progress(Progress(1, 1, loss))
        return TrainingResult(delta, weight, {"loss": loss * weight} | measured)

    def _measured(self, request: TrainingRequest) -> dict[str, float]:
        given = _split(request.theta, request.task.model.arrays)
        answer = self._client.evaluate(given, _config(request))
        loss, examples, metrics = _triple(answer, "evaluate", "(loss, examples, metrics)")
        count = _count(examples, "evaluate")
        means = {
            name: _number(metrics, name, "evaluate") for name in request.task.evaluation.metrics
        }
        means["loss"] = _number({"loss": loss}, "loss", "evaluate")
        found: dict[str, float] = {"evaluation_examples": count}
        found |= {f"evaluation_{name}": mean * count for name, mean in means.items()}
        request.measured(found)
        return found


def _config(request: TrainingRequest) -> dict[str, Any]:
    own: dict[str, Any] = {
        "round": request.round,
        "server_round": request.round + 1,
        "seed": request.task.seed,
        "stream": request.stream,
    }
    if request.task.training.optimizer is not None:
        own["learning_rate"] = request.task.rate(request.round)
    return dict(request.task.training.options) | own


def _split(theta: NDArray[np.float32], specs: Sequence[ArraySpec]) -> Arrays:
    """Copies of the arrays, in the order of the task."""
    found, start = [], 0
    for spec in specs:
        found.append(theta[start : start + spec.size].reshape(spec.shape).copy())
        start += spec.size
    return found


def _joined(arrays: Any, specs: Sequence[ArraySpec], method: str) -> NDArray[np.float32]:
    """One vector (D,) of arrays that have the task's shapes and hold finite numbers."""
    given = [np.asarray(array) for array in arrays] if isinstance(arrays, list | tuple) else []
    wanted = [spec.shape for spec in specs]
    if [array.shape for array in given] != wanted:
        raise ProgramError(
            f"{method} gave arrays of shapes {', '.join(str(a.shape) for a in given):.200}",
            why=f"the task's are {', '.join(f'{s.name} {s.shape}' for s in specs):.400}",
            fix="return a list of the arrays, in the order in which the task names them",
        )
    arrays32: list[NDArray[np.float32]] = []
    for spec, array in zip(specs, given, strict=True):
        if array.dtype.kind not in "fiu":
            raise ProgramError(
                f"{method} gave an array of {array.dtype} for {spec.name!r}",
                why="a model is made of real numbers",
                fix="return float32 arrays",
            )
        with np.errstate(over="ignore"):
            arrays32.append(array.astype(np.float32).reshape(-1))
        if not np.isfinite(arrays32[-1]).all():
            raise DivergenceError(
                f"{method} gave NaN or infinity in {spec.name!r}, in float32",
                why="added up, it would leave nothing of all other updates",
                fix="lower the learning rate, and check the data with numpy.isfinite",
            )
    return np.concatenate(arrays32)


def _triple(answer: Any, method: str, wanted: str) -> tuple[Any, Any, Any]:
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise ProgramError(
            f"{method} gave a {type(answer).__name__}",
            why=f"a NumPyClient's {method} returns {wanted}",
            fix="return the three as a tuple",
        )
    return answer[0], answer[1], answer[2]


def _count(examples: Any, method: str) -> int:
    counted = isinstance(examples, int | np.integer) and not isinstance(examples, bool)
    if not counted or examples < 1:
        raise ProgramError(
            f"{method} gave {examples!r:.40} examples",
            why="a client counts by how many examples it was trained on",
            fix="return their number, an int of at least 1",
        )
    return int(examples)


def _number(metrics: Any, name: str, method: str) -> float:
    """The metric as a float; 0 where it is missing."""
    value = metrics.get(name, 0.0) if isinstance(metrics, Mapping) else None
    if not isinstance(value, Real | np.number) or np.isnan(float(value)):
        raise ProgramError(
            f"{method} gave the metric {name!r} as {value!r:.40}",
            why="metrics are a dictionary of numbers, each a mean over examples",
            fix="return a number, or leave it out",
        )
    return float(value)
