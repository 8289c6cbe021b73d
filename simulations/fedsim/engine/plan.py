"""What a worker is made of, as plain values: one that is started elsewhere makes the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

from fedcore.entropy import Entropy
from fedcore.errors import ArgumentError, ProgramError
from fedcore.federated.programs import Program
from fedcore.federated.task import Task
from fedsim.engine.client_states import ClientStates, States
from fedsim.engine.personal import Personal
from fedsim.engine.study import Study, StudyPlan
from fedsim.engine.study_training import StudyTraining
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
    or what makes one. `study`: what clients do instead of the task's algorithm, by the ways
    "floats" and "grid". Raises: ArgumentError for a study by another way.
    """

    task: Task
    way: WayName
    lanes: int | None = None
    programs: Mapping[str, str] = field(default_factory=dict)
    study: StudyPlan | None = None

    def __post_init__(self) -> None:
        if self.study is not None and self.way == "words":
            raise ArgumentError(
                f"a study of {self.study.algorithm.name!r} in words",
                why="what is masked and noised on devices is laid out for the task's own algorithm",
                fix='take way="grid", whose integers are the same without masks, or way="floats"',
            )

    @property
    def shape(self) -> tuple[int, str]:
        """How many numbers a client gives, and of which dtype."""
        if self.way == "words":
            return sum(block.words for block in self.task.layout.blocks), "u8"
        dtype = "f4" if self.way == "floats" else "f8"
        if self.study is None:
            return self.task.dimension, dtype
        return Study(self.study, self.task).length, dtype

    def states(self) -> ClientStates | None:
        """A way to what clients keep, in the folder of the plan; None if that is nothing."""
        if self.study is None or not Study(self.study, self.task).stateful:
            return None
        return ClientStates(Path(self.study.states), cache_bytes=self.study.cache_bytes)

    def worker(
        self,
        population: Population,
        *,
        entropy: Entropy | None = None,
        states: States | None = None,
    ) -> Worker:
        """A worker for these clients. Raises: ProgramError for what is not installed.

        `states`: its way to what they keep, where that is not the plan's folder.
        """
        if self.study is not None:
            return self._studying(self.study, population, states)
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

    def _studying(self, plan: StudyPlan, population: Population, given: States | None) -> Worker:
        study = Study(plan, self.task)
        states = (given or self.states()) if study.stateful else None
        training = StudyTraining(study, population, lanes=self.lanes, states=states)
        made = Floats if self.way == "floats" else Grid
        weighted = study.algorithm.weighted
        way = made(self.task, training, length=study.length, weighted=weighted)
        personal = Personal(self.task, population, model=training.personal)
        return Worker(way, personal, states=states)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task.canonical.decode(),
            "way": self.way,
            "lanes": self.lanes,
            "programs": dict(self.programs),
            "study": None if self.study is None else self.study.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        given = values["study"]
        return cls(
            task=Task.from_canonical(values["task"].encode()),
            way=values["way"],
            lanes=values["lanes"],
            programs=values["programs"],
            study=None if given is None else StudyPlan.from_json(given),
        )


def program_at(place: str) -> Program:
    """The program that stands at "module:attribute". Raises: ProgramError."""
    module, _, attribute = place.partition(":")
    try:
        found = getattr(import_module(module), attribute)
        is_program = hasattr(found, "train") and not isinstance(found, type)
        program: Program = found if is_program else found()
    except (Exception, SystemExit) as error:  # of a module that is its owner's
        raise ProgramError(
            f"there is no program at {place!r:.80}",
            why=f"{type(error).__name__}: {error}"[:400],
            fix='name it as "module:attribute", in a module that Python finds',
        ) from error
    return program
