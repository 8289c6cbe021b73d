"""A ledger's file proves that nothing in it was changed, and is written by one process."""

from __future__ import annotations

import itertools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fedcore.errors import ArgumentError, LedgerBusyError, LedgerError, RollbackError
from fedcore.privacy import ledger_file
from fedcore.privacy.ledger import Head, Ledger, verify
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_journal import require_current
from fedcore.privacy.ledger_records import (
    VERSION,
    Chain,
    Close,
    Migrate,
    Open,
    Part,
    Release,
    Reserve,
    Void,
    encode,
    read_chain,
)
from fedcore.privacy.plan import PrivacyPlan
from tests.privacy.ledger_world import FILE, banded, plan_of, release, written

RECORDED = Path(__file__).parent / "recorded" / "version_1.ledger"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def accepted(data: bytes) -> Chain | None:
    try:
        chain = read_chain(data)
        History(chain)
    except LedgerError:
        return None
    return chain


# --- The chain


@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_a_changed_byte_is_seen_wherever_it_is(tmp_path: Path, step: int) -> None:
    data = written(tmp_path)
    whole = read_chain(data)
    last = data.rindex(b"\n", 0, -1)
    values = [1 << bit for bit in range(8)]
    for at, byte in enumerate(data):
        # Of the last line all bytes, for there a torn line might be seen instead.
        if at % step and at < last:
            continue
        flips = {byte ^ value for value in (values if at >= last else values[at % 8 :: 8])}
        for changed in (flips | ({0, ord("\n"), ord("0")} if at >= last else set())) - {byte}:
            found = accepted(data[:at] + bytes([changed]) + data[at + 1 :])
            # The newline at the very end says nothing: without it the last record stands.
            assert found is None or (at == len(data) - 1 and found.digests == whole.digests)


def test_a_ledger_cut_off_anywhere_lacks_a_record_that_a_checkpoint_names(tmp_path: Path) -> None:
    data = written(tmp_path)
    whole = read_chain(data)
    assert whole.head is not None
    last = data.rindex(b"\n", 0, -1)
    for size in (*range(0, last, 7), *range(last, len(data))):
        found = accepted(data[:size])
        assert found is not None
        assert found.digests == whole.digests[: len(found.digests)]
        assert found.torn == (found.end < size)
        if len(found.digests) < len(whole.digests):
            with pytest.raises(RollbackError):
                require_current(tmp_path / "none", found, whole.head)


def test_a_ledger_of_version_1_is_read_and_written_as_it_always_was() -> None:
    """In the folder `recorded` lies one with a record of each kind, and is never written again."""
    data = RECORDED.read_bytes()
    chain = read_chain(data)
    kinds = [type(record) for record in chain.records]
    assert {*kinds} == {Open, Reserve, Part, Release, Void, Migrate, Close}
    lines, head = b"", None
    for record in chain.records:
        line, head = encode(record, head)
        lines += line
    assert lines == data and head == chain.head
    history = History(chain)
    assert (history.reservations, history.voided, history.closed) == (4, 1, True)
    assert history.epsilon() == pytest.approx(4.0119116424199746, rel=1e-12)


def test_of_a_line_that_was_torn_zeros_may_follow_its_beginning_and_not_be_within(
    tmp_path: Path,
) -> None:
    data = written(tmp_path)
    for end in (b'{"rec', b'{"rec\0\0', b"\0\0"):
        assert read_chain(data + end).torn
    with pytest.raises(LedgerError, match="other than a newline"):
        read_chain(data + b'{"rec\0\0ord')


def test_what_is_done_to_a_copy_of_a_history_changes_the_other_in_nothing() -> None:
    plan = banded(3)
    records = [
        Open(VERSION, "", "rdp", None, 2, "", plan),
        Reserve(0, plan.event),
        Release(1, "0" * 64),
        Release(1, "1" * 64),
    ]
    history = History()
    for seq, record in enumerate(records[:3]):
        history.add(record, seq)
    twin = history.copy()
    twin.add(records[3], 3)
    assert history.current is not None and history.current.released == [2]
    assert (history.segment.rounds, history.payers) == ({0: 2}, {2: 1})
    assert twin.segment.rounds == {0: 2, 1: 3}


@pytest.mark.parametrize("seq", [-1, 0, 1, 3, 4])
@pytest.mark.parametrize("use", [Part, Void, Release])
def test_no_reservation_but_the_latest_is_used_and_none_that_was_voided(
    use: Callable[[int, str], Part | Void | Release], seq: int
) -> None:
    plan = plan_of()
    history = History()
    records = [Open(VERSION, "", "rdp", None, 2, "", plan), *[Reserve(0, plan.event)] * 2]
    for number, record in enumerate(records):
        history.add(record, number)
    assert "is not the latest" in history.refusal(use(seq, "0" * 64))
    assert history.refusal(use(2, "0" * 64)) == ""
    history.add(Void(2, "the network is down"), 3)
    for reserved in (1, 2):
        assert "or was voided" in history.refusal(use(reserved, "0" * 64))


def test_lines_in_any_other_order_or_number_are_refused(tmp_path: Path) -> None:
    lines = written(tmp_path).splitlines(keepends=True)
    for first, second in itertools.combinations(range(len(lines)), 2):
        swapped = list(lines)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        assert accepted(b"".join(swapped)) is None
    for at in range(len(lines)):
        assert accepted(b"".join([*lines[: at + 1], lines[at], *lines[at + 1 :]])) is None
        if at < len(lines) - 1:
            assert accepted(b"".join(lines[:at] + lines[at + 1 :])) is None


@pytest.mark.slow
def test_a_torn_line_is_dropped_and_its_round_runs_again(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        ledger.reserve(0)
    data = (tmp_path / FILE).read_bytes()
    last = data.splitlines(keepends=True)[-1]
    for size in range(1, len(last)):
        for filler in (b"", bytes(len(last) - size)):
            (tmp_path / FILE).write_bytes(data[: -len(last)] + last[:size] + filler)
            whole = size == len(last) - 1
            assert verify(tmp_path).torn == (bool(filler) if whole else True)
            with Ledger.open(tmp_path, checkpoint=None) as ledger:
                assert ledger.spent == ({plan_of().event: 1} if whole else {})
                ledger.reserve(0)
            assert verify(tmp_path).reservations == 1 + whole


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "new", plan_of()) as ledger:
        release(ledger, 0)
    for path in (tmp_path / "new").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- Older copies


def test_an_old_copy_is_refused_by_a_newer_checkpoint(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        release(ledger, 0)
        old = (tmp_path / FILE).read_bytes()
        checkpoint = Head.from_json(release(ledger, 1).to_json())
        ahead = ledger.reserve(2)
        assert ahead.seq > checkpoint.seq
    with Ledger.open(tmp_path, checkpoint=checkpoint) as ledger:
        assert ledger.spent == {plan_of().event: 3}
    (tmp_path / FILE).write_bytes(old)
    for path in tmp_path.glob("release-*"):
        path.unlink()
    with pytest.raises(RollbackError):
        Ledger.open(tmp_path, checkpoint=checkpoint)
    with pytest.raises(RollbackError):
        verify(tmp_path, checkpoint=checkpoint)
    (tmp_path / FILE).unlink()
    with pytest.raises(RollbackError):
        Ledger.open(tmp_path, checkpoint=checkpoint)
    with pytest.raises(LedgerError):
        Ledger.open(tmp_path, checkpoint=None)


def test_another_ledger_of_the_same_length_is_refused_by_a_checkpoint(tmp_path: Path) -> None:
    heads = []
    for name, payload in (("one", b"1"), ("two", b"2")):
        with Ledger.create(tmp_path / name, plan_of()) as ledger:
            heads.append(release(ledger, 0, payload))
    with pytest.raises(RollbackError):
        Ledger.open(tmp_path / "two", checkpoint=heads[0])


def test_an_old_file_beside_newer_payloads_is_refused_even_without_a_checkpoint(
    tmp_path: Path,
) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        old = (tmp_path / FILE).read_bytes()
        release(ledger, 0)
    (tmp_path / FILE).write_bytes(old)
    with pytest.raises(RollbackError):
        Ledger.open(tmp_path, checkpoint=None)
    (tmp_path / FILE).unlink()
    with pytest.raises(LedgerError, match="payloads"):
        Ledger.create(tmp_path, plan_of())


@pytest.mark.parametrize("data", [None, {}, {"seq": 1}, {"seq": -1, "digest": "0" * 64}, 3])
def test_a_checkpoint_that_is_none_is_refused(data: object) -> None:
    with pytest.raises(LedgerError):
        Head.from_json(data)


def test_what_is_no_head_is_refused_with_what_makes_one(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        head = release(ledger, 0)
    opens: tuple[Callable[..., object], ...] = (
        partial(Ledger.open, tmp_path),
        partial(verify, tmp_path),
    )
    for checkpoint in (head.to_json(), "head.json", tmp_path / "head.json", 3):
        for attempt in opens:
            with pytest.raises(ArgumentError) as caught:
                attempt(checkpoint=checkpoint)
            assert "Head.from_json()" in caught.value.fix
    with pytest.raises(LedgerError) as unread:
        Head.from_json(json.dumps(head.to_json()))
    assert "json.loads()" in unread.value.fix
    with pytest.raises(LedgerError) as unread:
        PrivacyPlan.from_json(json.dumps(plan_of().to_json()))
    assert "json.loads()" in unread.value.fix


def test_a_folder_without_a_ledger_is_named(tmp_path: Path) -> None:
    def create(folder: Path) -> Ledger:
        return Ledger.create(folder, plan_of())

    read: tuple[Callable[..., object], ...] = (verify, partial(Ledger.open, checkpoint=None))
    for attempt in read:
        with pytest.raises(LedgerError, match="there is none") as caught:
            attempt(tmp_path / "nowhere")
        assert str(tmp_path / "nowhere") in str(caught.value)
    create(tmp_path / "ledger").close()
    for attempt in (*read, create):
        with pytest.raises(LedgerError, match="is a file") as caught:
            attempt(tmp_path / "ledger" / FILE)
        assert caught.value.fix == f"pass a folder: {tmp_path / 'ledger'}"
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="is a file"):
        create(tmp_path / "file")


# --- One writer


def test_a_second_opener_is_refused_in_this_process_and_in_another(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, plan_of())
    with pytest.raises(LedgerBusyError):
        Ledger.open(tmp_path, checkpoint=None)
    with pytest.raises(LedgerBusyError):
        Ledger.create(tmp_path, plan_of())
    program = (
        "import sys\n"
        "from fedcore.errors import LedgerBusyError\n"
        "from fedcore.privacy.ledger import Ledger\n"
        "try: Ledger.open(sys.argv[1], checkpoint=None)\n"
        "except LedgerBusyError: print('busy', flush=True)\n"
        "sys.stdin.read()\n"
        "Ledger.open(sys.argv[1], checkpoint=None)\n"
        "print('open')\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    with other:
        assert other.stdout.readline() == "busy\n"
        ledger.close()
        assert other.communicate(timeout=60)[0] == "open\n"


def test_who_ignores_the_lock_is_noticed_before_the_next_record(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, plan_of())
    data = (tmp_path / FILE).read_bytes()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b"x")
    with pytest.raises(LedgerError, match="changed"):
        ledger.reserve(0)
    ledger.close()
    (tmp_path / FILE).write_bytes(data)
    ledger = Ledger.open(tmp_path, checkpoint=None)
    (tmp_path / FILE).rename(tmp_path / "moved")
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(LedgerError, match="changed"):
        ledger.reserve(0)
    ledger.close()


def test_a_forked_process_can_neither_reserve_nor_use_what_was_reserved(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from fedcore.errors import LedgerError, ReservationError\n"
        "from tests.privacy.ledger_world import plan_of\n"
        "from fedcore.privacy.ledger import Ledger\n"
        "ledger = Ledger.create(sys.argv[1], plan_of())\n"
        "reservation = ledger.reserve(0)\n"
        "if os.fork() == 0:\n"
        "    attempts = [reservation.mark_drawn, lambda: reservation.void('why'),\n"
        "        lambda: reservation.release(b''), reservation.select,\n"
        "        lambda: reservation.participate([b'one'])]\n"
        "    for attempt in attempts:\n"
        "        try: attempt(); os._exit(1)\n"
        "        except ReservationError: pass\n"
        "    try: ledger.reserve(1); os._exit(2)\n"
        "    except LedgerError: ledger.close()\n"
        "    os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
        "reservation.mark_drawn()\n"
        "reservation.release(b'payload')\n"
        "print('released')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "ledger")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.stdout == "released\n", done.stderr


def test_an_interrupted_creation_is_taken_over_and_a_finished_one_is_not(tmp_path: Path) -> None:
    line = written(tmp_path / "other").splitlines()[0]
    (tmp_path / FILE).write_bytes(line[:-1])
    with pytest.raises(LedgerError, match="empty"):
        Ledger.open(tmp_path, checkpoint=None)
    with pytest.raises(LedgerError, match="empty"):
        verify(tmp_path)
    (tmp_path / FILE).write_bytes(line[:100])
    Ledger.create(tmp_path, plan_of()).close()
    with pytest.raises(LedgerError, match="already"):
        Ledger.create(tmp_path, plan_of())


def test_a_payload_is_never_written_over(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        reservation = ledger.reserve(0)
        reservation.mark_drawn()
        ledger_file.payload_path(tmp_path, 2).write_bytes(b"another run's")
        with pytest.raises(LedgerError):
            reservation.release(b"payload")
    assert ledger_file.payload_path(tmp_path, 2).read_bytes() == b"another run's"
