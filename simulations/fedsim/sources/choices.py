"""Sources by the name that a scenario gives, with their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fedcore.federated.choices import Choice
from fedsim.sources.arrays import Npz
from fedsim.sources.census import Adult
from fedsim.sources.device_files import DeviceFiles
from fedsim.sources.images import Digits, Mnist
from fedsim.sources.medical import HeartDisease, Parkinsons
from fedsim.sources.recordings import Har
from fedsim.sources.source import Reader, Source
from fedsim.sources.synthetic import Synthetic
from fedsim.sources.tables import Arff, Csv, Wisdm
from fedsim.sources.text import Shakespeare

__all__ = ["SOURCES", "SourceSpec"]

SOURCES: Final[Mapping[str, type[Reader]]] = MappingProxyType(
    {
        "adult": Adult,
        "arff": Arff,
        "csv": Csv,
        "device_files": DeviceFiles,
        "digits": Digits,
        "har": Har,
        "heart_disease": HeartDisease,
        "mnist": Mnist,
        "npz": Npz,
        "parkinsons": Parkinsons,
        "shakespeare": Shakespeare,
        "synthetic": Synthetic,
        "wisdm": Wisdm,
    }
)
"""Sources by the name that a scenario gives; each class has the options as its fields."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec(Choice):
    """A source and its options: `source = { name = "mnist", path = "data/mnist" }`.

    >>> table = {"name": "synthetic", "rows": 6, "shape": [2], "classes": 3}
    >>> SourceSpec.read(table, "source").load(Path()).train
    Dataset('synthetic', x float32 (6, 2), y int64 (6,))
    """

    known = SOURCES

    def load(self, base: Path) -> Source:
        """What the source holds; its paths are relative to `base`, the scenario's folder.

        Raises: what the source's own `load` raises.
        """
        reader: Reader = SOURCES[self.name](**dict(self.options))
        return reader.load(base)
