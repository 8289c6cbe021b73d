"""Partitioners and shifts by the name that a scenario gives, with their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from numpy.typing import NDArray

from fedcore.errors import DatasetError, TaskError
from fedcore.federated.choices import Choice
from fedcore.settings import Bounds, Settings
from fedsim.partition import by_feature, by_id, by_label, by_size
from fedsim.partition.partition import Partition

if TYPE_CHECKING:  # a population is made of a partition, not the other way round
    from fedsim.population import Shift

__all__ = ["PARTITIONERS", "SHIFTS", "PartitionSpec", "Partitioner", "ShiftSpec"]

_Alpha = Annotated[float, Bounds(least=by_label.LEAST_ALPHA, most=by_label.LARGEST_ALPHA)]
_Count = Annotated[int, Bounds(least=1)]
_Spread = Annotated[float, Bounds(least=0)]


@dataclass(frozen=True, kw_only=True)
class Partitioner(Settings):
    """The options of a partitioner, with their defaults; `deal` takes them by name."""

    deal: ClassVar[Callable[..., Partition]]


@dataclass(frozen=True, kw_only=True)
class _Classes(Partitioner):
    deal = by_label.classes
    classes_per_client: _Count


@dataclass(frozen=True, kw_only=True)
class _Dirichlet(Partitioner):
    deal = by_label.dirichlet
    alpha: _Alpha
    minimum: _Count = 1


@dataclass(frozen=True, kw_only=True)
class _DirichletByClient(Partitioner):
    deal = by_label.dirichlet_by_client
    alpha: _Alpha


@dataclass(frozen=True, kw_only=True)
class _Exponential(Partitioner):
    deal = by_size.exponential
    ratio: Annotated[float, Bounds(least=1, most=by_size.LARGEST_RATIO)] = 100.0
    minimum: _Count = 1


@dataclass(frozen=True, kw_only=True)
class _Iid(Partitioner):
    deal = by_label.iid


@dataclass(frozen=True, kw_only=True)
class _Linear(Partitioner):
    deal = by_size.linear
    minimum: _Count = 1


@dataclass(frozen=True, kw_only=True)
class _LogNormal(Partitioner):
    deal = by_size.log_normal
    sigma: Annotated[float, Bounds(least=0, most=by_size.LARGEST_SIGMA)] = 1.0
    minimum: _Count = 1


@dataclass(frozen=True, kw_only=True)
class _Natural(Partitioner):
    deal = by_id.natural
    minimum: _Count = 1
    keep: Literal["first", "sample"] = "first"


@dataclass(frozen=True, kw_only=True)
class _Shards(Partitioner):
    deal = by_label.shards
    shards_per_client: _Count = 2


@dataclass(frozen=True, kw_only=True)
class _Square(Partitioner):
    deal = by_size.square
    minimum: _Count = 1


PARTITIONERS: Final[Mapping[str, type[Partitioner]]] = MappingProxyType(
    {
        "classes": _Classes,
        "dirichlet": _Dirichlet,
        "dirichlet_by_client": _DirichletByClient,
        "exponential": _Exponential,
        "iid": _Iid,
        "linear": _Linear,
        "log_normal": _LogNormal,
        "natural": _Natural,
        "shards": _Shards,
        "square": _Square,
    }
)
"""Partitioners by the name that a scenario gives; each class has the options as its fields.

`by_feature.vertical` is none of them: its parties share all rows, and no average of their models
means anything.
"""


@dataclass(frozen=True, kw_only=True)
class PartitionSpec(Choice):
    """A partitioner and its options: `partition = { name = "dirichlet", alpha = 0.3 }`.

    >>> import numpy as np
    >>> spec = PartitionSpec.read({"name": "exponential", "ratio": 4}, "partition")
    >>> spec.make(np.zeros(7), None, clients=3, seed=1).sizes().tolist()
    [1, 2, 4]
    """

    known = PARTITIONERS

    def make(
        self, labels: NDArray[Any], ids: NDArray[Any] | None, *, clients: int | None, seed: int
    ) -> Partition:
        """The partition of the rows that have these labels (N, ...) and ids (N,).

        `clients`: how many; None for as many as there are ids, of the partitioner "natural" alone.
        Raises: TaskError without what the partitioner needs; DatasetError for ids that are not one
        a label; what the partitioner itself refuses.
        """
        if ids is not None and ids.shape[:1] != labels.shape[:1]:
            raise DatasetError(
                f"ids of shape {ids.shape} for {len(labels)} labels",
                why="row i belongs to id i",
                fix=f"pass {len(labels)} ids",
            )
        options = dict(self.options)
        deal = PARTITIONERS[self.name].deal
        if self.name == "natural":
            if ids is None:
                raise TaskError(
                    "the data say of no row whose it is",
                    why='the partitioner "natural" makes a client of each id',
                    fix='take data with ids, or a partitioner of labels like "dirichlet"',
                    where="partition",
                )
            drawn = seed if options.pop("keep") == "sample" else None
            return deal(ids, clients=clients, seed=drawn, **options)
        if clients is None:
            raise TaskError(
                f'the partitioner "{self.name}" is not told how many clients to make',
                why='only "natural" finds them in the data',
                fix="set the number of clients",
                where="partition",
            )
        return deal(labels, clients, seed=seed, **options)


@dataclass(frozen=True, kw_only=True)
class _GaussianNoise(Settings):
    sigma: _Spread


@dataclass(frozen=True, kw_only=True)
class _Rotation(Settings):
    degrees: Annotated[tuple[float, ...], Bounds(length=(1, 64))] = (0.0, 90.0, 180.0, 270.0)


@dataclass(frozen=True, kw_only=True)
class _SensorGain(Settings):
    scale: Annotated[float, Bounds(least=0, most=by_feature.LARGEST_SCALE)] = 0.1
    offset: _Spread = 0.0


SHIFTS: Final[Mapping[str, type[Settings]]] = MappingProxyType(
    {"gaussian_noise": _GaussianNoise, "rotation": _Rotation, "sensor_gain": _SensorGain}
)
"""Shifts of features by the name that a scenario gives."""


@dataclass(frozen=True, kw_only=True)
class ShiftSpec(Choice):
    """A shift of features and its options: `shift = { name = "rotation", degrees = [0, 90] }`."""

    known = SHIFTS

    def make(self, *, clients: int, seed: int) -> Shift:
        """The shift for a population of so many clients."""
        options: dict[str, Any] = dict(self.options)
        if self.name == "gaussian_noise":
            return by_feature.GaussianNoise(**options, clients=clients, seed=seed)
        if self.name == "sensor_gain":
            return by_feature.SensorGain(**options, seed=seed)
        return by_feature.Rotation(**options)
