"""What a run of the simulator leaves behind, in numbers: one record a round, one of the whole.

A record can hold only what may be shown. Under differential privacy that is what was released, and
what follows from it: losses and accuracies that were measured on devices are None there, and a
record that has both does not exist.
"""

from __future__ import annotations

import hashlib
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from importlib import metadata
from types import MappingProxyType
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedcore.errors import ArgumentError, PlanError
from fedcore.tensor import blas

__all__ = [
    "Evaluation",
    "Mode",
    "OwnRows",
    "Privacy",
    "Result",
    "RoundRecord",
    "RunRecord",
    "Speed",
    "Spread",
    "Totals",
    "Versions",
    "digest_of",
]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Mode(Enum):
    """How clients' updates became a sum. `words`: what a reader has to be told of it."""

    EXACT = "exact"
    FAST = "fast"
    PLAIN = "plain"

    @property
    def words(self) -> str:
        """The label that stands beside every result of this mode."""
        return _WORDS[self]


_WORDS: Final = MappingProxyType(
    {
        Mode.EXACT: "exact: secure aggregation and privacy as they are deployed",
        Mode.FAST: "fast: masks were left out, because they cancel; integers and noise as deployed",
        Mode.PLAIN: "plain: NOT PRIVATE: float sums, no secure aggregation",
    }
)


class OwnRows(Enum):
    """On which of a client's rows the model that it uses was measured."""

    HELD_OUT = "held out"
    TRAINING = "training"

    @property
    def words(self) -> str:
        """To stand after "on"."""
        return f"{self.value.replace(' ', '-')} rows"


def digest_of(theta: NDArray[np.float32]) -> str:
    """The SHA-256 of a model (D,) in hexadecimal: of its float32 values, little-endian, no header.

    >>> digest_of(np.zeros(1, np.float32))[:8]
    'df3f6198'
    """
    if theta.ndim != 1 or theta.dtype != np.float32:
        raise ArgumentError(
            f"a model {theta.shape} of {theta.dtype} has no digest",
            why="the digest is that of the flat float32 vector (D,)",
            fix="pass the vector of the round",
        )
    return hashlib.sha256(np.ascontiguousarray(theta, "<f4").data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The global model on the test set, which is no device's: the loss, and metrics by name."""

    loss: float
    accuracy: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a quantity is distributed over `clients`: the mean, the deviation and percentiles."""

    clients: int
    mean: float
    deviation: float
    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """The spread of one value a client, (P,). Raises: ArgumentError for none.

        >>> Spread.of([0.0, 0.5, 1.0]).p10
        0.1
        """
        found = np.asarray(values, np.float64)
        if not found.size:
            raise ArgumentError(
                "a spread over no clients",
                why="neither a mean nor percentiles of nothing exist",
                fix="leave the spread None where nobody was measured",
            )
        p10, p50, p90 = (float(p) for p in np.percentile(found, (10, 50, 90)))
        return cls(
            clients=found.size,
            mean=float(found.mean()),
            deviation=float(found.std()),
            p10=p10,
            p50=p50,
            p90=p90,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What was spent up to the end of the round, and what may be: (`epsilon`, `delta`)."""

    epsilon: float
    budget: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast this machine was; the one part of a record that a repetition does not repeat."""

    wall_s: float
    trainings_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """A round that is over; `round` counts from 0.

    `model`: `digest_of` the vector after the round. `start_s`, `end_s`: virtual time. `funnel`:
    stages in their order, with how many clients passed each. `lost`: how many were lost, by phase
    and then by cause. `train_loss`: the mean over what clients trained on. `clients`: of the
    accuracy of the model that each client uses on its own rows. `personal`: the means of metrics of
    these models by name, of an algorithm of studies. `own_rows`: on which of their rows both were
    measured. `privacy`: None without. `bytes_down`, `bytes_up`: of all clients of the round.
    Raises: PlanError for what was measured on devices beside a promise of privacy, and for such a
    promise in the mode that keeps none; ArgumentError for a digest that is none.
    """

    round: int
    attempts: int = 1
    mode: Mode
    model: str
    start_s: float
    end_s: float
    speed: Speed
    selected: int
    reported: int
    funnel: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    train_loss: float | None = None
    test: Evaluation | None = None
    clients: Spread | None = None
    personal: Mapping[str, float] = field(default_factory=dict)
    own_rows: OwnRows | None = None
    privacy: Privacy | None = None
    bytes_down: int = 0
    bytes_up: int = 0

    def __post_init__(self) -> None:
        _freeze(self)
        _require_digest(self.model)
        if self.privacy is None:
            return
        unreleased = {
            "train_loss": self.train_loss is not None,
            "clients": self.clients is not None,
            "personal": bool(self.personal),
        }
        if names := [name for name, there in unreleased.items() if there]:
            raise PlanError(
                f"round {self.round + 1}: {', '.join(names)} beside a promise of privacy",
                why="it was measured on devices and not released, so no epsilon covers it",
                fix="leave it out, and evaluate the released model on the test set",
            )
        if self.mode is Mode.PLAIN:
            raise PlanError(
                f"round {self.round + 1}: an epsilon in the mode plain",
                why="float sums without noise keep no promise of privacy",
                fix='simulate the task in the mode "fast" or "exact"',
            )

    @property
    def drops(self) -> dict[str, int]:
        """How many clients were lost in each phase."""
        return {phase: sum(causes.values()) for phase, causes in self.lost.items()}

    def repeatable(self) -> RoundRecord:
        """This record without the speed of the machine: what every repetition has to agree in."""
        return replace(self, speed=Speed(wall_s=0.0, trainings_per_s=0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What computed a run; where one differs, the last bits of a model may."""

    fedcore: str
    numpy: str
    python: str
    blas: str

    @classmethod
    def here(cls) -> Self:
        """The versions of this process."""
        found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        kernels = blas.kernels()
        return cls(
            fedcore=metadata.version("fedcore-fl"),
            numpy=np.__version__,
            python=platform.python_version(),
            blas=f"{found['name']} {found['version']}" + (f" {kernels}" if kernels else ""),
        )

    def differing(self, other: Versions) -> tuple[str, ...]:
        """What differs, in words: ("numpy 2.3.1 -> 2.4.0",)."""
        return tuple(
            f"{one.name} {getattr(self, one.name)} -> {getattr(other, one.name)}"
            for one in fields(self)
            if getattr(self, one.name) != getattr(other, one.name)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run is: its name and number, what it simulates, with which seeds, how, and on what."""

    id: str
    name: str
    scenario_digest: str
    task_digest: str
    seeds: Mapping[str, int]
    mode: Mode
    private: bool
    versions: Versions

    def __post_init__(self) -> None:
        _freeze(self)
        _require_digest(self.scenario_digest)
        _require_digest(self.task_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """A whole run in sums. `virtual_s`: when the last round ended; `lost`: clients, by phase."""

    rounds: int
    virtual_s: float
    wall_s: float
    selected: int
    reported: int
    lost: Mapping[str, int]
    bytes_down: int
    bytes_up: int

    def __post_init__(self) -> None:
        _freeze(self)

    @classmethod
    def of(cls, rounds: Sequence[RoundRecord]) -> Self:
        """The totals of the records of a run."""
        lost: dict[str, int] = {}
        for record in rounds:
            for phase, count in record.drops.items():
                lost[phase] = lost.get(phase, 0) + count
        return cls(
            rounds=len(rounds),
            virtual_s=max((record.end_s for record in rounds), default=0.0),
            wall_s=math.fsum(record.speed.wall_s for record in rounds),
            selected=sum(record.selected for record in rounds),
            reported=sum(record.reported for record in rounds),
            lost=lost,
            bytes_down=sum(record.bytes_down for record in rounds),
            bytes_up=sum(record.bytes_up for record in rounds),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended. `ended`: why, in words; `model`: the digest of the last model.

    `test`, `clients`, `personal` and `own_rows` are the last that were measured, `best_accuracy`
    the highest on the test set. `privacy` is what was spent in all.
    """

    run: RunRecord
    ended: str
    model: str
    test: Evaluation | None
    clients: Spread | None
    personal: Mapping[str, float]
    own_rows: OwnRows | None = None
    privacy: Privacy | None
    best_accuracy: float | None
    totals: Totals

    def __post_init__(self) -> None:
        _freeze(self)
        _require_digest(self.model)

    @classmethod
    def of(
        cls,
        run: RunRecord,
        rounds: Sequence[RoundRecord],
        *,
        ended: str,
        privacy: Privacy | None = None,
    ) -> Self:
        """The result that follows from the records. Raises: ArgumentError without a round.

        `privacy`: what was spent in all; by default what the last record says, beyond which
        something may have been spent in vain.
        """
        if not rounds:
            raise ArgumentError(
                f"run {run.id} has no round and no result",
                why="a result tells of the model after the last round",
                fix="finish a run after its first round",
            )
        latest = rounds[::-1]
        accuracies = [r.test.accuracy for r in rounds if r.test and r.test.accuracy is not None]
        return cls(
            run=run,
            ended=ended,
            model=latest[0].model,
            test=next((r.test for r in latest if r.test is not None), None),
            clients=next((r.clients for r in latest if r.clients is not None), None),
            personal=next((r.personal for r in latest if r.personal), {}),
            own_rows=next((r.own_rows for r in latest if r.own_rows is not None), None),
            privacy=privacy or latest[0].privacy,
            best_accuracy=max(accuracies, default=None),
            totals=Totals.of(rounds),
        )


def _freeze(record: object) -> None:
    """Makes the mappings of a frozen dataclass read-only, and no longer the caller's."""
    for one in fields(record):  # type: ignore[arg-type]
        if isinstance(value := getattr(record, one.name), Mapping):
            object.__setattr__(record, one.name, _read_only(value))


def _read_only(value: Mapping[str, object]) -> Mapping[str, object]:
    return MappingProxyType(
        {k: _read_only(v) if isinstance(v, Mapping) else v for k, v in value.items()}
    )


def _require_digest(text: str) -> None:
    if not _SHA256.fullmatch(text):
        raise ArgumentError(
            f"{text!r:.80} is no digest",
            why="a digest is a SHA-256: 64 hexadecimal digits in lower case",
            fix="use digest_of(theta), or digest.hex()",
        )
