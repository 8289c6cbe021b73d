"""Who trains: a program that a device's owner installed, found by the name that a task gives.

A task names programs and never carries one. What a program is asked is one value, and so is what it
answers, so that one which wraps another framework stands where the built-in one does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import ProgramError
from fedcore.federated.task import Task

__all__ = [
    "PROGRAM_GROUP",
    "Program",
    "Progress",
    "TrainingRequest",
    "TrainingResult",
    "find_program",
]

PROGRAM_GROUP = "fedcore.programs"
"""Entry points of installed packages: each a program, or a class of one that takes no arguments."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a client's training is: `step` of `steps` are done, the last with this loss."""

    step: int
    steps: int
    loss: float


def _say_nothing(told: object) -> None:
    """What nobody follows."""


def _go_on() -> bool:
    """Training that nobody cancels."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingRequest:
    """What a round asks of one client.

    `theta`: the global model, float32 (D,), which a program must not change. `stream`: the client's
    number in streams of random numbers, see `training.stream_of`. `evaluate`: measure `theta` on
    the client's data before training. `clipping`: what adaptive clipping has come to, as the server
    sends it. `progress` is told of every step, `measured` of what the evaluation found, whether it
    is reported or stays here, `failed` of an error that goes no further: the owner of the data is
    to learn that they counted as zeros, or could not be measured. `cancelled` is asked before
    every step; once it says True, a program raises CancelledError.
    """

    task: Task
    theta: NDArray[np.float32]
    dataset: Dataset
    round: int
    stream: int
    evaluate: bool = False
    clipping: bytes = b""
    progress: Callable[[Progress], None] = _say_nothing
    measured: Callable[[Mapping[str, float]], None] = _say_nothing
    failed: Callable[[Exception], None] = _say_nothing
    cancelled: Callable[[], bool] = _go_on


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """What a program made of a request.

    `delta`: the new parameters less `theta`, float32 (D,). `weight`: how many examples it was
    trained on. `statistics`: "loss", summed over them, and what was measured before, by the names
    of `fields.statistics_of`; what is missing counts as 0.
    """

    delta: NDArray[np.float32]
    weight: int
    statistics: Mapping[str, float] = field(default_factory=dict)


class Program(Protocol):
    """One client's training in one round."""

    def train(self, request: TrainingRequest, /) -> TrainingResult:
        """Trains from `request.theta` on `request.dataset`.

        Raises: CancelledError, DivergenceError, ProgramError (the data do not fit the task). Where
        clients are protected by differential privacy, whatever else than CancelledError it raises
        counts as an update of zeros: an error would tell the server of the data.
        """
        ...


def find_program(name: str, given: Mapping[str, Program]) -> Program:
    """The program of that name: of those `given`, else of an installed package.

    Raises: ProgramError, which lists what there is.
    """
    if name in given:
        return given[name]
    installed = entry_points(group=PROGRAM_GROUP)
    if name not in installed.names:
        known = ", ".join(sorted({"local", *given, *installed.names}))
        raise ProgramError(
            f"no program {name!r:.80} is installed",
            why=f"a task names programs and never brings one; here there are: {known}",
            fix="install the package that provides it, or pass programs={name: program}",
        )
    found = installed[name].load()
    program: Program = found() if isinstance(found, type) else found
    return program
