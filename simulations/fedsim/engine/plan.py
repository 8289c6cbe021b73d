"""What a worker is made of, as plain values: one that is started elsewhere makes the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, Literal, Self, TypeAlias

from fedcore.entropy import Entropy
from fedcore.errors import ProgramError
from fedcore.federated.programs import Program
from fedcore.federated.task import Task
from fedsim.engine.personal import Personal
from fedsim.engine.training import training_of
from fedsim.engine.ways import Floats, Grid, Way, Words
from fedsim.engine.worker import Worker
from fedsim.population import Population

__all__ = ["WAYS", "Plan", "WayName", "program_at"]

WayName: TypeAlias = Literal["floats", "grid", "words"]
WAYS: Final = ("floats", "grid", "words")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a task's clients are worked for.

    `lanes`: how many are trained side by side at most; None: as many as pay. `programs`: by name,
    where in an installed module each is, as "module:attribute": an object with the method `train`,
    or what makes one.
    """

    task: Task
    way: WayName
    lanes: int | None = None
    programs: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, str]:
        """How many numbers a client gives, and of which dtype."""
        if self.way == "words":
            return sum(block.words for block in self.task.layout.blocks), "u8"
        return self.task.dimension, "f4" if self.way == "floats" else "f8"

    def worker(self, population: Population, *, entropy: Entropy | None = None) -> Worker:
        """A worker for these clients. Raises: ProgramError for what is not installed."""
        programs = {name: program_at(place) for name, place in self.programs.items()}
        training = training_of(self.task, population, programs=programs, lanes=self.lanes)
        length, weighted = self.task.dimension, self.task.update.weighted
        way: Way
        if self.way == "floats":
            way = Floats(self.task, training, length=length, weighted=weighted)
        elif self.way == "grid":
            way = Grid(self.task, training, length=length, weighted=weighted)
        else:
            way = Words(self.task, population, training, entropy=entropy)
        return Worker(way, Personal(self.task, population))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task.canonical.decode(),
            "way": self.way,
            "lanes": self.lanes,
            "programs": dict(self.programs),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        task = Task.from_canonical(values["task"].encode())
        return cls(task=task, way=values["way"], lanes=values["lanes"], programs=values["programs"])


def program_at(place: str) -> Program:
    """The program that stands at "module:attribute". Raises: ProgramError."""
    module, _, attribute = place.partition(":")
    try:
        found = getattr(import_module(module), attribute)
        is_program = hasattr(found, "train") and not isinstance(found, type)
        program: Program = found if is_program else found()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ProgramError(
            f"there is no program at {place!r:.80}",
            why=f"{type(error).__name__}: {error}",
            fix='name it as "module:attribute", in a module that Python finds',
        ) from error
    return program
