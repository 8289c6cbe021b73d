"""The table `[devices]` of a scenario: what clients run on, when they are there, how often lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np

from fedcore.errors import TaskError
from fedcore.federated.choices import Choice
from fedcore.settings import Bounds, Settings
from fedsim.devices.distributions import DistributionSpec
from fedsim.devices.stages import Stage

__all__ = ["AvailabilitySpec", "ClassSpec", "DevicesSpec", "DropoutSpec", "HardwareSpec"]

_NAME: Final = r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?"
_DAY_S: Final = 86400.0
_LONGEST_S: Final = 366 * _DAY_S


@dataclass(frozen=True, kw_only=True)
class DropoutSpec(Settings):
    """With which probability a device is lost at each stage of each attempt that comes so far."""

    checked_in: Annotated[float, Bounds(least=0, most=1)] = 0.0
    keys: Annotated[float, Bounds(least=0, most=1)] = 0.0
    shares: Annotated[float, Bounds(least=0, most=1)] = 0.0
    training: Annotated[float, Bounds(least=0, most=1)] = 0.0
    upload: Annotated[float, Bounds(least=0, most=1)] = 0.0
    confirming: Annotated[float, Bounds(least=0, most=1)] = 0.0
    unmasking: Annotated[float, Bounds(least=0, most=1)] = 0.0

    @property
    def probabilities(self) -> tuple[float, ...]:
        """In the order of the stages."""
        return tuple(getattr(self, stage.value) for stage in Stage)


@dataclass(frozen=True, kw_only=True)
class HardwareSpec(Settings):
    """What a device is able to do; what is left out takes no time.

    `compute`: examples it trains on in a second. `download`, `upload`: bytes in a second.
    `latency_s`: of one exchange with the server, there and back.
    """

    compute: DistributionSpec | None = None
    download: DistributionSpec | None = None
    upload: DistributionSpec | None = None
    latency_s: DistributionSpec | None = None
    dropout: DropoutSpec = field(default_factory=DropoutSpec)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("compute", "download", "upload"):
            speed = getattr(self, name)
            if speed is not None and speed.quantiles(np.zeros(1))[0] <= 0:
                raise TaskError(
                    f"{name} may be 0 a second",
                    why="such a device would never be done",
                    fix="draw from above 0; a device that is lost has a probability in dropout",
                    where=f"devices.{name}",
                )


@dataclass(frozen=True, kw_only=True)
class ClassSpec(HardwareSpec):
    """A kind of device: a client has one with a probability in proportion to `share`."""

    name: Annotated[str, Bounds(pattern=_NAME)]
    share: Annotated[float, Bounds(above=0, most=1e9)]


@dataclass(frozen=True, kw_only=True)
class _Always(Settings):
    pass


@dataclass(frozen=True, kw_only=True)
class _Cycle(Settings):
    period_s: Annotated[float, Bounds(least=0.001, most=_LONGEST_S)] = _DAY_S
    share: Annotated[float, Bounds(least=0.001, most=1)]
    spread: Annotated[float, Bounds(least=0, most=1)] = 1.0


@dataclass(frozen=True, kw_only=True)
class _Trace(Settings):
    file: str
    period_s: Annotated[float, Bounds(least=0, most=_LONGEST_S)] = 0.0
    clients: Literal["named", "drawn"] = "named"


@dataclass(frozen=True, kw_only=True)
class AvailabilitySpec(Choice):
    """When devices are there: "always", by a "cycle" of their own, or as a "trace" recorded.

    cycle: for a `share` of each `period_s`, begun by each client at a time of its own in a `spread`
    of the period: 0 for all at once, 1 for any time of the day. trace: a `file` as
    `devices.trace` describes it, which repeats after `period_s`, 0 for not; `clients` follow the
    record of their own name, or one that is drawn for each.
    """

    known: ClassVar[Mapping[str, Any]] = {"always": _Always, "cycle": _Cycle, "trace": _Trace}
    key = "kind"


@dataclass(frozen=True, kw_only=True)
class DevicesSpec(HardwareSpec):
    """The devices of a population: ideal ones by default, infinitely fast and never lost.

    `classes`: kinds of devices; then what a device is able to do stands in each of them instead.
    """

    availability: AvailabilitySpec = field(default_factory=lambda: AvailabilitySpec(name="always"))
    classes: Annotated[tuple[ClassSpec, ...], Bounds(length=(0, 64))] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [each.name for each in self.classes]
        if len(set(names)) != len(names):
            raise TaskError(
                f"devices.classes: {len(set(names))} names for {len(names)} classes",
                why="reports tell the classes of devices apart by name",
                fix="name each of them once",
                where="devices.classes",
            )
        own = [
            each.name
            for each in fields(HardwareSpec)
            if getattr(self, each.name) != getattr(HardwareSpec(), each.name)
        ]
        if self.classes and own:
            raise TaskError(
                f"devices.{own[0]} stands beside devices.classes",
                why="it would hold for no device: each is of a class, which says what it can do",
                fix=f"set {own[0]} in each [[devices.classes]], or leave the classes out",
                where=f"devices.{own[0]}",
            )

    @property
    def kinds(self) -> tuple[ClassSpec, ...]:
        """All classes of devices, one named "device" where there are none to tell apart."""
        if self.classes:
            return self.classes
        own = {each.name: getattr(self, each.name) for each in fields(HardwareSpec)}
        return (ClassSpec(name="device", share=1.0, **own),)

    @property
    def ideal(self) -> bool:
        """Whether all are always there, done at once and never lost."""
        return self == DevicesSpec()
