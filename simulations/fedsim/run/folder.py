"""The folder of a run, while it is written: a kill at any moment leaves one that can be resumed.

    scenario.toml           as it was given
    resolved.json           the run, its scenario and its task with every default
    metrics.jsonl           a line a round
    checkpoint.safetensors  the model and all that the next round needs, of one round: the latest
    client-state/           what clients keep between rounds; not this module's
    ledgers/, release.json  what privacy has cost, and the round that was released last; nor this
    model.safetensors       the last model
    result.json             how the run ended; its being there says that it has
    report.html, plots/     for people
    lock                    held by who writes

A new folder gets its name when it is complete; one that was there, and empty, is a run as soon as
it has resolved.json, which is written last. A round's line is on the disk before its checkpoint is,
so that there may be lines beyond the checkpoint, never the other way round; resuming cuts them off,
and the rounds are simulated again.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.ravel import Entry, Spec
from fedcore.console import Json
from fedcore.errors import ArgumentError, DataFormatError, PlanError
from fedcore.model_format import encode_model
from fedsim.records import Mode, Privacy, Result, RoundRecord, RunRecord, Versions
from fedsim.records.durable import (
    LOCK,
    FolderLock,
    disk,
    sweep,
    sync_folder,
    write_atomically,
)
from fedsim.records.plain_json import canonical_json, to_plain
from fedsim.run.metrics_log import MetricsLog
from fedsim.run.reading import (
    FORMAT,
    METRICS,
    RESOLVED,
    RESULT,
    Run,
    SavedState,
    read_run,
    read_state,
    write_state,
)

__all__ = ["ELSEWHERE", "RunFolder", "RunPlan", "named"]

ELSEWHERE: Final = "name another folder, or make room and give access there"
"""What to do where no run has begun yet."""

_SCENARIO: Final = "scenario.toml"
_MODEL: Final = "model.safetensors"
_CLIENTS: Final = "client-state"
_NOT_YET: Final = frozenset({LOCK, _CLIENTS, _SCENARIO, METRICS})  # of a folder that is no run yet


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What is about to run. `text`: the scenario as given; `scenario`, `task`: as resolved.

    `scenario_digest`, `task_digest`: in hexadecimal. `private`: whether the task promises privacy.
    """

    name: str
    text: str
    scenario: Mapping[str, Json]
    scenario_digest: str
    task: Mapping[str, Json]
    task_digest: str
    seeds: Mapping[str, int]
    mode: Mode
    private: bool


class RunFolder:
    """A run that is being written; `create` or `resume` one, and close it, or use `with`.

    `run`: what it is. `state`: from what it goes on, None at the beginning. `began`: whether any
    round was over before. `result`: None until it has ended.
    """

    def __init__(self, read: Run, *, state: SavedState | None, lock: FolderLock) -> None:
        self.path, self.run = read.path, read.record
        self.state, self.result = state, read.result
        self.began = bool(read.rounds)
        self._lock = lock
        keep = None if read.result is not None else state.rounds if state is not None else 0
        self._log = MetricsLog(self.path / METRICS, keep=keep)

    @classmethod
    def create(cls, root: Path, plan: RunPlan, *, path: Path | None = None) -> Self:
        """A new run in `root`, in the first free folder of its name, or in the folder `path`.

        Raises: ArgumentError if `path` holds something; CheckpointError if the disk takes nothing.
        """
        with disk(path or root, fix=ELSEWHERE):
            if path is not None:
                path = named(path)
                _require_free(path, plan)
            (root if path is None else path.parent).mkdir(parents=True, exist_ok=True)
            for target in _names(root, plan) if path is None else (path,):
                if (lock := _build(target, plan)) is not None:
                    return cls(read_run(target), state=None, lock=lock)
        raise ArgumentError(
            f"the folder {target.name} is being made by another process or another call",
            why="two writers would mix their rounds",
            fix="name another folder, or leave it to the simulator to name one",
        )

    @classmethod
    def resume(cls, path: Path, *, scenario_digest: str) -> Self:
        """The run in a folder, as it was after its latest checkpoint; lines beyond it are cut off.

        A run that has ended is opened as it is. Raises: ArgumentError for a run of another scenario
        and while another process writes it; DataFormatError for a folder of no run, or a damaged
        one; CheckpointError if the disk takes nothing.
        """
        found = read_run(path).record
        if found.scenario_digest != scenario_digest:
            raise ArgumentError(
                f"the run {found.id} is of another scenario",
                why=f"its digest is {found.scenario_digest[:16]}…, and that of the scenario to be "
                f"resumed {scenario_digest[:16]}…",
                fix=f"resume with {path / _SCENARIO}, or begin a new run",
            )
        with disk(path):
            lock = FolderLock(path)
            try:
                sweep(path)
                read = read_run(path)
                return cls(read, state=read_state(read), lock=lock)
            except BaseException:
                lock.release()
                raise

    @property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """The records so far."""
        return tuple(self._log.records)

    @property
    def client_state(self) -> Path:
        """The folder for what clients keep between rounds."""
        return self.path / _CLIENTS

    def append(self, record: RoundRecord, state: SavedState | None = None) -> None:
        """Keeps a round, and if given, the state after it.

        Raises: ArgumentError for another round than the next, or a state of another; PlanError for
        a record without epsilon of a task with privacy; CheckpointError if the disk takes nothing.
        """
        self._require_next(record)
        if state is not None and state.rounds != record.round + 1:
            raise ArgumentError(
                f"a state after {state.rounds} rounds beside the record of round {record.round}",
                why="a run goes on from its checkpoint with the next round",
                fix=f"pass the state after {record.round + 1} rounds",
            )
        with disk(self.path):
            self._log.append(record)
        if state is not None:
            write_state(self.path, state)

    def write_model(self, theta: NDArray[np.float32], spec: Spec | None = None) -> Path:
        """The last model as a file; without a `spec` all of it is one array "theta" (D,).

        Raises: as `encode_model`; CheckpointError if the disk takes nothing.
        """
        one = Spec((Entry("theta", theta.shape, 0),), np.dtype(np.float32))
        texts = {
            "run": self.run.id,
            "rounds": str(len(self._log.records)),
            "mode": self.run.mode.words,
            "task": self.run.task_digest,
        }
        path = self.path / _MODEL
        self._write(path, encode_model(theta, spec or one, metadata=texts))
        return path

    def finish(self, *, ended: str, privacy: Privacy | None = None) -> Result:
        """Writes how the run ended: `ended` says why. Raises: ArgumentError without a round.

        `privacy`: what was spent in all, by default what the last record says.
        """
        self.result = Result.of(self.run, self.rounds, ended=ended, privacy=privacy)
        self._write(self.path / RESULT, [canonical_json(to_plain(self.result)) + b"\n"])
        return self.result

    def close(self) -> None:
        """Gives the folder to others; a second time, nothing happens."""
        self._log.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_next(self, record: RoundRecord) -> None:
        if record.round != len(self._log.records) or record.mode is not self.run.mode:
            raise ArgumentError(
                f"round {record.round + 1} in the mode {record.mode.value} is not what follows",
                why=f"the run has {len(self._log.records)} rounds, all {self.run.mode.value}",
                fix="append the rounds of one run in their order",
            )
        if self.run.private and self.run.mode is not Mode.PLAIN and record.privacy is None:
            raise PlanError(
                f"round {record.round + 1} of a task with privacy tells of no epsilon",
                why="whoever reads it has to know what was spent, and that nothing else is told",
                fix="pass privacy=Privacy(...) from the round's receipt",
            )
        if self.result is not None:
            raise ArgumentError(
                f"the run {self.run.id} has ended",
                why="its result would not be that of its rounds",
                fix="begin a new run",
            )

    def _write(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        with disk(self.path):
            write_atomically(path, pieces)


def named(path: Path) -> Path:
    """The path of a run's folder, whose last part is what the run is called: not "." or "..".

    Raises: ArgumentError for a name that is no text, which the run's files could not hold; OSError.
    """
    if "\0" not in str(path):
        found = path if path.name not in ("", "..") else Path(os.path.realpath(path))
        with suppress(UnicodeEncodeError):
            found.name.encode()
            return found
    raise ArgumentError(
        f"a run's folder is named {path.name!r:.80}",
        why="its name stands in the run's files, which are texts in UTF-8",
        fix="name another folder",
    )


def _names(root: Path, plan: RunPlan) -> Iterator[Path]:
    """The folders that a run may get: name, digest, and the first number that nobody has."""
    slug = re.sub(r"[^a-z0-9]+", "-", plan.name.lower())[:40].strip("-") or "run"
    for number in count(1):
        path = root / f"{slug}-{plan.scenario_digest[:8]}-{number}"
        if not path.exists():
            yield path


def _build(target: Path, plan: RunPlan) -> FolderLock | None:
    """Makes the folder aside and gives it its name, or in its place if it is there and empty.

    Such a one may be a mount point, a link's target, or where the caller stands: nothing may take
    its place. None if somebody else was faster.
    """
    final = Path(os.path.realpath(target))
    building = final if final.exists() else final.with_name(f".{final.name}.new")
    run = RunRecord(
        id=target.name,
        name=plan.name,
        scenario_digest=plan.scenario_digest,
        task_digest=plan.task_digest,
        seeds=plan.seeds,
        mode=plan.mode,
        private=plan.private,
        versions=Versions.here(),
    )
    resolved: dict[str, Json] = {
        "format": FORMAT,
        "run": to_plain(run),
        "scenario": plan.scenario,
        "task": plan.task,
    }
    try:
        building.mkdir(exist_ok=True)
        lock = FolderLock(building)
    except (ArgumentError, FileNotFoundError):  # it is being made, or has just got its name
        return None
    try:
        if building is final and (final / RESOLVED).exists():
            lock.release()
            return None
        sweep(building)
        (building / _CLIENTS).mkdir(exist_ok=True)
        write_atomically(building / _SCENARIO, [plan.text.encode()])
        write_atomically(building / METRICS, [])
        write_atomically(building / RESOLVED, [canonical_json(resolved) + b"\n"])
        if building is not final:
            os.rename(building, final)
            sync_folder(final.parent)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return None
        raise
    return lock


def _require_free(path: Path, plan: RunPlan) -> None:
    if not path.exists() or (path.is_dir() and _holds_nothing(path)):
        return
    try:
        found = read_run(path).record
    except DataFormatError:
        why, fix = "what it holds is no run, and would be overwritten", "name another folder"
    else:
        same = found.scenario_digest == plan.scenario_digest
        why = f"it holds a run of {'this' if same else 'another'} scenario, {found.id}"
        fix = "resume that run, or name another folder" if same else "name another folder"
    raise ArgumentError(f"the folder {path.name} is not free for a new run", why=why, fix=fix)


def _holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty, but for what a kill has left that came before it was a run."""
    names = {path.name for path in folder.iterdir()}
    names -= {f".{name}.tmp" for name in (*_NOT_YET, RESOLVED)}
    return not names or (LOCK in names and names <= _NOT_YET)
