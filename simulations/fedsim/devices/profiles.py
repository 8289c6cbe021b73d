"""What each client's device can do, drawn from the client alone and when somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import TaskError
from fedcore.federated.training import stream_of
from fedcore.tensor.random import Key
from fedsim.devices.availability import Always, Availability, DutyCycle, Places, Times
from fedsim.devices.distributions import DistributionSpec
from fedsim.devices.draws import Streams, uniforms
from fedsim.devices.spec import ClassSpec, DevicesSpec
from fedsim.devices.stages import Stage
from fedsim.devices.trace import Trace, read_trace

__all__ = ["DeviceProfile", "Devices", "Profiles"]

Vector = NDArray[np.float64]

_SPEEDS: Final = ("compute", "download", "upload")


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One device: its class, examples and bytes a second, seconds of an exchange, drop-outs.

    `dropout`: the probability of being lost at each stage, in the order of `Stage`.
    """

    kind: str
    compute: float
    download: float
    upload: float
    latency_s: float
    dropout: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Profiles:
    """The devices of some clients. Shapes: `kinds` and speeds (n,), `dropout` (n, stages)."""

    kinds: NDArray[np.int64]
    compute: Vector
    download: Vector
    upload: Vector
    latency_s: Vector
    dropout: Vector

    def probability(self, stage: Stage) -> Vector:
        """With which each is lost at a stage."""
        found: Vector = self.dropout[:, list(Stage).index(stage)]
        return found


class Devices:
    """The devices of the clients of these `names`, each by its own (seed, "device", name).

    `folder`: where the file of a trace is looked for. Nothing is kept for a client but its stream.
    Raises: TaskError for a trace that names none of the clients; DataFormatError for one that
    cannot be read.

    >>> devices = Devices(DevicesSpec(), seed=7, names=["ann", "bob"])
    >>> devices[1].compute, devices[1].latency_s
    (inf, 0.0)
    """

    def __init__(
        self,
        spec: DevicesSpec,
        *,
        seed: int,
        names: Sequence[str],
        folder: Path | None = None,
    ) -> None:
        self.spec, self.seed = spec, seed
        self.streams: Streams = np.array([stream_of(name) for name in names], np.uint64)
        self.availability = self._availability(names, folder or Path())

    def __len__(self) -> int:
        return len(self.streams)

    @cached_property
    def order(self) -> Places:
        """The clients by their streams: the same clients in the same order, however numbered."""
        return np.argsort(self.streams, kind="stable")

    def __getitem__(self, client: int) -> DeviceProfile:
        found = self.profiles(np.array([range(len(self))[client]]))
        return DeviceProfile(
            kind=self.spec.kinds[found.kinds[0]].name,
            compute=float(found.compute[0]),
            download=float(found.download[0]),
            upload=float(found.upload[0]),
            latency_s=float(found.latency_s[0]),
            dropout=tuple(found.dropout[0].tolist()),
        )

    def counts(self) -> Mapping[str, int]:
        """How many clients have a device of each class, by its name."""
        kinds = self.spec.kinds
        of = self.profiles(np.arange(len(self))).kinds if len(kinds) > 1 else np.zeros(len(self))
        found = np.bincount(of.astype(np.int64), minlength=len(kinds))
        return {kind.name: int(count) for kind, count in zip(kinds, found, strict=True)}

    def profiles(self, clients: Places) -> Profiles:
        """The devices of these clients."""
        kinds, key, streams = self.spec.kinds, Key(self.seed, "device"), self.streams[clients]
        u, waits = np.zeros((len(streams), 4)), np.zeros(len(streams))
        # To draw takes longer than all else here, and of ideal devices nothing is looked at.
        if len(kinds) > 1 or any(_field(name)(kinds[0]) is not None for name in _SPEEDS):
            u = uniforms(key, streams)
        if any(kind.latency_s is not None for kind in kinds):
            waits = uniforms(key.fold("latency"), streams)[:, 0]
        bounds = np.cumsum([kind.share for kind in kinds])
        of = np.searchsorted(bounds[:-1] / bounds[-1], u[:, 0], side="right")
        compute, download, upload = (
            _drawn(kinds, of, u[:, 1 + place], _field(name), np.inf)
            for place, name in enumerate(_SPEEDS)
        )
        return Profiles(
            kinds=of,
            compute=compute,
            download=download,
            upload=upload,
            latency_s=_drawn(kinds, of, waits, _field("latency_s"), 0.0),
            dropout=np.array([kind.dropout.probabilities for kind in kinds])[of],
        )

    def _availability(self, names: Sequence[str], folder: Path) -> Availability:
        options: Mapping[str, object] = dict(self.spec.availability.options)
        match self.spec.availability.name:
            case "cycle":
                return self._cycle(**options)  # type: ignore[arg-type]
            case "trace":
                return self._trace(names, folder, **options)  # type: ignore[arg-type]
            case _:
                return Always()

    def _cycle(self, *, period_s: float, share: float, spread: float) -> DutyCycle:
        period = max(1, round(1000 * period_s))
        key = Key(self.seed, "availability")

        def phases(clients: Places) -> Times:
            u = uniforms(key, self.streams[clients])[:, 0]
            return (u * spread * period).astype(np.int64)

        return DutyCycle(phases, period=period, length=max(1, round(share * period)))

    def _trace(
        self, names: Sequence[str], folder: Path, *, file: str, period_s: float, clients: str
    ) -> Trace:
        period = round(1000 * period_s)
        record = read_trace(folder / file, period=period)
        if clients == "drawn" and record.names:
            u = uniforms(Key(self.seed, "availability"), self.streams)[:, 0]
            rows = (u * len(record.names)).astype(np.int64)
        else:
            rows = _bearing(names, record.names)
        if not (rows >= 0).any():
            raise TaskError(
                f"the trace {file} names none of the {len(names)} clients",
                why=f"it names {_some(record.names)}, and the clients are {_some(names)}",
                fix='set clients = "drawn", so that each follows the record of some device',
                where="devices.availability.file",
            )
        return Trace(record, rows=rows, period=period)


def _field(name: str) -> Callable[[ClassSpec], DistributionSpec | None]:
    def of(kind: ClassSpec) -> DistributionSpec | None:
        found: DistributionSpec | None = getattr(kind, name)
        return found

    return of


def _drawn(
    kinds: Sequence[ClassSpec],
    of: NDArray[np.int64],
    u: Vector,
    field: Callable[[ClassSpec], DistributionSpec | None],
    ideal: float,
) -> Vector:
    """A quantity of each device (n,), whose class is `of` it and whose quantile `u`."""
    found = np.full(u.shape, ideal)
    for place, kind in enumerate(kinds):
        distribution = field(kind)
        if distribution is not None:
            mine = of == place
            found[mine] = distribution.quantiles(u[mine])
    return found


def _bearing(names: Sequence[str], recorded: Sequence[str]) -> Places:
    """The row of the record that bears each client's name, (P,); -1 where none does."""
    places = {name: place for place, name in enumerate(recorded)}
    return np.array([places.get(name, -1) for name in names], np.int64)


def _some(names: Iterable[str]) -> str:
    shown = [f"{name:.40}" for _, name in zip(range(4), names, strict=False)]
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "") or "nobody"
