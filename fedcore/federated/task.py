"""A task: what a federation trains, how, with whom and under which promises, in one frozen value.

Researchers write it as TOML. `resolved()` fills in what follows from the rest, and then the
canonical form, whose digest everything is bound to, says all that a client has to know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fedcore.errors import TaskError
from fedcore.federated.choices import AlgorithmSpec
from fedcore.federated.models import sizes_of
from fedcore.federated.privacy_terms import calibrated_plan, require_plan
from fedcore.federated.refusal import refused
from fedcore.federated.session import layout_of, policy_of, session_of
from fedcore.federated.spec import (
    CohortSpec,
    DataSpec,
    DeadlineSpec,
    EvaluationSpec,
    ModelSpec,
    PrivacySpec,
    RoundsSpec,
    SecAggSpec,
    TrainingSpec,
    UpdateSpec,
)
from fedcore.federated.task_checks import check
from fedcore.federated.task_json import decode, encode, read_document
from fedcore.privacy import PrivacyPlan
from fedcore.rounds import RoundPolicy
from fedcore.secagg import Layout, SessionConfig
from fedcore.toml import located, parse, text_of

__all__ = ["Task"]

_DOMAIN = b"fedcore task 1\0"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One federated training. Raises: TaskError where its parts contradict each other.

    `plan`: the guarantee, filled in by `resolved`; None without privacy. `secure_aggregation`: None
    where the server may see each update.
    """

    name: str
    seed: int
    model: ModelSpec
    data: DataSpec
    training: TrainingSpec
    algorithm: AlgorithmSpec
    update: UpdateSpec = field(default_factory=UpdateSpec)
    privacy: PrivacySpec | None = None
    plan: PrivacyPlan | None = None
    secure_aggregation: SecAggSpec | None = field(default_factory=SecAggSpec)
    rounds: RoundsSpec
    cohort: CohortSpec
    deadlines: DeadlineSpec = field(default_factory=DeadlineSpec)
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_toml(cls, source: Path | str) -> Task:
        """The task of a file (a Path), or of a text (a str), not yet resolved.

        Raises: TaskError, with file and line.
        """
        text, name = (
            (text_of(source), source.name) if isinstance(source, Path) else (source, "task")
        )
        with located(text, name):
            return cls.from_tables(parse(text, name))

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Task:
        """The task of a file's tables, as `fedcore.toml.parse` gives them, not yet resolved.

        Raises: TaskError, with the path in the tables.
        """
        return cls(**read_document(tables))

    @classmethod
    def from_canonical(cls, data: bytes) -> Task:
        """The resolved task that `canonical` gave as `data`, from a network too.

        That the plan is what follows from the task and keeps its promise is checked, and nothing is
        built. Raises: TaskError for all other bytes; PlanError for terms of no plan.
        """
        task = cls(**decode(data))
        task._require_resolved()
        if task.canonical != data:
            raise TaskError(
                "the bytes are no canonical task",
                why="what they say has another form, with sorted keys and every default",
                fix="send what Task.canonical gives",
            )
        if task.plan is not None:
            require_plan(task, task.plan)
        return task

    def resolved(self) -> Task:
        """This task with the sizes of its model and its plan; what it has already, it keeps.

        Building the model takes as long as its parameters take to draw, calibrating under a second.
        Raises: TaskError; ProgramError for a model that is not installed; PlanError for a promise
        that cannot be kept.
        """
        task = self
        if task.model.parts is None:
            parts, state = sizes_of(task.model, task.seed)
            if state and task.privacy is not None:
                raise refused(
                    "model",
                    "a model with statistics of batches under privacy",
                    "they carry no noise, and every example changes every other's output",
                    "take a model that normalises each example by itself",
                )
            task = replace(task, model=replace(task.model, parts=parts))
        if task.privacy is not None and task.plan is None:
            task = replace(task, plan=calibrated_plan(task))
        return task

    @property
    def dimension(self) -> int:
        """D, the numbers of the model: parameters, then state. Raises: TaskError if unresolved."""
        self._require_resolved()
        assert self.model.dimension is not None
        return self.model.dimension

    @cached_property
    def canonical(self) -> bytes:
        """JSON in its one form. Raises: TaskError for a task that is not resolved."""
        self._require_resolved()
        return encode(self)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical form, under a domain of its own."""
        return hashlib.sha256(_DOMAIN + self.canonical).digest()

    @cached_property
    def layout(self) -> Layout:
        """The blocks of integers that a client sends. Raises: TaskError if unresolved."""
        self._require_resolved()
        return layout_of(self)

    def session_config(self) -> SessionConfig:
        """The terms of a round's secure aggregation. Raises: TaskError for a task without."""
        return session_of(self)

    def policy(self) -> RoundPolicy:
        """What the round machine goes by."""
        return policy_of(self)

    def rate(self, round: int) -> float:
        """The learning rate of a round, from 0: the optimizer's, under fedsgd the server's.

        Raises: TaskError for a task whose program has a rate of its own.
        """
        training = self.training
        if self.algorithm.name == "fedsgd":
            lr = dict(self.algorithm.options)["lr"]
        elif training.optimizer is not None:
            lr = dict(training.optimizer.options)["lr"]
        else:
            raise refused("training", "a rate of no optimizer", "the program has its own", "")
        assert isinstance(lr, float)
        return lr if training.schedule is None else training.schedule.rate(lr, round=round)

    def _require_resolved(self) -> None:
        missing = "model.parts" if self.model.parts is None else ""
        if not missing and self.privacy is not None and self.plan is None:
            missing = "plan"
        if missing:
            raise refused(
                missing,
                f"a task without {missing}",
                "it follows from the rest, and is filled in before anybody relies on it",
                "call resolved()",
            )
