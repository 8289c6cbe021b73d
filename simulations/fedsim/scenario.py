"""A scenario: one file that says what is trained, on whose data, with which devices, and how.

It is a task with tables beside it. What stands in the task's own tables can be handed to a server
as it is; the others say what the world is that is simulated.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from fedcore.console import Json
from fedcore.errors import ArgumentError, TaskError
from fedcore.federated.choices import NEEDS_EACH_UPDATE, AlgorithmSpec, require_name
from fedcore.federated.task import Task
from fedcore.settings import Settings, read_settings, write_settings
from fedcore.toml import located, parse, text_of
from fedsim.algorithms import ALGORITHMS, AlgorithmChoice
from fedsim.clock import ClockSpec
from fedsim.devices import DevicesSpec
from fedsim.records import Mode
from fedsim.scenario_checks import check
from fedsim.scenario_spec import EngineSpec, PopulationSpec, ScenarioHead, StudySpec

__all__ = ["TABLES", "Scenario"]

TABLES: Final[Mapping[str, type[Settings]]] = {
    "scenario": ScenarioHead,
    "population": PopulationSpec,
    "devices": DevicesSpec,
    "clock": ClockSpec,
    "engine": EngineSpec,
    "study": StudySpec,
}
"""The tables that stand beside those of the task, by name."""
_DOMAIN: Final = b"fedcore scenario 1\0"
_FILE_NAME: Final = re.compile(r"[^\n=\[]+\.toml")  # a text that is a scenario has tables


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is simulated. Raises: TaskError where its parts contradict each other.

    `task`: resolved. `study`: what it does besides what a federation can: its algorithm, robust
    rules, compression. `engine`: how the machine works for it, which changes no result. `base`:
    the folder that paths are relative to. `text`: as it was written.
    """

    task: Task
    head: ScenarioHead
    population: PopulationSpec
    devices: DevicesSpec = field(default_factory=DevicesSpec)
    clock: ClockSpec = field(default_factory=ClockSpec)
    study: StudySpec = field(default_factory=StudySpec)
    engine: EngineSpec = field(default_factory=EngineSpec)
    base: Path = field(default_factory=Path)
    text: str = ""

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_toml(cls, source: Path | str, *, base: Path | str | None = None) -> Self:
        """The scenario of a file (a Path), or of a text (a str) whose paths begin at `base`.

        Building the model and calibrating noise take up to seconds. Raises: ArgumentError for what
        is neither; TaskError, with file and line; what `Task.resolved` raises.
        """
        if isinstance(source, Path):
            text, name, base = text_of(source), source.name, Path(base or source.parent)
        elif isinstance(source, str) and not _FILE_NAME.fullmatch(source):
            text, name, base = source, "scenario", Path(base or "")
        else:
            raise ArgumentError(
                f"a scenario from {source!r:.80}",
                why="a Path is of a file, and a str is the text of a scenario itself",
                fix="pass pathlib.Path of its file, or its text",
            )
        with located(text, name):
            values = parse(text, name)
            own = {key: values.pop(key) for key in TABLES if key in values}
            for key in ("scenario", "population"):
                if key not in own:
                    raise TaskError(
                        f"the table [{key}] is missing",
                        why="a scenario is a task, and says of whom and how it is simulated",
                        fix=f"add [{key}]",
                    )
            found: dict[str, Any] = {
                "head" if key == "scenario" else key: read_settings(own[key], schema, path=key)
                for key, schema in TABLES.items()
                if key in own
            }
            values, algorithm = _without_study(values)
            if algorithm is not None:
                study = found.get("study", StudySpec())
                found["study"] = replace(study, algorithm=algorithm)
            if values and "secure_aggregation" not in values and _is_study(found):
                values["secure_aggregation"] = {"profile": "off"}
            task = _task_of(values, base, found["head"])
            return cls(task=task.resolved(), base=base, text=text, **found)

    @property
    def mode(self) -> Mode:
        """How updates become a sum."""
        return Mode(self.head.mode)

    @property
    def draws_clients(self) -> bool:
        """Whether privacy draws by coins who takes part in a round."""
        promise = self.task.privacy
        return promise is not None and promise.unit == "client" and bool(promise.sampling_rate)

    @cached_property
    def document(self) -> dict[str, Json]:
        """The tables beside the task's that results depend on, with every default.

        Where the task is written down is not among them: here or in a file, it is the same.
        """
        return {
            "scenario": _plain(replace(self.head, task=None)),
            "population": _plain(self.population),
            "devices": _plain(self.devices),
            "clock": _plain(self.clock),
            "study": _plain(self.study),
        }

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the task and of all that results depend on."""
        tables = json.dumps(self.document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(_DOMAIN + self.task.digest + tables.encode()).digest()


def _plain(settings: Settings) -> Json:
    written: Json = json.loads(json.dumps(write_settings(settings)))
    return written


def _without_study(
    values: dict[str, Any],
) -> tuple[dict[str, Any], AlgorithmChoice | None]:
    """The task's tables with an algorithm that a server knows, and the study's if it is another."""
    table = values.get("algorithm")
    name = table.get("name") if isinstance(table, Mapping) else None
    if not isinstance(name, str) or name in AlgorithmSpec.known or name in NEEDS_EACH_UPDATE:
        return values, None
    require_name("algorithm.name", name, dict.fromkeys(sorted({*AlgorithmSpec.known, *ALGORITHMS})))
    assert isinstance(table, Mapping)
    return {**values, "algorithm": {"name": "fedavg"}}, AlgorithmChoice.read(table, "algorithm")


def _is_study(found: Mapping[str, Any]) -> bool:
    """Whether tables ask for what no server does, whose task no server will hold."""
    study, clock = found.get("study", StudySpec()), found.get("clock", ClockSpec())
    return bool(found["head"].mode == "plain" and (study.any or clock.schedule == "buffered"))


def _task_of(values: Mapping[str, Any], base: Path, head: ScenarioHead) -> Task:
    """The task in the scenario's own tables, or in the file that it names."""
    if head.task is None:
        return _inline_task(values, head)
    if values:
        raise TaskError(
            f"[{next(iter(values))}] stands beside scenario.task",
            why="the task is in the file that it names",
            fix="leave the table out, or write the whole task here",
            where=next(iter(values)),
        )
    return Task.from_toml(base / head.task)


def _inline_task(values: Mapping[str, Any], head: ScenarioHead) -> Task:
    """The task of tables; an error says whether to leave secure aggregation out would mend it."""
    try:
        return Task.from_tables(values)
    except TaskError as error:
        if head.mode == "plain" and _is_task({**values, "secure_aggregation": {"profile": "off"}}):
            error.fix += (
                ', or let [secure_aggregation] hold profile = "off" alone: in the mode plain its'
                " deadlines and thresholds are all there is of it"
            )
        raise


def _is_task(values: Mapping[str, Any]) -> bool:
    try:
        return bool(Task.from_tables(values))
    except TaskError:
        return False
