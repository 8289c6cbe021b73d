"""What clients keep counts when its round does, whenever the run is killed."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.checkpoint import load_checkpoint, save_checkpoint
from fedcore.errors import DataFormatError, SimulationError
from fedsim.engine.client_states import ClientStates, state_file
from fedsim.engine.commits import Commits

pytestmark = pytest.mark.slow

COHORTS = ([0, 1, 2], [1, 2, 3], [0, 2, 3], [0, 1, 4])
LATE = {0: [2], 1: [], 2: [3], 3: [0]}
"""Of each round those who trained, and are not in its mean."""


class Killed(BaseException):
    """The process is gone."""


class Disk:
    """Counts what changes names in file systems, and from a certain change on allows none."""

    def __init__(self, patch: pytest.MonkeyPatch, *, last: float) -> None:
        self.changes, self._last, self._lock = 0, last, threading.Lock()
        for name in ("replace", "unlink"):
            patch.setattr(os, name, self._guarded(getattr(os, name)))

    def _guarded(self, change: Callable[..., None]) -> Callable[..., None]:
        def guarded(*args: Any, **options: Any) -> None:
            with self._lock:
                self.changes += 1
                if self.changes > self._last:
                    raise Killed
                change(*args, **options)

        return guarded


def run(folder: Path, *, every: int = 1) -> np.ndarray:
    """A run of all rounds, or of those that are left: its model, which every state is in.

    Its model is kept after each `every` rounds.
    """
    folder.mkdir(exist_ok=True)
    model, begin = folder / "model.safetensors", 0
    theta = np.zeros(2, np.float32)
    if model.exists():
        kept = load_checkpoint(model)
        theta, begin = kept.arrays["theta"], int(kept.metadata["round"])
    with closing(ClientStates(folder / "states", cache_bytes=30)) as states:
        commits = Commits(folder / "states")
        commits.rewind(begin)
        for round in range(begin, len(COHORTS)):
            theta = one_round(theta, round, commits, states)
            if (round + 1) % every == 0:
                save_checkpoint(model, {"theta": theta}, metadata={"round": str(round + 1)})
                commits.prune(round)
    return theta


def one_round(theta: np.ndarray, round: int, commits: Commits, states: ClientStates) -> np.ndarray:
    """The next model; round 2 is attempted twice."""
    cohort = COHORTS[round]
    for attempt in range(1 + (round == 2)):
        sent = {}
        states.begin(round)
        for client in cohort:
            states.know(cohort, commits.versions(cohort))
            before = states.get(client).get("own", np.zeros(2, np.float32))
            sent[client] = before + theta + client + 1
            states.put(client, round, {"own": sent[client] * 2})
        states.flush()
        commits.wrote(round, cohort)
        if round == 2 and not attempt:
            commits.discard(round)
    members = [client for client in cohort if client not in LATE[round]]
    commits.commit(round, members)
    return np.mean([sent[client] for client in members], axis=0).astype(np.float32)


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "states").rglob("*") if path.is_file()}


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_that_is_killed_at_any_write_ends_as_one_that_was_not(
    every: int, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, last=float("inf"))
        expected = run(tmp_path / "whole", every=every)
    assert disk.changes > 20
    for last in range(disk.changes):
        folder = tmp_path / str(last)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            Disk(patch, last=last)
            run(folder, every=every)
        np.testing.assert_array_equal(run(folder, every=every), expected)
        assert files(folder) == files(tmp_path / "whole")


def test_states_of_rounds_that_do_not_count_are_never_read(tmp_path: Path) -> None:
    commits, states = Commits(tmp_path), ClientStates(tmp_path, cache_bytes=1000)
    for round, client in itertools.product((0, 1), (5, 6)):
        states.put(client, round, {"v": np.float32([round, client])})
    states.flush()
    commits.wrote(0, [5, 6])
    commits.wrote(1, [5, 6])
    commits.commit(0, [5, 6])
    commits.commit(1, [6])
    assert commits.versions([5, 6, 7]) == (0, 1, -1)
    states.know([5, 6, 7], commits.versions([5, 6, 7]))
    assert [states.get(client)["v"].tolist() for client in (5, 6)] == [[0, 5], [1, 6]]
    assert states.get(7) == {}
    assert not state_file(tmp_path, 5, 1).exists()
    states.close()


def test_memory_holds_no_more_than_its_bound_and_the_rest_is_read_again(tmp_path: Path) -> None:
    states, clients = ClientStates(tmp_path, cache_bytes=100), list(range(20))
    for client in clients:
        states.put(client, 0, {"v": np.full(8, client, np.float32)})
        assert states.held_bytes <= 100
    states.flush()
    states.know(clients, [0] * 20)
    for client in [*clients, *clients]:
        assert states.get(client)["v"].tolist() == [client] * 8
        assert states.held_bytes <= 100
    states.close()


def test_what_a_round_left_in_memory_is_forgotten_when_it_begins_again(tmp_path: Path) -> None:
    mine, other = (ClientStates(tmp_path, cache_bytes=1000) for _ in range(2))
    mine.put(3, 4, {"v": np.float32([1])})
    mine.flush()
    mine.begin(4)
    other.put(3, 4, {"v": np.float32([2])})
    other.flush()
    mine.know([3], [4])
    assert mine.get(3)["v"].tolist() == [2]
    mine.close()
    other.close()


def test_who_kept_nothing_cannot_be_committed(tmp_path: Path) -> None:
    commits = Commits(tmp_path)
    commits.wrote(0, [1])
    with pytest.raises(SimulationError, match="client 2"):
        commits.commit(0, [1, 2])


def test_a_state_that_is_lost_is_told_before_the_run_begins(tmp_path: Path) -> None:
    run(tmp_path)
    lost = state_file(tmp_path / "states", 4, 3)
    lost.unlink()
    commits = Commits(tmp_path / "states")
    with pytest.raises(SimulationError, match=lost.name):
        commits.rewind(4)
    states = ClientStates(tmp_path / "states", cache_bytes=0)
    states.know([4], [3])
    with pytest.raises(DataFormatError):
        states.get(4)
    states.close()


def test_pruned_rounds_are_no_beginning(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(SimulationError, match="pruned"):
        Commits(tmp_path / "states").rewind(2)
