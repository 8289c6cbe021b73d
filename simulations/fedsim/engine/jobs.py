"""What a worker is told and what it answers: plain values, so that any pipe can carry them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

__all__ = ["ClientReport", "Facts", "Job"]


@dataclass(frozen=True, slots=True)
class Facts:
    """A round as workers have to know it, beside the vectors that are sent.

    `evaluate`: whether clients measure the model that they are sent. `clipping`: what adaptive
    clipping has come to, in hexadecimal.
    """

    round: int
    evaluate: bool = False
    clipping: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """Clients to be trained, by their places in the population, in leaves of the tree of a sum."""

    leaves: tuple[tuple[int, ...], ...]

    @property
    def members(self) -> list[int]:
        """All of them, in their order."""
        return [member for leaf in self.leaves for member in leaf]


@dataclass(frozen=True, slots=True)
class ClientReport:
    """What is known of one client's work, beside its vector.

    `weight`: what it counts in the sum. `examples` and `loss`: of its last pass, the loss summed.
    `measured`: sums over its examples of what it measured of the model it was sent. `failure`: why
    it gave nothing, a code and a sentence, or "".
    """

    index: int
    weight: int = 0
    examples: int = 0
    steps: int = 0
    loss: float = 0.0
    saturated: int = 0
    measured: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**values)
