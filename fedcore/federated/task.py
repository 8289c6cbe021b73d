"""A task: what a federation trains, how, with whom and under which promises, in one frozen value.

Researchers write it as TOML. `resolved()` fills in what follows from the rest, and then the
canonical form, whose digest everything is bound to, says all that a client has to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.federated.choices import AlgorithmSpec
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
from fedcore.privacy import PrivacyPlan
from fedcore.secagg import Layout, SessionConfig

if TYPE_CHECKING:
    from fedcore.rounds import RoundPolicy

__all__ = ["Task"]


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

    @classmethod
    def from_toml(cls, source: Path | str) -> Task:
        """The task of a file (a Path), or of a text (a str). Raises: TaskError with file and line."""
        raise NotImplementedError

    def resolved(self) -> Task:
        """This task with dimension and plan filled in; the same if it has them.

        Raises: TaskError; ProgramError for a model that is not installed; PlanError.
        """
        raise NotImplementedError

    @property
    def dimension(self) -> int:
        """D, the numbers of the model: parameters, then state. Raises: TaskError if unresolved."""
        raise NotImplementedError

    @cached_property
    def canonical(self) -> bytes:
        """JSON in its one form. Raises: TaskError for a task that is not resolved."""
        raise NotImplementedError

    @classmethod
    def from_canonical(cls, data: bytes) -> Task:
        """The resolved task that `canonical` wrote. Raises: TaskError for all other bytes."""
        raise NotImplementedError

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical form under a domain of its own."""
        raise NotImplementedError

    @cached_property
    def layout(self) -> Layout:
        """The blocks of integers that a client sends, of the names `block_names`."""
        raise NotImplementedError

    @property
    def block_names(self) -> tuple[str, ...]:
        """("update",), without privacy ("update", "statistics")."""
        return ("update",) if self.privacy is not None else ("update", "statistics")

    def session_config(self) -> SessionConfig:
        """The terms of a round's secure aggregation. Raises: TaskError for a task without."""
        raise NotImplementedError

    def policy(self) -> RoundPolicy:
        """What the round machine goes by."""
        raise NotImplementedError

    def rate(self, round: int) -> float:
        """The learning rate of a round: the optimizer's, under fedsgd the server's, by schedule."""
        raise NotImplementedError


_Unused = Mapping
