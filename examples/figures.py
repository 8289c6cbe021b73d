"""What a run of the demo measured, as a record that is stored, shown as a table and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

__all__ = ["Figures", "Round"]


@dataclass(frozen=True)
class Round:
    """A round that was completed: who came through, and the model and the ε that it led to."""

    number: int
    accuracy: float
    epsilon: float
    selected: int
    reported: int


@dataclass(frozen=True)
class Figures:
    """Accuracies on the same test images, of the private federation and of its rivals.

    `rounds`: of the private federation. `epsilon`, `delta`: what its certificate says. `plain`:
    after each round of federated averaging without privacy. `alone`: what each writer's own
    training ends with, by name. `pooled`: after each round of training on all images in one place.
    """

    epsilon: float
    delta: float
    rounds: Sequence[Round]
    plain: Sequence[float]
    alone: Mapping[str, float]
    pooled: Sequence[float]

    @property
    def table(self) -> Iterator[tuple[str, float, str]]:
        """Each model's name, its accuracy, and what others are told of one image."""
        alone = sorted(self.alone.values())
        yield "federated and private", self.rounds[-1].accuracy, f"at most ε = {self.epsilon:.2f}"
        yield "federated, without privacy", self.plain[-1], "no bound"
        yield "a writer alone, best", alone[-1], "nothing"
        yield "a writer alone, mean", sum(alone) / len(alone), "nothing"
        yield "a writer alone, worst", alone[0], "nothing"
        yield "centralised, images pooled", self.pooled[-1], "the image itself"

    def save(self, path: Path) -> None:
        """Writes them as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote."""
        found = json.loads(path.read_text("utf-8"))
        return cls(**{**found, "rounds": [Round(**each) for each in found["rounds"]]})
