"""What a scenario says beside its task, one frozen record a table of its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fedcore.errors import TaskError
from fedcore.federated.spec import NAME
from fedcore.settings import Bounds, Settings
from fedsim.algorithms import AlgorithmChoice
from fedsim.compression import CompressionChoice
from fedsim.partition import PartitionSpec, ShiftSpec
from fedsim.robust import RobustChoice
from fedsim.sources import SourceSpec

__all__ = ["EngineSpec", "PopulationSpec", "ScenarioHead", "StudySpec"]

_ADDRESS: Final = r"auto|(ray://)?[\w.\[\]:-]+:\d+"


@dataclass(frozen=True, kw_only=True)
class ScenarioHead(Settings):
    """The table [scenario]. `task`: a task's file; None: the task's tables stand here.

    `mode`: "exact", with masks; "fast", without them, which cancel; "plain", floating sums for
    studies without privacy. `evaluate_every`: the model is measured on the test set after so many
    rounds, and after the last; 0: never. `checkpoint_every`: from how many rounds at most a run
    that was killed goes on.
    """

    name: Annotated[str, Bounds(pattern=NAME)]
    task: str | None = None
    mode: Literal["exact", "fast", "plain"] = "fast"
    evaluate_every: Annotated[int, Bounds(least=0, most=10**6)] = 1
    evaluate_clients_every: Annotated[int, Bounds(least=0, most=10**6)] = 0
    checkpoint_every: Annotated[int, Bounds(least=1, most=10**6)] = 1


@dataclass(frozen=True, kw_only=True)
class PopulationSpec(Settings):
    """The table [population]: whose data there are, and how they are dealt to `clients`.

    `clients`: None for one a natural id. `held_out`: the share of each client's rows that it does
    not train on, but is measured on. `shift`: how clients see their features. `seed`: of the
    partition; None: the task's.
    """

    source: SourceSpec
    partition: PartitionSpec
    clients: Annotated[int | None, Bounds(least=1, most=10**7)] = None
    held_out: Annotated[float, Bounds(least=0, below=1)] = 0.0
    shift: ShiftSpec | None = None
    seed: Annotated[int | None, Bounds(least=0)] = None


@dataclass(frozen=True, kw_only=True)
class EngineSpec(Settings):
    """The table [engine]: what works for it. No result depends on it.

    `workers`: None for one a core of this machine. `kind`: in "processes" or "threads" of this
    machine, or as actors of "ray", in the cluster at `address`, without it on this machine.
    `lanes`: how many clients are trained side by side at most; None: as many as pay.
    """

    workers: Annotated[int | None, Bounds(least=1, most=4096)] = None
    kind: Literal["processes", "ray", "threads"] = "processes"
    address: Annotated[str | None, Bounds(pattern=_ADDRESS)] = None
    lanes: Annotated[int | None, Bounds(least=1, most=4096)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address is not None and self.kind != "ray":
            raise TaskError(
                f"engine.address is set for {self.kind}",
                why="they work on this machine; only Ray has clusters",
                fix='leave address out, or set kind = "ray"',
                where="engine.address",
            )


@dataclass(frozen=True, kw_only=True)
class StudySpec(Settings):
    """The table [study]: what no server does. `algorithm`: named in [algorithm] as well.

    `robust`: of updates that are seen one by one. `compression`: of what clients send.
    """

    algorithm: AlgorithmChoice | None = None
    robust: RobustChoice | None = None
    compression: CompressionChoice | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything to study."""
        return any(each is not None for each in (self.algorithm, self.robust, self.compression))
