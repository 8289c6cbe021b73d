"""What a worker is told and what it answers: plain values, so that any pipe can carry them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClientReport", "Facts", "Job", "Round", "Work", "described"]

Vector: TypeAlias = NDArray[np.float32]
Work: TypeAlias = Literal["sum", "rows", "pieces", "clients"]


@dataclass(frozen=True, slots=True)
class Facts:
    """A round as workers have to know it, beside the vectors that are sent.

    `evaluate`: whether clients measure the model that they are sent. `clipping`: what adaptive
    clipping has come to, in hexadecimal.
    """

    round: int
    evaluate: bool = False
    clipping: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """All that clients are sent: the model `theta` (D,), and by name the vectors beside it."""

    theta: Vector
    facts: Facts
    sent: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is to do in a round, for members in leaves of the tree of a sum.

    `work`: members are clients by their places in the population, who are trained, and added up
    ("sum") or each written into one of `rows` ("rows"), or who measure the models that they use
    ("clients"); or they are pieces of the test set ("pieces"). `versions`: of each client the
    round in which it last kept state, -1 for none; empty where nobody keeps any.
    """

    leaves: tuple[tuple[int, ...], ...]
    work: Work = "sum"
    rows: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()

    @property
    def members(self) -> list[int]:
        """All of them, in their order."""
        return [member for leaf in self.leaves for member in leaf]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "leaves": self.leaves,
            "work": self.work,
            "rows": self.rows,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        leaves, rows, versions = (values[name] for name in ("leaves", "rows", "versions"))
        return cls(tuple(map(tuple, leaves)), values["work"], tuple(rows), tuple(versions))


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
        return {
            "index": self.index,
            "weight": self.weight,
            "examples": self.examples,
            "steps": self.steps,
            "loss": self.loss,
            "saturated": self.saturated,
            "measured": dict(self.measured),
            "failure": self.failure,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**values)


def described(error: Exception) -> str:
    """An error's own first line; of what is no error of ours its kind as well."""
    first = str(error).split("\n", 1)[0]
    return first if first.startswith("FED-") else f"{type(error).__name__}: {first}"
