"""A run as its folder tells of it: for reports, comparisons, and for whoever resumes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedcore.console import Json
from fedcore.errors import DataFormatError, FedcoreError
from fedsim.records import Result, RoundRecord, RunRecord, digest_of
from fedsim.records.plain_json import from_plain, parse_json
from fedsim.records.saved_arrays import load_arrays, remedied, save_arrays
from fedsim.run.metrics_log import read_metrics

__all__ = [
    "FORMAT",
    "METRICS",
    "RESOLVED",
    "RESULT",
    "Run",
    "SavedState",
    "read_result",
    "read_run",
    "read_state",
    "whole_state",
    "write_state",
]

FORMAT: Final = 1
"""Of a run's folder; what changes the meaning of a file adds 1."""

CHECKPOINT: Final = "checkpoint.safetensors"
METRICS: Final = "metrics.jsonl"
RESOLVED: Final = "resolved.json"
RESULT: Final = "result.json"

_WRITTEN_AGAIN: Final = f"remove {RESULT} and resume the run: it is written again"

_THETA, _ROUNDS, _PREFIX = "theta", "rounds", "state."
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedState:
    """From what a run goes on: `rounds` are over, and `theta` (D,) float32 is what they found.

    `arrays` and `texts` by name are whatever else the next round needs to know.
    """

    rounds: int
    theta: NDArray[np.float32]
    arrays: Mapping[str, NDArray[Any]]
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What a folder holds: the run, its scenario and task as they were resolved, and its rounds.

    `result` is None while the run goes on, and after it was stopped.
    """

    path: Path
    record: RunRecord
    scenario: Mapping[str, Json]
    task: Mapping[str, Json]
    rounds: tuple[RoundRecord, ...]
    result: Result | None


def read_run(path: Path) -> Run:
    """The run in a folder, finished or not; one that is being written, as far as it has come.

    Raises: DataFormatError for a folder of no run, or with a file that is damaged.
    """
    resolved = _read(path, RESOLVED, Path.read_bytes)
    table = parse_json(resolved, place=RESOLVED)
    wanted = {"format", "run", "scenario", "task"}
    if not isinstance(table, dict) or table.keys() != wanted or table["format"] != FORMAT:
        raise DataFormatError(
            f"{RESOLVED} in {path.name} is of another format",
            where=str(path),
            why=f"this release reads the format {FORMAT}",
            fix="read the run with the release that wrote it",
        )
    record = from_plain(RunRecord, table["run"], place=f"{RESOLVED}: run")
    result = read_result(path)
    with remedied(f"restore {METRICS} from a copy, or begin a new run"):
        rounds = _read(path, METRICS, read_metrics)
    if result is not None and (result.run != record or result.totals.rounds != len(rounds)):
        short = result.run == record and len(rounds) < result.totals.rounds
        raise DataFormatError(
            f"{RESULT} in {path.name} is of another run",
            where=str(path),
            why=f"it tells of {result.totals.rounds} rounds of {result.run.id}, and the folder "
            f"holds {len(rounds)} of {record.id}",
            fix=_restore(METRICS, record, ended=True) if short else _WRITTEN_AGAIN,
        )
    return Run(
        path=path,
        record=record,
        scenario=table["scenario"],
        task=table["task"],
        rounds=rounds,
        result=result,
    )


def read_result(path: Path) -> Result | None:
    """The result in a run's folder; None while there is none. Raises: DataFormatError."""
    if not (path / RESULT).exists():
        return None
    data = _read(path, RESULT, Path.read_bytes)
    with remedied(_WRITTEN_AGAIN):
        return from_plain(Result, parse_json(data, place=RESULT), place=RESULT)


def read_state(run: Run) -> SavedState | None:
    """The latest checkpoint of a run; None before the first.

    Raises: DataFormatError for one that is damaged, or contradicts the run's rounds; InstallError
    without safetensors.
    """
    path = run.path
    if not (path / CHECKPOINT).exists():
        return None
    ended = run.result is not None
    fix = _restore(CHECKPOINT, run.record, ended=ended)
    arrays, texts = load_arrays(path / CHECKPOINT, fix=fix)
    rounds, theta = texts.pop(_ROUNDS, ""), arrays.pop(_THETA, None)
    if not rounds.isdecimal() or theta is None or theta.dtype != np.float32 or theta.ndim != 1:
        raise _contradiction(path, "it holds no model and number of rounds", fix)
    done = int(rounds)
    if not 1 <= done <= len(run.rounds):
        why = f"it is of {done} rounds, and {METRICS} has {len(run.rounds)}"
        both = f"{METRICS} and {CHECKPOINT}"
        raise _contradiction(path, why, _restore(both, run.record, ended=ended))
    if run.rounds[done - 1].model != digest_of(theta):
        raise _contradiction(path, f"its model is another than that after round {done}", fix)
    return SavedState(
        rounds=done,
        theta=theta,
        arrays={name.removeprefix(_PREFIX): array for name, array in arrays.items()},
        texts={name.removeprefix(_PREFIX): text for name, text in texts.items()},
    )


def write_state(path: Path, state: SavedState) -> None:
    """Make `state` the checkpoint in a run's folder. Raises: as `save_arrays`."""
    arrays = {_PREFIX + name: array for name, array in state.arrays.items()}
    texts = {_PREFIX + name: text for name, text in state.texts.items()}
    save_arrays(
        path / CHECKPOINT, {_THETA: state.theta} | arrays, {_ROUNDS: str(state.rounds)} | texts
    )


@contextmanager
def whole_state(path: Path, record: RunRecord) -> Iterator[None]:
    """What is read of a checkpoint's texts. Raises: DataFormatError where one is not as written."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, FedcoreError):
            raise
        why = f"{type(error).__name__}: {error}"[:200]
        raise _contradiction(path, why, _restore(CHECKPOINT, record, ended=False)) from error


def _contradiction(path: Path, why: str, fix: str) -> DataFormatError:
    what = f"{CHECKPOINT} does not belong to the run {path.name}"
    return DataFormatError(what, where=str(path), why=why, fix=fix)


def _restore(name: str, record: RunRecord, *, ended: bool) -> str:
    """What to do where a run cannot go on from its files, one of which is lost or damaged."""
    if record.private:  # its ledger keeps what was released, which is not released again
        return f"restore {name} from a copy, or begin a new run"
    removed = f"{RESULT} and {CHECKPOINT}" if ended else CHECKPOINT
    return (
        f"restore {name} from a copy, or remove {removed} and resume the run: "
        "it begins with its first round"
    )


def _read(folder: Path, name: str, read: Callable[[Path], T]) -> T:
    try:
        return read(folder / name)
    except OSError as error:
        raise DataFormatError(
            f"{folder.name or folder} is no folder of a run",
            where=str(folder),
            why=f"{name}: {error.strerror or error}",
            fix="name a folder that the simulator has made, such as runs/<id>",
        ) from None
