"""Robust rules by the names that a scenario gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Self

from fedcore.federated.choices import Choice
from fedcore.settings import Bounds, Settings
from fedsim.robust.bulyan import Bulyan
from fedsim.robust.geometric_median import GeometricMedian
from fedsim.robust.grouped import Grouped
from fedsim.robust.krum import Krum, MultiKrum
from fedsim.robust.median import Median
from fedsim.robust.rule import Rule
from fedsim.robust.trimmed_mean import TrimmedMean

__all__ = ["ROBUST", "RobustChoice"]

ROBUST: Final[Mapping[str, type[Rule]]] = {
    "bulyan": Bulyan,
    "geometric_median": GeometricMedian,
    "krum": Krum,
    "median": Median,
    "multi_krum": MultiKrum,
    "trimmed_mean": TrimmedMean,
}
"""Rules by the name that a scenario gives; each takes its options by keyword."""


@dataclass(frozen=True, kw_only=True)
class _Groups(Settings):
    groups: Annotated[int, Bounds(least=0, most=1_000_000)] = 0


@dataclass(frozen=True, kw_only=True)
class RobustChoice(Choice):
    """A rule of `ROBUST` with all of its options, over means of `groups`; 0 means each update.

    >>> RobustChoice.read({"name": "krum", "f": 2, "groups": 9}, "robust").write()
    {'name': 'krum', 'f': 2, 'groups': 9}
    """

    known: ClassVar[Mapping[str, Any]] = ROBUST

    groups: int = 0

    @classmethod
    def read(cls, values: Mapping[str, Any], path: str) -> Self:
        own = {name: value for name, value in values.items() if name == "groups"}
        rest = {name: value for name, value in values.items() if name != "groups"}
        return replace(super().read(rest, path), groups=_Groups.read(own, path).groups)

    def write(self) -> dict[str, Any]:
        return {**super().write(), "groups": self.groups}

    def make(self) -> Rule | Grouped:
        """The rule. Raises: TaskError for fewer groups than it holds for."""
        rule: Rule = self.known[self.name](**dict(self.options))
        return Grouped(rule=rule, groups=self.groups) if self.groups else rule
