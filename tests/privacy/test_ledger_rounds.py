"""A reservation is used once, in its order, by whoever made it, and then never again."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError, FedcoreError, LedgerError, ReservationError
from fedcore.privacy.events import RepeatedEvent
from fedcore.privacy.ledger import Ledger, Reservation, verify
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_records import Void, encode
from fedcore.privacy.units import Unit
from tests.privacy.ledger_world import FILE, KEY, plan_of, release


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- Reservations


def test_a_reservation_is_voided_only_before_noise_was_drawn(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        reservation = ledger.reserve(0)
        reservation.void("nobody came")
        assert ledger.spent == {}
        for attempt in uses(reservation):
            with pytest.raises(ReservationError):
                attempt()
        reservation = ledger.reserve(0)
        reservation.mark_drawn()
        with pytest.raises(ReservationError, match="drawn"):
            reservation.void("too late")
        assert ledger.spent == {plan_of().event: 1}


@pytest.mark.parametrize("how", ["select", "participate"])
def test_a_cohort_that_is_known_is_not_exchanged_for_another(tmp_path: Path, how: str) -> None:
    """Whoever could draw again for nothing would choose among samples, and ours is accounted."""
    with Ledger.create(tmp_path, plan_of(), participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        if how == "select":
            reservation.select()
        else:
            reservation.participate([])
        with pytest.raises(ReservationError, match="cannot be used so") as caught:
            reservation.void("these will not do")
        assert "be it nothing" in str(caught.value)
        assert ledger.spent == {plan_of().event: 1}
        reservation.mark_drawn()
        reservation.release(b"noise alone")


def test_no_ledger_is_read_in_which_a_known_cohort_was_given_back(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of(), participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        reservation.participate([])
        head = ledger.head
    line, _ = encode(Void(reservation.seq, "these will not do"), head)
    with (tmp_path / FILE).open("ab") as file:
        file.write(line)
    with pytest.raises(LedgerError, match="cannot stand there"):
        verify(tmp_path)


def test_what_to_do_instead_of_reserving_is_said(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        release(ledger, 0)
        with pytest.raises(ReservationError) as served:
            ledger.reserve(0)
        assert "released(0)" in served.value.fix
        ledger.finish()
        for attempt in (
            lambda: ledger.reserve(0),
            lambda: ledger.reserve(1),
            lambda: ledger.migrate(plan_of(epsilon=9.0)),
        ):
            with pytest.raises(FedcoreError) as over:
                attempt()
            assert "migrate" not in over.value.fix and "another ledger" in over.value.fix


def uses(reservation: Reservation) -> list[Callable[[], object]]:
    return [
        reservation.mark_drawn,
        reservation.select,
        lambda: reservation.void("again"),
        lambda: reservation.release(b"payload"),
    ]


def test_a_void_that_may_have_failed_ends_the_reservation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.create(tmp_path, plan_of())
    reservation = ledger.reserve(0)

    def fail(descriptor: int) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LedgerError):
        reservation.void("nobody came")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with pytest.raises(FedcoreError):
        reservation.mark_drawn()
    ledger.close()
    with Ledger.open(tmp_path, checkpoint=None) as ledger:
        assert ledger.spent == {}


def test_what_is_interrupted_within_a_record_stops_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.create(tmp_path, plan_of())

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    for target, name in ((os, "fsync"), (History, "add")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                ledger.reserve(0)
        with pytest.raises(LedgerError, match="again"):
            ledger.reserve(0)
        ledger.close()
        ledger = Ledger.open(tmp_path, checkpoint=None)
    assert ledger.spent == {plan_of().event: 2}
    ledger.close()


def test_a_round_is_released_once_and_only_what_was_drawn(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        reservation = ledger.reserve(0)
        with pytest.raises(ReservationError):
            reservation.release(b"payload")
        reservation.mark_drawn()
        assert reservation.drawn
        with pytest.raises(ReservationError):
            reservation.mark_drawn()
        receipt = reservation.release(b"payload")
        assert (receipt.seq, receipt.round, receipt.head) == (reservation.seq, 0, ledger.head)
        for attempt in uses(reservation):
            with pytest.raises(ReservationError):
                attempt()
        with pytest.raises(ReservationError, match="released"):
            ledger.reserve(0)
        assert ledger.released(0) == b"payload"
        assert ledger.released(1) is None


def test_a_later_reservation_ends_the_one_before(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        first = ledger.reserve(0)
        first.mark_drawn()
        second = ledger.reserve(0)
        for attempt in uses(first):
            with pytest.raises(ReservationError):
                attempt()
        second.mark_drawn()
        second.release(b"payload")
        assert ledger.spent == {plan_of().event: 2}


def test_each_step_of_a_round_is_drawn_once(tmp_path: Path) -> None:
    plan = plan_of(unit=Unit.RECORD, steps=3, epsilon=5.0)
    with Ledger.create(tmp_path, plan) as ledger:
        reservation = ledger.reserve(0)
        assert reservation.event == RepeatedEvent(3, plan.sampling.event(plan.noise_event))
        for _ in range(3):
            reservation.mark_drawn()
        with pytest.raises(ReservationError):
            reservation.mark_drawn()
        reservation.release(b"payload")


def test_nothing_of_it_can_be_copied_or_pickled(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        for thing in (ledger, ledger.reserve(0)):
            for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(ReservationError):
                    attempt(thing)


def test_a_cohort_is_drawn_by_the_plan_and_once(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of(population=5000)) as ledger:
        reservation = ledger.reserve(0)
        assert not reservation.sampled
        drawn = reservation.select(entropy=SeededEntropy(b"cohort"))
        assert reservation.sampled
        assert 10 < drawn.size < 120
        assert np.all(np.diff(drawn) > 0)
        assert drawn[0] >= 0 and drawn[-1] < 5000
        with pytest.raises(ReservationError):
            reservation.select()


def test_a_damaged_or_missing_payload_is_not_served(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        release(ledger, 0)
        release(ledger, 1)
        first, second = sorted(tmp_path.glob("release-*"))
        first.write_bytes(b"Payload")
        second.unlink()
        for round_ in (0, 1):
            with pytest.raises(LedgerError):
                ledger.released(round_)
    assert verify(tmp_path).damaged == (0, 1)


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of(), participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        head = ledger.head
        for round_ in (True, 1.0, "1", 2**80, np.int64(1)):
            with pytest.raises(FedcoreError):
                ledger.reserve(round_)  # type: ignore[arg-type]
        with pytest.raises(ReservationError):
            reservation.void(3)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError):
            reservation.participate(["a text"])  # type: ignore[list-item]
        reservation.mark_drawn()
        with pytest.raises(ReservationError):
            reservation.release("a text")  # type: ignore[arg-type]
        assert ledger.head == head
        reservation.release(b"payload")
    assert verify(tmp_path).released == 1
