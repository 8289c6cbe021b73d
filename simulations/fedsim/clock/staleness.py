"""How much an update counts that was made of an older model than the one it arrives at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from fedcore.federated.choices import Choice
from fedcore.settings import Bounds, Settings

__all__ = ["StalenessSpec"]


@dataclass(frozen=True, kw_only=True)
class _Constant(Settings):
    def at(self, staleness: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class _Polynomial(Settings):
    exponent: Annotated[float, Bounds(least=0, most=100)] = 0.5

    def at(self, staleness: int) -> float:
        return float((1 + staleness) ** -self.exponent)


@dataclass(frozen=True, kw_only=True)
class StalenessSpec(Choice):
    """The weight of an update that is τ versions old: "polynomial", (1 + τ)^−exponent, or 1.

    Source: Nguyen et al., "Federated learning with buffered asynchronous aggregation" (AISTATS
    2022), whose weight 1/√(1 + τ) is the default; Xie et al., arXiv:1903.03934, for the others.

    >>> StalenessSpec(name="polynomial").weight(3)
    0.5
    """

    known: ClassVar[Mapping[str, Any]] = {"constant": _Constant, "polynomial": _Polynomial}
    key = "kind"

    def weight(self, staleness: int) -> float:
        """From 1 for an update of the present model down."""
        found: float = self.known[self.name](**dict(self.options)).at(staleness)
        return found
