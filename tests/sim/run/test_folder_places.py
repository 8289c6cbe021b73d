"""A run may lie in any folder that is free, and a place that takes none is told before a round."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from threading import Barrier, Thread

import pytest

from fedcore.errors import ArgumentError, CheckpointError, DataFormatError, FedcoreError
from fedsim import read_run, simulate
from fedsim.run.folder import RunFolder
from tests.sim.run.kills import is_killed
from tests.sim.run.samples import plan
from tests.sim.scenarios import scenario_of


def created(root: Path, path: Path) -> Path:
    with RunFolder.create(root, plan(), path=path) as folder:
        return folder.path


def test_the_working_folder_becomes_a_run_and_stays_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate((".", "", "absent/..")):
        here = tmp_path / f"here-{number}"
        here.mkdir()
        monkeypatch.chdir(here)
        assert created(Path(), Path(name)) == here
        assert Path.cwd() == here and Path("resolved.json").exists()
        assert read_run(here).record.id == here.name
    assert {path.name for path in tmp_path.iterdir()} == {"here-0", "here-1", "here-2"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_an_empty_folder_or_to_none_yet_stays_a_link(tmp_path: Path, there: bool) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    if there:
        real.mkdir()
    link.symlink_to("real")
    assert created(tmp_path, link) == link
    assert link.is_symlink() and read_run(real).record.id == "link"
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_nothing_takes_the_place_of_an_empty_folder_which_may_be_a_mount_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr("os.rename", busy)
    (tmp_path / "disk").mkdir()
    created(tmp_path, tmp_path / "disk")
    with pytest.raises(CheckpointError) as caught:  # and not that another is making it
        created(tmp_path, tmp_path / "new")
    assert "busy" in caught.value.why and "another folder" in caught.value.fix


def test_a_kill_while_an_empty_folder_becomes_a_run_leaves_it_free(tmp_path: Path) -> None:
    for at in range(1, 60):
        path = tmp_path / str(at)
        path.mkdir()
        killed = is_killed(partial(created, tmp_path, path), at, "before")
        if (path / "resolved.json").exists():
            assert read_run(path).rounds == ()
        else:
            with pytest.raises(DataFormatError):
                read_run(path)
            created(tmp_path, path)
        if not killed:
            break
    assert at > 8  # it was indeed killed at many places


def test_a_folder_of_somebody_elses_files_is_not_free(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text("mine")
    with pytest.raises(ArgumentError, match="not free"):
        created(tmp_path, tmp_path)
    assert (tmp_path / "scenario.toml").read_text() == "mine"


@pytest.mark.parametrize("path", ["a" * 300, "a\0b", "\udcff", "file/below"])
def test_a_place_that_takes_no_run_is_told_before_the_first_round(
    tmp_path: Path, path: str
) -> None:
    (tmp_path / "file").touch()
    heard: list[object] = []
    with pytest.raises((ArgumentError, CheckpointError)) as caught:
        simulate(scenario_of(), folder=tmp_path / path, on_round=heard.append)
    assert caught.value.fix.startswith("name another folder")
    assert not heard and [left.name for left in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_may_not_be_looked_into_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(CheckpointError) as caught:
        simulate(scenario_of(), folder=tmp_path / "closed" / "run")
    assert caught.value.why == "Permission denied" and "give access" in caught.value.fix


@pytest.mark.parametrize("there", [True, False])
def test_of_calls_that_begin_in_one_folder_one_runs_and_the_others_hear_of_it(
    tmp_path: Path, there: bool
) -> None:
    path, scenario, errors = tmp_path / "run", scenario_of(rounds=2), list[FedcoreError]()
    begin = Barrier(3)
    if there:
        path.mkdir()

    def act() -> None:
        begin.wait()
        try:
            simulate(scenario, folder=path)
        except FedcoreError as error:
            errors.append(error)

    threads = [Thread(target=act) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_run(path).rounds) == 2
    assert all("another process or another call" in error.what for error in errors)


def test_what_is_no_folder_or_follower_is_refused_before_the_first_round(tmp_path: Path) -> None:
    scenario = scenario_of(rounds=1)
    for wrong in ({"folder": 5}, {"folder": b"x"}, {"world": "x"}, {"on_round": "x"}):
        with pytest.raises(ArgumentError, match=f"simulate: {next(iter(wrong))}"):
            simulate(scenario, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError) as caught:
        simulate("study.toml")  # type: ignore[arg-type]
    assert "from_toml" in caught.value.fix
    simulate(scenario, folder=str(tmp_path / "text"), on_round=None)
    assert read_run(tmp_path / "text").result is not None
