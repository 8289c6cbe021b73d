"""Whatever stops a run, every draw of noise is paid for, and what was released is never redrawn."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedcore.errors import LedgerError
from fedcore.privacy.ledger import Ledger, verify
from tests.privacy.ledger_world import (
    KEY,
    POINTS,
    Disk,
    Killed,
    World,
    open_or_create,
    plan_of,
    run,
)
from tests.variants import mostly_slow


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def calls_of_a_run(disk: Disk, folder: Path) -> int:
    with disk.process():
        run(folder, World())
        return len(disk.calls)


def at(number: int, what: Callable[..., Any]) -> Callable[..., Any]:
    """`what` instead of the call of this number, counted from 1."""

    def act(disk: Disk, name: str, perform: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        return what(disk, name, perform, args) if len(disk.calls) == number else perform()

    return act


def killed_before(disk: Disk, name: str, perform: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    raise disk.kill()


def killed_after(disk: Disk, name: str, perform: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    perform()
    raise disk.kill()


def killed_within(disk: Disk, name: str, perform: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    half_written(name, args)
    raise disk.kill()


def half_written(name: str, args: tuple[Any, ...]) -> None:
    """Half of the data that a write was given reaches the file."""
    if name == "write":
        with open(f"/proc/self/fd/{args[0]}", "ab", buffering=0) as file:
            file.write(bytes(args[1][: len(args[1]) // 2]))


@pytest.mark.parametrize(
    "kill",
    [
        killed_within,
        pytest.param(killed_before, marks=pytest.mark.slow),
        pytest.param(killed_after, marks=pytest.mark.slow),
    ],
)
def test_a_process_killed_at_any_call_of_the_disk_has_paid_for_what_it_drew(
    disk: Disk, tmp_path: Path, kill: Callable[..., Any]
) -> None:
    for number in range(1, calls_of_a_run(disk, tmp_path / "whole") + 1):
        folder, world = tmp_path / f"{number}", World()
        with disk.process(at(number, kill)), pytest.raises(Killed):
            run(folder, world)
        with disk.process():
            run(folder, world)  # checks the oracle when it opens, and when it is done
        assert sorted(world.published) == [0, 1, 2]
        assert verify(folder, checkpoint=world.checkpoint).released == 3
        assert folder in disk.entries  # as its parent lists it, whoever made it


@pytest.mark.parametrize("kill", mostly_slow([killed_after, killed_before]))
def test_folders_above_a_new_ledger_are_found_after_a_power_cut_too(
    disk: Disk, tmp_path: Path, kill: Callable[..., Any]
) -> None:
    whole = tmp_path / "whole" / "runs" / "ledger"
    with disk.process():
        Ledger.create(whole, plan_of(), participation_key=KEY).close()
    for number in range(1, len(disk.calls) + 1):
        folder = tmp_path / f"{number}" / "runs" / "ledger"
        with disk.process(at(number, kill)), pytest.raises(Killed):
            Ledger.create(folder, plan_of(), participation_key=KEY).close()
        with disk.process():
            run(folder, World())
        assert {folder, *folder.parents[:2]} <= disk.entries
        assert folder.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow  # any series of crashes is quickly asked below
@pytest.mark.parametrize("every", [20, 5])
def test_a_process_killed_again_while_it_recovers_has_paid_too(
    disk: Disk, tmp_path: Path, every: int
) -> None:
    whole = calls_of_a_run(disk, tmp_path / "whole")
    for first in range(1, whole + 1, every):
        for second in range(1, 12):
            folder, world = tmp_path / f"{first}-{second}", World()
            with disk.process(at(first, killed_within)), pytest.raises(Killed):
                run(folder, world)
            try:
                with disk.process(at(second, killed_after)):
                    run(folder, world)
            except Killed:
                pass
            with disk.process():
                run(folder, world)
            assert sorted(world.published) == [0, 1, 2]


class Points:
    """Kills a run at one of the named points of one of its rounds."""

    def __init__(self, disk: Disk, name: str, round_: int) -> None:
        self._disk, self._name, self._left = disk, name, round_ + 1
        self._reserving = False

    def __call__(self, name: str) -> None:
        self._reserving = name == "reserve"
        self._reach(name)

    def act(self, disk: Disk, name: str, perform: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        if name != "fsync":
            return perform()
        file = disk.path(args[0]).name
        if file == "privacy.ledger" and self._reserving:
            self._reserving = False
            self._reach("before the fsync of RESERVE")
            perform()
            return self._reach("after the fsync of RESERVE")
        perform()
        return self._reach("after the fsync of the payload") if "release-" in file else None

    def _reach(self, name: str) -> None:
        self._left -= name == self._name
        if self._left == 0:
            raise self._disk.kill()


@pytest.mark.parametrize("round_", [0, 2])
@pytest.mark.parametrize("name", POINTS)
def test_a_process_killed_at_a_named_point_has_paid_for_what_it_drew(
    disk: Disk, tmp_path: Path, name: str, round_: int
) -> None:
    world, points = World(), Points(disk, name, round_)
    with disk.process(points.act), pytest.raises(Killed):
        run(tmp_path / "ledger", world, point=points)
    before = dict(world.published)
    with disk.process():
        run(tmp_path / "ledger", world)
    assert before.items() <= world.published.items()
    # Only a round that was reserved and not released is run twice.
    twice = name in POINTS[2:6] or name == POINTS[1]
    found = verify(tmp_path / "ledger", checkpoint=world.checkpoint)
    assert found.reservations == 3 + (twice or name == POINTS[0])
    assert world.draws.total() == 3 + (name in POINTS[4:6])


def tails(synced: bytes, written: bytes, step: int) -> Iterator[bytes]:
    """What a power cut may leave of a file: with more or less of the end, or zeros in its place."""
    yield synced
    yield written
    if written.startswith(synced) and written != synced:
        tail = written[len(synced) :]
        for size in {*range(0, len(tail), step), 1, len(tail) - 1}:
            yield synced + tail[:size]
            yield synced + tail[:size] + bytes(len(tail) - size)


@pytest.mark.parametrize(("every", "step"), [(3, 180), pytest.param(1, 9, marks=pytest.mark.slow)])
def test_a_power_cut_loses_nothing_that_was_acted_upon(
    disk: Disk, tmp_path: Path, every: int, step: int
) -> None:
    states = 0
    for number in range(1, calls_of_a_run(disk, tmp_path / "whole") + 1, every):
        folder, world = tmp_path / f"{number}", World()
        with disk.process(at(number, killed_after)), pytest.raises(Killed):
            run(folder, world)
        assert folder in disk.entries or not world.draws
        if not folder.is_dir():
            continue
        left: list[dict[str, bytes]] = [{}]
        for path in folder.iterdir():
            synced, written = disk.synced.get(path, b""), path.read_bytes()
            if synced != written or path not in disk.entries:
                left += [{path.name: data} for data in tails(synced, written, step)]
        for but in left:
            twin = tmp_path / f"{number}-{states}"
            disk.copy(folder, twin)
            disk.lose_power(twin, but=but)
            copy = World(world.plan, world.draws.copy(), dict(world.published), world.checkpoint)
            with disk.process():
                run(twin, copy)
            states += 1
    assert states * every > 150


def test_what_a_new_process_has_read_survives_a_power_cut(disk: Disk, tmp_path: Path) -> None:
    for number in range(10, calls_of_a_run(disk, tmp_path / "whole") + 1):
        folder, world = tmp_path / f"{number}", World()
        with disk.process(at(number, killed_after)), pytest.raises(Killed):
            run(folder, world)
        with disk.process(), open_or_create(folder, world) as ledger:
            for round_ in range(world.plan.rounds):
                if (payload := ledger.released(round_)) is not None:
                    world.published[round_] = payload
            world.checkpoint = ledger.head
        disk.lose_power(folder)
        with disk.process():
            run(folder, world)
        assert sorted(world.published) == [0, 1, 2]


def test_a_record_that_was_never_synced_is_synced_before_it_is_relied_on(
    disk: Disk, tmp_path: Path
) -> None:
    def unsynced(disk: Disk, name: str, perform: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        # Linux reports a failed write-back once, and then takes the pages for clean.
        raise OSError(errno.EIO, "input/output error")

    folder, world = tmp_path / "ledger", World()
    with disk.process():
        ledger = open_or_create(folder, world)
        reservation = ledger.reserve(0)
        reservation.mark_drawn()
    with disk.process(at(5, unsynced)):
        with pytest.raises(LedgerError):
            reservation.release(b"payload")
        assert disk.calls == ["open", "write", "fsync", "open", "fsync"]
        ledger.close()
    with disk.process(), Ledger.open(folder, checkpoint=None, participation_key=KEY) as again:
        assert "pwrite" in disk.calls
        assert disk.calls.index("pwrite") < disk.calls.index("fsync")
        assert again.released(0) is None
    with disk.process():
        ledger = Ledger.open(folder, checkpoint=None, participation_key=KEY)
        reservation = ledger.reserve(0)
        reservation.mark_drawn()
    with disk.process(at(7, unsynced)):
        with pytest.raises(LedgerError):
            reservation.release(b"payload")
        ledger.close()
    with disk.process(), Ledger.open(folder, checkpoint=None, participation_key=KEY) as again:
        assert again.released(0) == b"payload"
        disk.lose_power(folder)
        assert again.released(0) == b"payload"


def full(disk: Disk, name: str, perform: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    half_written(name, args)
    raise OSError(errno.ENOSPC, "no space left on device")


def broken(disk: Disk, name: str, perform: Callable[[], Any], args: tuple[Any, ...]) -> Any:
    raise OSError(errno.EIO, "input/output error")


@pytest.mark.parametrize("fault", [full, pytest.param(broken, marks=pytest.mark.slow)])
def test_a_disk_that_fails_stops_the_ledger_until_it_is_opened_again(
    disk: Disk, tmp_path: Path, fault: Callable[..., Any]
) -> None:
    number, failed = 0, True
    while failed:
        number += 1
        folder, world = tmp_path / f"{number}", World()
        opened: list[Ledger] = []
        with disk.process():
            open_or_create(folder, world).close()
        with disk.process(at(number, fault)):
            try:
                run_keeping(folder, world, opened)
                failed = False
            except LedgerError:
                for ledger in opened:
                    with pytest.raises(LedgerError, match="open the ledger again"):
                        ledger.reserve(0)
                    with pytest.raises(LedgerError, match="open the ledger again"):
                        ledger.released(0)
            for ledger in opened:
                ledger.close()
        with disk.process():
            run(folder, world)
        assert sorted(world.published) == [0, 1, 2]
    assert number > 30


def run_keeping(folder: Path, world: World, opened: list[Ledger]) -> None:
    """As `run`, without closing the ledger."""
    opened.append(Ledger.open(folder, checkpoint=None, participation_key=KEY))
    for round_ in range(world.plan.rounds):
        reservation = opened[0].reserve(round_)
        reservation.participate([b"somebody"])
        reservation.mark_drawn()
        world.draws[round_] += 1
        payload = os.urandom(16)
        reservation.release(payload)
        world.published[round_] = payload


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_children_that_end_at_any_call_of_the_disk_have_paid_for_what_they_drew(
    tmp_path: Path, root: Path, step: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.privacy.ledger_children", str(tmp_path), str(step)],
        cwd=root,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * step > 40


@given(kills=st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0, 1, 2])), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_series_of_crashes_leaves_a_run_that_ends_and_has_paid(
    disk: Disk, tmp_path_factory: pytest.TempPathFactory, kills: list[tuple[int, int]]
) -> None:
    folder, world = tmp_path_factory.mktemp("series") / "ledger", World()
    for number, kind in kills:
        try:
            with disk.process(at(number, [killed_before, killed_after, killed_within][kind])):
                run(folder, world)
        except Killed:
            continue
    with disk.process():
        run(folder, world)
    assert sorted(world.published) == [0, 1, 2]
