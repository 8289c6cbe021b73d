"""A process that is killed at any of its writes leaves a folder from which the run goes on.

It dies before, after, or halfway through the n-th call that changes the disk, for every n until
none is left to die at.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from fedcore.errors import DataFormatError
from fedsim.run.folder import RunFolder
from fedsim.run.reading import read_run, read_state
from tests.sim.records.samples import digest, record, theta_after
from tests.sim.run.kills import is_killed
from tests.sim.run.samples import plan, state_after

ROUNDS = 3


def simulate(root: Path) -> Path:
    """Begins a run, or goes on with the one that is there, until it has ended."""
    there = sorted(path for path in root.glob("*") if not path.name.startswith("."))
    if there:
        folder = RunFolder.resume(there[0], scenario_digest=digest("digits"))
    else:
        folder = RunFolder.create(root, plan())
    with folder:
        if folder.result is None:
            for round in range(len(folder.rounds), ROUNDS):
                folder.append(record(round), state_after(round) if round % 2 == 0 else None)
            folder.write_model(theta_after(ROUNDS - 1))
            folder.finish(ended="all rounds are over")
    return folder.path


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(simulate(tmp_path_factory.mktemp("undisturbed")))


def require_consistent(root: Path) -> None:
    """What is there under its name can be read, with no checkpoint beyond the rounds."""
    for path in root.glob("[!.]*"):
        run = read_run(path)
        state = read_state(run)
        assert state is None or state.rounds <= len(run.rounds)
        assert run.result is None or len(run.rounds) == ROUNDS


@pytest.mark.slow
@pytest.mark.parametrize("when", ["halfway", "before", "after"])
def test_a_run_killed_at_any_write_goes_on_to_the_same_files(
    tmp_path: Path, undisturbed: dict[str, bytes], when: str
) -> None:
    for at in range(1, 200):
        root = tmp_path / str(at)
        root.mkdir()
        killed = is_killed(partial(simulate, root), at, when)
        require_consistent(root)
        path = simulate(root)
        assert contents(path) == undisturbed, f"killed {when} call {at}"
        assert [p.name for p in root.iterdir()] == [path.name]
        if not killed:
            break
    else:
        pytest.fail("the run never ends")
    assert at > 30  # it was indeed killed at many places


def test_a_run_killed_again_and_again_ends_nevertheless(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    kills = 0
    while is_killed(partial(simulate, tmp_path), 14, "halfway"):
        kills += 1
        require_consistent(tmp_path)
        assert kills < 50, "it makes no progress"
    assert kills > 1
    assert contents(simulate(tmp_path)) == undisturbed


def test_what_a_kill_left_of_a_new_folder_is_no_run(tmp_path: Path) -> None:
    assert is_killed(partial(simulate, tmp_path), 5, "before")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    with pytest.raises(DataFormatError):
        read_run(left)
