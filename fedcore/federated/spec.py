"""What a task says, one frozen record a table of its file: plain values, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from fedcore.federated.choices import (
    AlgorithmSpec,
    LayerSpec,
    OptimizerSpec,
    ScheduleSpec,
)
from fedcore.settings import Options, Settings, setting

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

    name: str = setting(pattern=r"[A-Za-z0-9_./-]{1,127}")
    shape: tuple[int, ...] = setting(least=1, most=LARGEST_DIMENSION, length=(0, 8))

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Settings):
    """What is trained: `layers` of `fedcore.nn`, an installed model by `name`, or `arrays`.

    `dimension`: how many numbers it has, parameters and then state; `parts`: how many each of its
    arrays has, which clipping by layer goes by. Both are filled in by `Task.resolved`.
    """

    layers: tuple[LayerSpec, ...] = setting((), length=(0, MOST_LAYERS))
    name: str | None = setting(None, pattern=NAME)
    options: Options = ()
    arrays: tuple[ArraySpec, ...] = setting((), length=(0, 1024))
    dimension: int | None = setting(None, least=1, most=LARGEST_DIMENSION)
    parts: tuple[int, ...] | None = setting(None, least=1, most=LARGEST_DIMENSION, length=(1, 4096))


@dataclass(frozen=True, kw_only=True)
class DataSpec(Settings):
    """`dataset`: the name under which a device's owner bound the data."""

    dataset: str = setting(pattern=NAME)


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(Settings):
    """What a client does in a round.

    `program`: "local", or one that the device's owner installed, which `options` are for. `loss`: a
    name of `choices.LOSSES`. Under fedsgd the server takes the steps: no epochs, steps, batch_size
    or optimizer. `schedule`: of the learning rate, by round.
    """

    program: str = setting("local", pattern=NAME)
    loss: str | None = None
    epochs: int | None = setting(None, least=1, most=10_000)
    steps: int | None = setting(None, least=1, most=10**7)
    batch_size: int | None = setting(None, least=1, most=2**20)
    optimizer: OptimizerSpec | None = None
    schedule: ScheduleSpec | None = None
    options: Options = ()


@dataclass(frozen=True, kw_only=True)
class UpdateSpec(Settings):
    """How updates are reported without privacy; under privacy it keeps its defaults, unused.

    `range`: each coordinate of the weighted update is cut to ± this, and put on a grid. `slot_bits`:
    of a coordinate of the sum. `weighted`: a client counts by min(examples, largest_weight) /
    largest_weight, else each counts 1.
    """

    range: float = setting(4.0, above=0, most=2.0**60)
    slot_bits: int = setting(32, least=16, most=64)
    largest_weight: int = setting(1000, least=1, most=2**36)
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
    epsilon: float = setting(above=0, most=1e6)
    delta: float | None = setting(None, above=0, below=1)
    population: int = setting(least=1, most=2**36)
    clipping_norm: Fraction = setting(above=0, most=2**60)
    noise: Literal["central", "shares", "compact"] = "shares"
    sampling_rate: Fraction | None = setting(None, above=0, most=1)
    minimum_separation: int | None = setting(None, least=1, most=2**31)
    maximum_participations: int | None = setting(None, least=1, most=2**31)
    clipping: Literal["flat", "per_layer", "adaptive"] = "flat"
    quantile: Fraction | None = setting(None, above=0, below=1)
    clipping_rate: Fraction | None = setting(None, above=0, most=1)
    largest_weight: int | None = setting(None, least=1, most=2**36)
    denominator: int | None = setting(None, least=1, most=2**36)
    slot_bits: int | None = setting(None, least=16, most=64)


@dataclass(frozen=True, kw_only=True)
class SecAggSpec(Settings):
    """Terms of secure aggregation: see `fedcore.secagg.SessionConfig`."""

    profile: Literal["malicious", "semi_honest"] = "malicious"
    gamma: Fraction = setting(Fraction(1, 10), least=0, below=1)
    delta: Fraction = setting(Fraction(1, 10), least=0, below=1)
    sigma: int = setting(100, least=40, most=1000)
    eta: int = setting(30, least=1, most=1000)


@dataclass(frozen=True, kw_only=True)
class RoundsSpec(Settings):
    """How many rounds, and how often each may be tried."""

    count: int = setting(least=1, most=10**6)
    max_attempts: int = setting(3, least=1, most=100)


@dataclass(frozen=True, kw_only=True)
class CohortSpec(Settings):
    """`goal`: reports that a round waits for; `minimum`: the fewest it goes on with.

    `overselection`: so many times `goal` are selected.
    """

    goal: int = setting(least=1, most=2**14)
    minimum: int = setting(least=1, most=2**14)
    overselection: Fraction = setting(Fraction(1), least=1, most=10)

    @property
    def select(self) -> int:
        """How many clients a round is begun with, at most."""
        return math.ceil(self.goal * self.overselection)


@dataclass(frozen=True, kw_only=True)
class DeadlineSpec(Settings):
    """How long each phase may take, in seconds; `patience`: heartbeats missed before one is lost."""

    selecting_s: float = setting(60.0, least=0.001, most=30 * 86400.0)
    keys_s: float = setting(60.0, least=0.001, most=30 * 86400.0)
    shares_s: float = setting(60.0, least=0.001, most=30 * 86400.0)
    compute_s: float = setting(600.0, least=0.001, most=30 * 86400.0)
    upload_s: float = setting(300.0, least=0.001, most=30 * 86400.0)
    confirming_s: float = setting(60.0, least=0.001, most=30 * 86400.0)
    unmasking_s: float = setting(60.0, least=0.001, most=30 * 86400.0)
    heartbeat_s: float = setting(30.0, least=0.001, most=3600.0)
    patience: int = setting(2, least=1, most=100)


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec(Settings):
    """Devices measure the model on their own data in every `every`-th round; 0: never.

    `metrics`: names of `choices.METRICS`, beside the loss. `reported`: whether sums of it are sent;
    else a device keeps it for its owner, as under privacy it must.
    """

    every: int = setting(0, least=0, most=10**6)
    metrics: tuple[str, ...] = setting((), length=(0, 16))
    reported: bool = True
