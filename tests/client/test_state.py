"""What a device keeps survives a power cut, tells a thief nothing, and never turns into another."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedclient.assignment import OpenAssignment
from fedclient.energy import Meter, battery_level
from fedclient.files import read_secret, write_file
from fedclient.progress import Energy, Outcome
from fedclient.sealing import Seal, open_frames, seal_frames
from fedclient.state import DAY_MS, State
from fedcore.errors import ClientStateError

KEY = bytes(range(32))
ASSIGNMENT = OpenAssignment(
    assignment_id=b"a" * 16,
    task_id="t1",
    round=3,
    attempt=1,
    task_digest=b"d" * 32,
    nonce=b"n" * 32,
)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, key=KEY)


def again(state: State, folder: Path) -> State:
    state.close()
    return State(folder, key=KEY)


def test_how_an_attempt_ended_stays_on_record_if_it_is_assigned_again(state: State) -> None:
    for outcome in (Outcome.COMPLETED, Outcome.REFUSED):
        state.answered(assignment=ASSIGNMENT, at_ms=1000)
        state.give(ASSIGNMENT)
        state.finish(ASSIGNMENT, outcome)
    assert state.charge(ASSIGNMENT).outcome == Outcome.COMPLETED
    assert state.given(ASSIGNMENT.task_digest) == {(3, 1)}


def test_everything_is_there_after_a_restart(state: State, tmp_path: Path) -> None:
    state.persist("prekey/01", b"secret")
    state.persist("prekey/01", b"newer")
    state.persist("prekey/02", b"other")
    state.erase("prekey/02")
    asked = state.request_id()
    state = again(state, tmp_path)
    assert again_id(state) == asked
    state.answered(assignment=ASSIGNMENT, at_ms=1000)
    state.spend(ASSIGNMENT, bytes_up=5, bytes_down=7, seconds=1.5, energy=Energy(3.0, True))
    state.spend(ASSIGNMENT, bytes_up=1)
    state.give(ASSIGNMENT)
    state = again(state, tmp_path)
    assert state.records() == {"prekey/01": b"newer"}
    assert state.assignment == ASSIGNMENT
    assert again_id(state) != asked
    assert state.given(ASSIGNMENT.task_digest) == {(3, 1)}
    charge = state.charge(ASSIGNMENT)
    assert (charge.bytes_up, charge.bytes_down, charge.seconds) == (6, 7, 1.5)
    assert charge.energy == Energy(3.0, True) and charge.given and charge.outcome == ""
    state.finish(ASSIGNMENT, Outcome.COMPLETED)
    state = again(state, tmp_path)
    assert state.assignment is None
    assert [found.outcome for found in state.charges()] == ["completed"]
    state.close()


def again_id(state: State) -> bytes:
    first = state.request_id()
    assert state.request_id() == first and len(first) == 16
    return first


def test_a_thief_of_the_disk_reads_no_secret(state: State, tmp_path: Path) -> None:
    marker = b"this must never be seen in a file"
    block = np.frombuffer(marker * 8, np.int64)
    state.persist("prekey/01", marker)
    state.answered(assignment=ASSIGNMENT)
    state.keep_contribution(ASSIGNMENT, [block])
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert marker not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0
    state.close()


def test_records_cannot_be_exchanged_nor_read_with_another_key(
    state: State, tmp_path: Path
) -> None:
    state.persist("a", b"1")
    state.persist("b", b"2")
    state.close()
    with sqlite3.connect(tmp_path / "state.db") as database:
        sealed = dict(database.execute("SELECT key, sealed FROM record"))
        database.execute("UPDATE record SET sealed=? WHERE key='a'", (sealed["b"],))
    database.close()
    state = State(tmp_path, key=KEY)
    with pytest.raises(ClientStateError, match="'a'"):
        state.records()
    state.close()


def test_a_contribution_comes_back_to_the_bit_and_goes_for_good(
    state: State, tmp_path: Path
) -> None:
    draw = np.random.default_rng(1)
    blocks = [
        draw.integers(-(2**62), 2**62, 300_000, dtype=np.int64),
        np.arange(3),
        np.array([-1]),
    ]
    assert state.contribution(ASSIGNMENT) is None
    state.answered(assignment=ASSIGNMENT)
    state.keep_contribution(ASSIGNMENT, blocks)
    state = again(state, tmp_path)
    found = state.contribution(ASSIGNMENT)
    assert found is not None
    assert all(np.array_equal(a, b) for a, b in zip(found, blocks, strict=True))
    [path] = (tmp_path / "contributions").iterdir()
    data = bytearray(path.read_bytes())
    data[2_000_000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ClientStateError):
        state.contribution(ASSIGNMENT)
    path.write_bytes(b"")
    with pytest.raises(ClientStateError):
        state.contribution(ASSIGNMENT)
    state.finish(ASSIGNMENT, Outcome.ABANDONED)
    assert state.contribution(ASSIGNMENT) is None
    assert not list((tmp_path / "contributions").iterdir())
    state.close()


def test_a_contribution_that_was_cut_by_a_crash_is_none(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def cut(descriptor: int) -> None:
        raise PowerCut

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(PowerCut):
        state.keep_contribution(ASSIGNMENT, [np.arange(3)])
    monkeypatch.undo()
    state = again(state, tmp_path)
    assert state.contribution(ASSIGNMENT) is None
    state.keep_contribution(ASSIGNMENT, [np.arange(3)])
    found = state.contribution(ASSIGNMENT)
    assert found is not None and found[0].tolist() == [0, 1, 2]
    state.close()


def test_only_the_last_day_counts(state: State) -> None:
    state.answered(assignment=ASSIGNMENT, at_ms=1000)
    state.spend(ASSIGNMENT, bytes_up=10, seconds=2)
    assert state.spent(since_ms=1000).bytes == 10
    assert state.spent(since_ms=1001).bytes == 0
    assert state.spent(since_ms=1000 - DAY_MS).seconds == 2
    state.close()


def test_a_state_of_a_later_release_is_left_alone(state: State, tmp_path: Path) -> None:
    state.close()
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ClientStateError, match="version 99"):
        State(tmp_path, key=KEY)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 100)
    with pytest.raises(ClientStateError):
        State(tmp_path, key=KEY)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_pass_for_an_assignment(data: bytes) -> None:
    with pytest.raises(ClientStateError):
        OpenAssignment.decode(data)
    assert OpenAssignment.decode(ASSIGNMENT.encode()) == ASSIGNMENT


@given(st.binary(max_size=64), st.integers(0, 10_000))
def test_a_seal_opens_only_as_it_was_made(value: bytes, bit: int) -> None:
    seal = Seal(KEY)
    sealed = seal.sealed("name", value)
    assert seal.opened("name", sealed) == value
    changed = bytearray(sealed)
    changed[bit // 8 % len(sealed)] ^= 1 << bit % 8
    for name, data in (("name", bytes(changed)), ("nam", sealed), ("name", sealed[:-1])):
        with pytest.raises(ClientStateError):
            seal.opened(name, data)


def test_frames_stay_in_their_order() -> None:
    sealed = list(seal_frames(KEY, [memoryview(bytes(2**20)), memoryview(b"end")]))
    assert b"".join(open_frames(KEY, sealed)) == bytes(2**20) + b"end"
    with pytest.raises(ClientStateError):
        list(open_frames(KEY, sealed[::-1]))


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    write_file(path, KEY, mode=0o400)
    write_file(path, KEY, mode=0o400)
    assert read_secret(path) == KEY and path.stat().st_mode & 0o777 == 0o400
    path.chmod(0o440)
    with pytest.raises(ClientStateError, match="open to others"):
        read_secret(path)


def test_energy_is_measured_where_there_is_a_counter_and_estimated_elsewhere(
    tmp_path: Path,
) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    within = tmp_path / "intel-rapl:0:0"
    within.mkdir()
    for path in (package, within):
        (path / "max_energy_range_uj").write_text("10000000\n")
        (path / "energy_uj").write_text("9000000\n")
    meter = Meter(root=tmp_path)
    (package / "energy_uj").write_text("2000000\n")  # it began again at 0
    found = meter.read()
    assert found.measured and found.joules == pytest.approx(3.000001)
    assert not Meter(root=tmp_path / "none").read().measured


def test_a_battery_counts_only_while_it_empties(tmp_path: Path) -> None:
    battery = tmp_path / "BAT0"
    battery.mkdir()
    assert battery_level(root=tmp_path) is None
    (battery / "capacity").write_text("37\n")
    (battery / "status").write_text("Charging\n")
    assert battery_level(root=tmp_path) is None
    (battery / "status").write_text("Discharging\n")
    assert battery_level(root=tmp_path) == 0.37
