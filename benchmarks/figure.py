"""A figure carries what it is compared with and what it must reach, so that it stands alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Figure", "Json", "Target", "UnmeasuredError"]

Json: TypeAlias = str | float | bool | None


class UnmeasuredError(Exception):
    """What was to be measured did not come about, so that there is no number."""


@dataclass(frozen=True)
class Target:
    """A bound on a figure's `value`, or on its `ratio` to what it is measured against.

    >>> str(Target("ratio", ">=", 1.2)), Target("ratio", ">=", 1.2).met_by(1.3)
    ('ratio >= 1.2', True)
    """

    of: Literal["value", "ratio"]
    relation: Literal["<=", ">="]
    bound: float

    def met_by(self, number: float | None) -> bool | None:
        """Whether `number` keeps the bound; None where there is no number to judge."""
        if number is None:
            return None
        return number <= self.bound if self.relation == "<=" else number >= self.bound

    def __str__(self) -> str:
        return f"{self.of} {self.relation} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    `name` is its benchmark's name, or that name, a full stop and what was measured, as in
    `train-A.memory`. `ratio` is `value` divided by the same quantity of `against`, measured in the
    same run; both are None where nothing could be measured beside it.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    against: str | None = None
    target: Target | None = None

    @property
    def benchmark(self) -> str:
        """The name of the benchmark that the figure belongs to."""
        return self.name.partition(".")[0]

    @property
    def meets(self) -> bool | None:
        """Whether the target is met; None without a target, or where its ratio is unknown."""
        if self.target is None:
            return None
        return self.target.met_by(self.value if self.target.of == "value" else self.ratio)

    def record(self, *, machine: str, foreign_cores: float | None) -> dict[str, Json]:
        """The figure as one flat JSON object; numbers are rounded to four significant digits.

        `foreign_cores`: mean number of cores that other programs kept busy meanwhile.
        Raises: UnmeasuredError, where what is measured never came to an end.
        """
        if not math.isfinite(self.value):
            raise UnmeasuredError(
                f"{self.name} would be {self.value}: too much of it failed or was never answered; "
                "run it again while the machine has nothing else to do"
            )
        ratio = self.ratio if self.ratio is not None and math.isfinite(self.ratio) else None
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "ratio": None if ratio is None else _rounded(ratio),
            "against": self.against,
            "target": None if self.target is None else str(self.target),
            "meets": self.meets,
            "machine": machine,
            "foreign_cores": None if foreign_cores is None else round(foreign_cores, 2),
        }


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")
