"""A ledger's file stays where it was opened, is let go of between records, and is a file."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from fedcore.errors import ArgumentError, LedgerError
from fedcore.privacy import ledger_file
from fedcore.privacy.ledger import Ledger, verify
from fedcore.privacy.ledger_records import read_blocks, read_chain
from tests.privacy.ledger_world import FILE, plan_of, release, written


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_who_closes_a_ledger_waits_for_a_record_that_another_thread_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.create(tmp_path, plan_of())
    closing, write = threading.Thread(target=ledger.close), ledger_file._write

    def paused(descriptor: int, data: bytes) -> None:
        closing.start()
        closing.join(0.1)
        write(descriptor, data)

    monkeypatch.setattr(ledger_file, "_write", paused)
    reservation = ledger.reserve(0)
    closing.join()
    with pytest.raises(LedgerError, match="closed"):
        reservation.mark_drawn()
    assert verify(tmp_path).reservations == 1


def test_a_close_in_the_midst_of_a_record_takes_effect_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal's handler does it."""
    ledger, write = Ledger.create(tmp_path, plan_of()), ledger_file._write

    def interrupted(descriptor: int, data: bytes) -> None:
        ledger.close()
        write(descriptor, data)

    monkeypatch.setattr(ledger_file, "_write", interrupted)
    ledger.reserve(0)
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="closed"):
        ledger.reserve(1)
    Ledger.open(tmp_path, checkpoint=None).close()
    assert verify(tmp_path).reservations == 1


def test_an_open_ledger_stays_in_its_folder_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (there / "ledger").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    with Ledger.create("ledger", plan_of()) as ledger:
        monkeypatch.chdir(there)
        release(ledger, 0)
        assert ledger.released(0) == b"payload"
    assert not any((there / "ledger").iterdir())
    assert verify(here / "ledger").released == 1


def test_no_payload_lands_in_a_folder_that_took_the_place_of_the_ledgers(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", plan_of()) as ledger:
        reservation = ledger.reserve(0)
        reservation.mark_drawn()
        (tmp_path / "ledger").rename(tmp_path / "moved")
        (tmp_path / "ledger").mkdir()
        with pytest.raises(LedgerError):
            reservation.release(b"payload")
    assert not any((tmp_path / "ledger").iterdir())


@pytest.mark.parametrize("name", [FILE, "release-00000002.bin"])
@pytest.mark.parametrize("kind", ["a pipe", "a link", "a device", "a folder"])
def test_nothing_but_a_file_is_read_as_one(tmp_path: Path, name: str, kind: str) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        release(ledger, 0)
    whole = tmp_path / name
    whole.rename(tmp_path / "whole")
    if kind == "a pipe":
        os.mkfifo(whole)
    elif kind == "a folder":
        whole.mkdir()
    else:
        whole.symlink_to("/dev/zero" if kind == "a device" else tmp_path / "whole")
    if name != FILE:
        assert verify(tmp_path).damaged == (0,)
        with (
            Ledger.open(tmp_path, checkpoint=None) as ledger,
            pytest.raises(LedgerError, match="gone"),
        ):
            ledger.released(0)
        return
    for attempt in (
        lambda: verify(tmp_path),
        lambda: Ledger.open(tmp_path, checkpoint=None),
        lambda: Ledger.create(tmp_path, plan_of()),
    ):
        with pytest.raises(LedgerError):
            attempt()


@pytest.mark.parametrize("again", [False, True], ids=["created", "opened"])
def test_a_disk_without_locks_is_an_error_of_the_ledger_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """As on NFS while its lock daemon is down."""
    if again:
        Ledger.create(tmp_path, plan_of()).close()

    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", without_locks)
        with pytest.raises(LedgerError) as refused:
            if again:
                Ledger.open(tmp_path, checkpoint=None)
            else:
                Ledger.create(tmp_path, plan_of())
    assert "No locks available" in refused.value.why
    assert isinstance(refused.value.__cause__, OSError)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_ledger_is_let_go_of_where_its_lock_cannot_be_taken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, lock = Ledger.create(tmp_path, plan_of()), fcntl.flock

    def locked_for_good(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, "No locks available")
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", locked_for_good)
    ledger.close()
    Ledger.open(tmp_path, checkpoint=None).close()


@pytest.mark.slow
def test_zeros_without_an_end_are_refused_before_they_are_read(tmp_path: Path) -> None:
    Ledger.create(tmp_path, plan_of()).close()
    os.truncate(tmp_path / FILE, 40 * 2**30)
    for attempt in (lambda: verify(tmp_path), lambda: Ledger.open(tmp_path, checkpoint=None)):
        with pytest.raises(LedgerError, match="record 1 "):
            attempt()
    assert (tmp_path / FILE).stat().st_size == 40 * 2**30


@pytest.mark.parametrize("size", [1, 7, 100, 2**20])
def test_a_chain_is_the_same_in_whatever_pieces_it_is_read(tmp_path: Path, size: int) -> None:
    data = written(tmp_path)
    for whole in (data, data[:-1], data[:-30], data[:-30] + bytes(99), b""):
        blocks = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert read_blocks(blocks) == read_chain(whole)


def test_a_checkpoint_that_is_no_head_is_refused(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        head = ledger.head
    assert verify(tmp_path, checkpoint=head).head == head
    for none in (head.to_json(), b"", 3):
        with pytest.raises(ArgumentError, match="the head of a ledger is a"):
            verify(tmp_path, checkpoint=none)  # type: ignore[arg-type]
