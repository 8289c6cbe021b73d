"""A study of an algorithm on a task's model: who sends how many numbers, and what they stand for.

The numbers D of the algorithm are those that are trained. What a model only remembers, as batch
normalisation does, stands after the algorithm's vector, as clients changed it, and is averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fedcore.errors import TaskError
from fedcore.federated.flat import FlatModel
from fedcore.federated.task import Task
from fedsim.algorithms import Algorithm, AlgorithmChoice, Vector
from fedsim.compression import Code, CompressionChoice

__all__ = ["Study", "StudyPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """What is studied, as plain values.

    `states`: the folder of what clients keep; needed where they keep anything. `cache_bytes`: how
    much of it each worker holds in memory.
    """

    algorithm: AlgorithmChoice
    compression: CompressionChoice | None = None
    states: str = ""
    cache_bytes: int = 64 << 20

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "algorithm": self.algorithm.write(),
            "compression": None if self.compression is None else self.compression.write(),
            "states": self.states,
            "cache_bytes": self.cache_bytes,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        given = values["compression"]
        return cls(
            algorithm=AlgorithmChoice.read(values["algorithm"], "algorithm"),
            compression=None if given is None else CompressionChoice.read(given, "compression"),
            states=values["states"],
            cache_bytes=values["cache_bytes"],
        )


class Study:
    """A plan for a task's model.

    `algorithm`: for T = `trained` numbers. `length`: how many numbers a client gives, M of the
    algorithm or k of its code, and then those that the model remembers. `stateful`: whether clients
    keep anything. Raises: TaskError for a task that is trained by something else than its
    optimiser, or clients' states without a folder.
    """

    def __init__(self, plan: StudyPlan, task: Task, *, flat: FlatModel | None = None) -> None:
        if task.training.program != "local" or task.training.optimizer is None:
            raise TaskError(
                f"a study of {plan.algorithm.name!r} whose clients do not train by an optimiser",
                why="an algorithm steers each step of the built-in program",
                fix='take training.program = "local", and a task that names an optimiser',
                where="algorithm",
            )
        self.task, self.flat = task, FlatModel(task) if flat is None else flat
        self.trained = self.flat.trained
        self.algorithm: Algorithm = plan.algorithm.make(self.flat.rebuild.spec)
        self._compression = None if plan.compression is None else plan.compression.make()
        compressed = self._compression is not None and self._compression.stateful
        self.stateful = self.algorithm.stateful or compressed
        if self.stateful and not plan.states:
            raise TaskError(
                f"a study of {plan.algorithm.name!r} without a folder of states",
                why="its clients keep vectors from round to round, in files",
                fix="set states of the StudyPlan to a folder of the run",
                where="algorithm",
            )
        self._whole = self.algorithm.length(self.trained)
        code = self.code(0)
        sent = self._whole if code is None else code.length
        self.length = sent + self.flat.dimension - self.trained

    def code(self, round: int) -> Code | None:
        """The compression in a round, None if there is none."""
        if self._compression is None:
            return None
        scalars, seed = self.algorithm.scalars, self.task.seed
        return self._compression.code(self._whole, scalars=scalars, seed=seed, round=round)

    def decode(self, mean: Vector, *, round: int) -> tuple[Vector, Vector]:
        """What a mean of clients' vectors stands for: the algorithm's (M,), and the model's change.

        The latter, of what the model remembers, has D - T numbers.
        """
        cut = self.length - (self.flat.dimension - self.trained)
        code, sent = self.code(round), np.asarray(mean, np.float32)
        return sent[:cut] if code is None else code.decode(sent[:cut]), sent[cut:]
