"""What goes from round to round of private training, and under which terms it may.

A released round is served again for nothing, so a script that was changed in between would get the
old model for its new settings. A release therefore says what it was trained with, as far as that
has a name, and is refused to a run that is trained with anything else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.ravel import Spec
from fedcore.errors import ArgumentError, PlanError
from fedcore.nn.module import Module
from fedcore.nn.tree import modules
from fedcore.optim.optimizer import Optimizer
from fedcore.privacy.ledger_file import read_file
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_records import Migrate, Release
from fedcore.tensor.tensor import tensor

__all__ = ["TrainingState", "spent_by_round", "training_terms"]

_PLAIN = (bool, int, float, str, type(None))


def training_terms(
    model: Module,
    spec: Spec,
    *,
    loss: object,
    optimizer: object,
    rates: NDArray[np.float64] | None,
    average: float,
    seed: int,
) -> dict[str, Any]:
    """By name, what a run is trained with: JSON values, the same in every process.

    `rates`: those of all steps under a schedule, else None.
    """
    return {
        "model": {
            "layers": {path: _name(type(module)) for path, module in modules(model)},
            "parameters": {entry.path: list(entry.shape) for entry in spec},
        },
        "loss": _described(loss),
        "optimizer": _described(optimizer),
        "schedule": None
        if rates is None
        else hashlib.sha256(rates.astype("<f8").tobytes()).hexdigest(),
        "average": float(average),
        "seed": _described(seed),
    }


def spent_by_round(folder: Path) -> dict[int, float]:
    """What was spent in all when each round of the present plan of a ledger was released.

    Counted and computed anew from the ledger's records: no figure in a file is trusted.
    """
    history, found = History(), dict[int, float]()
    for seq, record in enumerate(read_file(folder).records):
        history.add(record, seq)
        if isinstance(record, Migrate):
            found.clear()
        if isinstance(record, Release) and history.current is not None:
            found[history.current.next_round - 1] = history.epsilon()
    return found


class TrainingState:
    """Parameters, their running mean and the optimiser's state: of private gradients alone.

    As a payload, a line of JSON with the terms and then these arrays. Raises: ArgumentError for an
    optimiser that does not keep their shapes and dtypes.
    """

    def __init__(
        self, theta: NDArray[np.float32], optimizer: Optimizer, terms: Mapping[str, Any]
    ) -> None:
        self.theta = self.mean = theta
        self._optimizer, self._average = optimizer, float(terms["average"])
        self._head = json.dumps(terms, sort_keys=True, separators=(",", ":")).encode()
        self._moments = tuple(optimizer.init(tensor(theta)))
        self._rehearse()

    def apply(self, gradient: NDArray[np.float32], *, rate: float, step: int) -> None:
        """One step of the optimiser, number `step` from 0."""
        with np.errstate(all="ignore"):  # a step that was paid for is not lost to a warning
            theta, moments = self._optimizer.step(
                tensor(self.theta), tensor(gradient), self._moments, lr=rate
            )
            self.theta, self._moments = theta.numpy(), tuple(moments)
            # The decay grows to `average`, so that early steps do not weigh for ever.
            decay = min(self._average, (1 + step) / (10 + step))
            self.mean = (decay * self.mean + (1 - decay) * self.theta).astype(np.float32)

    def trained(self) -> NDArray[np.float32]:
        """The parameters of the model."""
        return (self.mean if self._average else self.theta).copy()

    def payload(self) -> bytes:
        """All of it, for the release of a round."""
        data = [np.ascontiguousarray(array).tobytes() for array in self._arrays()]
        return self._head + b"\n" + b"".join(data)

    def restore(self, payload: bytes, *, index: int) -> None:
        """Go on from what round `index` released.

        Raises: PlanError if it was trained with anything else, which it names.
        """
        head, _, data = payload.partition(b"\n")
        arrays = self._arrays()
        if head != self._head or len(data) != sum(array.nbytes for array in arrays):
            raise _other_terms(_differences(head, self._head), index)
        found, start = [], 0
        for array in arrays:
            part = data[start : start + array.nbytes]
            found.append(np.frombuffer(part, array.dtype).reshape(array.shape).copy())
            start += array.nbytes
        self.theta, self.mean, *moments = found
        self._moments = tuple(tensor(moment) for moment in moments)

    def _arrays(self) -> list[NDArray[Any]]:
        return [self.theta, self.mean, *(tensor(moment).numpy() for moment in self._moments)]

    def _rehearse(self) -> None:
        """A step of no gradient and no rate, which is not kept."""
        before = [(array.shape, array.dtype) for array in self._arrays()]
        theta, mean, moments = self.theta, self.mean, self._moments
        self.apply(np.zeros_like(theta), rate=0.0, step=0)
        after = [(array.shape, array.dtype) for array in self._arrays()]
        self.theta, self.mean, self._moments = theta, mean, moments
        if before != after:
            raise ArgumentError(
                f"fit_private: the {type(self._optimizer).__name__} gives other shapes or dtypes "
                f"than it is given",
                why="a step maps parameters and state to such as the next step can take",
                fix="pass one of fedcore.optim, or give back arrays like those of init()",
            )


def _described(value: Any) -> Any:
    """What can be named of a setting: its function or class, and the numbers that it was made of.

    Nothing that another process would write otherwise, as addresses in memory.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple | list):
        return [_described(item) for item in value]
    if isinstance(value, partial):
        options = {name: _described(item) for name, item in sorted(value.keywords.items())}
        return [_described(value.func), _described(value.args), options]
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return _name(value)
    if is_dataclass(value):
        held = {field.name: getattr(value, field.name) for field in fields(value)}
    else:
        held = dict(getattr(value, "__dict__", {}))
    plain = {name: item for name, item in sorted(held.items()) if isinstance(item, _PLAIN)}
    return [_name(type(value)), plain]


def _name(value: Any) -> str:
    """Without its module: a script that was moved trains as it did."""
    return str(value.__qualname__)


def _differences(found: bytes, expected: bytes) -> dict[str, tuple[Any, Any]]:
    """By name, the terms that differ; none if `found` are no terms at all."""
    try:
        released, now = json.loads(found), json.loads(expected)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(released, dict):
        return {}
    return {
        name: (released.get(name), now[name]) for name in now if released.get(name) != now[name]
    }


def _other_terms(differences: Mapping[str, tuple[Any, Any]], index: int) -> PlanError:
    if not differences:
        return PlanError(
            f"round {index} was released by something else than this training",
            why="what stands in the ledger for it is not of this form",
            fix="go on with the program that the ledger was begun with",
        )
    listed = "; ".join(
        f"{name}: {json.dumps(was):.120} then, {json.dumps(now):.120} now"
        for name, (was, now) in differences.items()
    )
    return PlanError(
        f"round {index} was trained with another {' and '.join(differences)}",
        why=f"the ledger would serve the old model for it: {listed}",
        fix="pass what the run was begun with; another run takes another ledger, and on the same "
        "data both are spent",
    )
