"""What a task says, one frozen record a table of its file: plain values, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final, Literal

from fedcore.federated.choices import (
    LayerSpec,
    OptimizerSpec,
    ScheduleSpec,
)
from fedcore.settings import Bounds, Options, Settings

__all__ = [
    "LARGEST_DIMENSION",
    "MOST_LAYERS",
    "NAME",
    "ArraySpec",
    "CohortSpec",
    "DataSpec",
    "DeadlineSpec",
    "EvaluationSpec",
    "ModelSpec",
    "PrivacySpec",
    "RoundsSpec",
    "SecAggSpec",
    "TrainingSpec",
    "UpdateSpec",
]

NAME: Final = r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?"
MOST_LAYERS: Final = 64
LARGEST_DIMENSION: Final = 10**9


@dataclass(frozen=True, kw_only=True)
class ArraySpec(Settings):
    """One array of a model that is not ours, in the order of its parameters; float32."""

    name: Annotated[str, Bounds(pattern=r"[A-Za-z0-9_./-]{1,127}")]
    shape: Annotated[tuple[int, ...], Bounds(least=1, most=LARGEST_DIMENSION, length=(0, 8))]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Settings):
    """What is trained: `layers` of `fedcore.nn`, an installed model by `name`, or `arrays`.

    `parts`: how many numbers each of its arrays has, parameters and then state, which clipping by
    layer goes by; filled in by `Task.resolved`.
    """

    layers: Annotated[tuple[LayerSpec, ...], Bounds(length=(0, MOST_LAYERS))] = ()
    name: Annotated[str | None, Bounds(pattern=NAME)] = None
    options: Options = ()
    arrays: Annotated[tuple[ArraySpec, ...], Bounds(length=(0, 1024))] = ()
    parts: Annotated[
        tuple[int, ...] | None, Bounds(least=1, most=LARGEST_DIMENSION, length=(1, 4096))
    ] = None

    @property
    def dimension(self) -> int | None:
        """D, how many numbers the model has; None until the parts are known."""
        return None if self.parts is None else sum(self.parts)


@dataclass(frozen=True, kw_only=True)
class DataSpec(Settings):
    """`dataset`: the name under which a device's owner bound the data."""

    dataset: Annotated[str, Bounds(pattern=NAME)]


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(Settings):
    """What a client does in a round.

    `program`: "local", or one that the device's owner installed, which `options` are for. `loss`: a
    name of `choices.LOSSES`. Under fedsgd the server takes the steps: no epochs, steps, batch_size
    or optimizer. `schedule`: of the learning rate, by round.
    """

    program: Annotated[str, Bounds(pattern=NAME)] = "local"
    loss: str | None = None
    epochs: Annotated[int | None, Bounds(least=1, most=10_000)] = None
    steps: Annotated[int | None, Bounds(least=1, most=10**7)] = None
    batch_size: Annotated[int | None, Bounds(least=1, most=2**20)] = None
    optimizer: OptimizerSpec | None = None
    schedule: ScheduleSpec | None = None
    options: Options = ()


@dataclass(frozen=True, kw_only=True)
class UpdateSpec(Settings):
    """How updates are reported without privacy; under privacy it keeps its defaults, unused.

    `range`: each coordinate of the weighted update is cut to ± this, and put on a grid.
    `slot_bits`: of a coordinate of the sum. `weighted`: a client counts by min(examples,
    largest_weight) / largest_weight, else each counts 1.
    """

    range: Annotated[float, Bounds(above=0, most=2.0**60)] = 4.0
    slot_bits: Annotated[int, Bounds(least=16, most=48)] = 32
    largest_weight: Annotated[int, Bounds(least=1, most=2**36)] = 1000
    weighted: bool = True


@dataclass(frozen=True, kw_only=True)
class PrivacySpec(Settings):
    """What is promised: the terms from which `Task.resolved` makes a `PrivacyPlan`.

    `unit`: "record" or "client". `population`: how many there are, public. `delta`: None for
    population^-1.1. `noise`: "central", "shares" or "compact". `sampling_rate`: of a Poisson sample
    of units in a round; None, for clients alone: whoever comes, no more than
    `maximum_participations` times and at least `minimum_separation` rounds apart. `clipping`:
    "flat", "per_layer" or "adaptive", towards `quantile` by steps of `clipping_rate`.
    `largest_weight`: clients count by min(examples, it) / it; None: alike. `denominator`: what sums
    are divided by; None: how many units are expected. `slot_bits`: under noise shares; None: 32.
    """

    unit: Literal["record", "client"]
    epsilon: Annotated[float, Bounds(above=0, most=1e6)]
    delta: Annotated[float | None, Bounds(above=0, below=1)] = None
    population: Annotated[int, Bounds(least=1, most=2**36)]
    clipping_norm: Annotated[Fraction, Bounds(above=0, most=2**60)]
    noise: Literal["central", "shares", "compact"] = "shares"
    sampling_rate: Annotated[Fraction | None, Bounds(above=0, most=1)] = None
    minimum_separation: Annotated[int | None, Bounds(least=1, most=2**31)] = None
    maximum_participations: Annotated[int | None, Bounds(least=1, most=2**31)] = None
    clipping: Literal["flat", "per_layer", "adaptive"] = "flat"
    quantile: Annotated[Fraction | None, Bounds(above=0, below=1)] = None
    clipping_rate: Annotated[Fraction | None, Bounds(above=0, most=1)] = None
    largest_weight: Annotated[int | None, Bounds(least=1, most=2**36)] = None
    denominator: Annotated[int | None, Bounds(least=1, most=2**36)] = None
    slot_bits: Annotated[int | None, Bounds(least=16, most=64)] = None


@dataclass(frozen=True, kw_only=True)
class SecAggSpec(Settings):
    """Terms of secure aggregation: see `fedcore.secagg.SessionConfig`."""

    profile: Literal["malicious", "semi_honest"] = "malicious"
    gamma: Annotated[Fraction, Bounds(least=0, below=1)] = Fraction(1, 10)
    delta: Annotated[Fraction, Bounds(least=0, below=1)] = Fraction(1, 10)
    sigma: Annotated[int, Bounds(least=40, most=1000)] = 100
    eta: Annotated[int, Bounds(least=1, most=1000)] = 30


@dataclass(frozen=True, kw_only=True)
class RoundsSpec(Settings):
    """How many rounds, and how often each may be tried."""

    count: Annotated[int, Bounds(least=1, most=10**6)]
    max_attempts: Annotated[int, Bounds(least=1, most=100)] = 3


@dataclass(frozen=True, kw_only=True)
class CohortSpec(Settings):
    """`goal`: reports that a round waits for; `minimum`: the fewest it goes on with.

    `overselection`: so many times `goal` are selected.
    """

    goal: Annotated[int, Bounds(least=1, most=2**14)]
    minimum: Annotated[int, Bounds(least=1, most=2**14)]
    overselection: Annotated[Fraction, Bounds(least=1, most=10)] = Fraction(1)

    @property
    def select(self) -> int:
        """How many clients a round is begun with, at most."""
        return math.ceil(self.goal * self.overselection)


@dataclass(frozen=True, kw_only=True)
class DeadlineSpec(Settings):
    """How long each phase may take, in seconds.

    `heartbeat_s`: between a client's signs of life; after `patience` missed ones it counts as lost.
    """

    selecting_s: Annotated[float, Bounds(least=0.001, most=30 * 86400.0)] = 60.0
    keys_s: Annotated[float, Bounds(least=0.001, most=30 * 86400.0)] = 60.0
    shares_s: Annotated[float, Bounds(least=0.001, most=30 * 86400.0)] = 60.0
    compute_s: Annotated[float, Bounds(least=0.001, most=30 * 86400.0)] = 600.0
    upload_s: Annotated[float, Bounds(least=0.001, most=30 * 86400.0)] = 300.0
    confirming_s: Annotated[float, Bounds(least=0.001, most=30 * 86400.0)] = 60.0
    unmasking_s: Annotated[float, Bounds(least=0.001, most=30 * 86400.0)] = 60.0
    heartbeat_s: Annotated[float, Bounds(least=0.001, most=3600.0)] = 30.0
    patience: Annotated[int, Bounds(least=1, most=100)] = 2


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec(Settings):
    """Devices measure the model on their own data in every `every`-th round; 0: never.

    `metrics`: names of `choices.METRICS`, beside the loss. `reported`: whether sums of it are sent;
    else a device keeps it for its owner, as under privacy it must.
    """

    every: Annotated[int, Bounds(least=0, most=10**6)] = 0
    metrics: Annotated[tuple[str, ...], Bounds(length=(0, 16))] = ()
    reported: bool = True

    def is_due(self, round: int) -> bool:
        """Whether devices measure the model that they are sent in this round, counted from 0."""
        return self.every > 0 and (round + 1) % self.every == 0
