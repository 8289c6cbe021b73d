"""Whoever takes part is bounded as the plan says, and charged for no more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import LedgerError, ParticipationError, PlanError, ReservationError
from fedcore.privacy.ledger import Ledger, verify
from tests.privacy.ledger_world import FILE, KEY, banded, bounded, written


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- Who takes part


def test_who_would_come_too_soon_or_too_often_is_refused_before_it_is_written(
    tmp_path: Path,
) -> None:
    with Ledger.create(tmp_path, bounded(3, 2), participation_key=KEY) as ledger:
        for round_ in range(7):
            reservation = ledger.reserve(round_)
            with pytest.raises(ReservationError, match="participate"):
                reservation.mark_drawn()
            soon = round_ not in (0, 3)
            assert list(ledger.may_participate([b"secret name", b"%d" % round_])) == [
                not soon,
                True,
            ]
            if soon:
                head = ledger.head
                with pytest.raises(ParticipationError, match="1 of 2") as caught:
                    reservation.participate([b"secret name", b"%d" % round_])
                assert "secret" not in str(caught.value)
                assert ledger.head == head
                reservation.participate([b"%d" % round_])
            else:
                reservation.participate([b"secret name"])
                with pytest.raises(ParticipationError):
                    reservation.participate([b"secret name"])
            reservation.mark_drawn()
            reservation.release(b"payload")
        assert ledger.participations.most == 2
        assert ledger.participations.total == 7
        assert ledger.participations.units == 6
    assert b"secret" not in (tmp_path / FILE).read_bytes()


@pytest.mark.parametrize("once", [iter, lambda units: map(bytes, units), lambda units: {*units}])
def test_whoever_is_named_is_recorded_in_whatever_the_names_come(tmp_path: Path, once: Any) -> None:
    with Ledger.create(tmp_path, bounded(3, 2), participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        assert list(ledger.may_participate(once([b"ann", b"bob"]))) == [True, True]
        reservation.participate(once([b"ann", b"bob"]))
        assert ledger.participations.units == 2
        with pytest.raises(ParticipationError):
            reservation.participate(once([b"ann"]))


def test_whom_a_process_that_died_may_have_recorded_is_recorded_once(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, bounded(2, 1), participation_key=KEY) as ledger:
        first = ledger.reserve(0)
        first.participate([b"ann", b"bob"])
    with Ledger.open(tmp_path, checkpoint=None, participation_key=KEY) as ledger:
        resumed = ledger.resume(first.seq)
        resumed.participate(iter([b"ann", b"bob"]), again=True)
        assert ledger.participations.total == 2
        resumed.participate(iter([b"bob", b"cid"]), again=True)
        assert (ledger.participations.total, ledger.participations.most) == (3, 1)
        with pytest.raises(ParticipationError, match="1 of 2"):
            resumed.participate([b"cid", b"dan"])
        head = ledger.head
        resumed.participate([b"ann", b"bob", b"cid"], again=True)
        assert ledger.head == head
        second = ledger.reserve(1)  # one round later they still may not come, whoever says again
        with pytest.raises(ParticipationError, match="1 of 2"):
            second.participate([b"ann", b"dan"], again=True)
        second.participate([b"dan"], again=True)
        assert ledger.participations.total == 4


def test_a_round_in_which_nobody_takes_part_again_is_recorded_as_such(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, bounded(1, 1), participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        head = ledger.head
        reservation.participate([], again=True)
        assert ledger.head != head
        reservation.mark_drawn()  # which asks who takes part


def test_a_unit_pays_for_its_participations_and_not_for_all_rounds(tmp_path: Path) -> None:
    plan = bounded(1, 2)
    with Ledger.create(tmp_path, plan, participation_key=KEY) as ledger:
        for round_ in range(5):
            reservation = ledger.reserve(round_)
            reservation.participate([b"%d" % (round_ // 2)])
            reservation.mark_drawn()
        assert ledger.spent == {plan.event: 2}
        reservation = ledger.reserve(6)
        with pytest.raises(ParticipationError):  # nothing was released, yet noise was drawn
            reservation.participate([b"0"])


def test_a_voided_round_counts_for_nobody(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, bounded(1, 1), participation_key=KEY) as ledger:
        ledger.reserve(0).void("the network is down")
        assert ledger.participations.units == 0
        reservation = ledger.reserve(0)
        reservation.participate([b"unit"])
        with pytest.raises(ReservationError, match="cannot be used so"):
            reservation.void("it did not answer")
        assert ledger.participations.units == 1
    with Ledger.open(tmp_path, checkpoint=None, participation_key=KEY) as ledger:
        assert ledger.participations.most == 1
        with pytest.raises(ParticipationError):
            ledger.reserve(1).participate([b"unit"])


def test_without_its_key_a_ledger_opens_for_nobody_and_verifies_for_anybody(
    tmp_path: Path,
) -> None:
    written(tmp_path)
    for key in (None, bytes(32)):
        with pytest.raises(LedgerError, match="key"):
            Ledger.open(tmp_path, checkpoint=None, participation_key=key)
    assert verify(tmp_path).released == 2
    with pytest.raises(PlanError, match="participation key"):
        Ledger.create(tmp_path / "none", bounded(1, 1))


def test_one_reservation_pays_for_a_matrix_of_rounds_until_a_crash(tmp_path: Path) -> None:
    plan = banded(rounds=4)
    with Ledger.create(tmp_path, plan, participation_key=KEY) as ledger:
        assert ledger.remaining_rounds() == 4
        reservation = ledger.reserve(0)
        for round_ in range(3):
            assert reservation.round == round_
            reservation.participate([b"%d" % (round_ % 2)])
            reservation.mark_drawn()
            assert reservation.release(b"%d" % round_).round == round_
        with pytest.raises(ReservationError, match="drawn"):
            reservation.void("too late")
        with pytest.raises(ParticipationError):
            reservation.participate([b"0"])
        assert ledger.spent == {plan.event: 1}
    with Ledger.open(tmp_path, checkpoint=None, participation_key=KEY) as ledger:
        assert ledger.released(2) == b"2"
        reservation = ledger.reserve(3)
        reservation.participate([b"0"])  # another matrix, charged for participations of its own
        reservation.mark_drawn()
        reservation.release(b"3")
        assert ledger.spent == {plan.event: 2}
        assert ledger.remaining_rounds() == 0
    assert verify(tmp_path).released == 4


def test_a_matrix_ends_where_a_round_was_released_before(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, banded(rounds=4), participation_key=KEY) as ledger:
        for first in (2, 1):
            reservation = ledger.reserve(first)
            reservation.participate([b"unit"])
            reservation.mark_drawn()
            reservation.release(b"payload")
        assert reservation.round == 2
        with pytest.raises(ReservationError, match="released before"):
            reservation.participate([b"another"])
    assert verify(tmp_path).released == 2


def test_more_names_than_the_plan_counts_units_are_refused(tmp_path: Path) -> None:
    plan = bounded(1, 3, population=3)
    with Ledger.create(tmp_path, plan, participation_key=KEY) as ledger:
        ledger.reserve(0).participate([b"a", b"b"])
        reservation = ledger.reserve(1)
        assert list(ledger.may_participate([b"c", b"d", b"a"])) == [True, False, True]
        with pytest.raises(ParticipationError, match="1 of 3") as caught:
            reservation.participate([b"c", b"d", b"a"])
        assert "3 units" in str(caught.value)
        reservation.participate([b"c", b"a"])
        with pytest.raises(ParticipationError):
            reservation.participate([b"d"])
    with Ledger.open(tmp_path, checkpoint=None, participation_key=KEY) as ledger:
        assert list(ledger.may_participate([b"d", b"b"])) == [False, True]


def test_no_more_rounds_remain_than_units_may_still_come(tmp_path: Path) -> None:
    """A round that failed has used up a participation of each who was in it."""
    plan = bounded(1, 3, population=2, rounds=8)
    with Ledger.create(tmp_path, plan, participation_key=KEY) as ledger:
        assert ledger.remaining_rounds() == 6  # one unit at a time
        for left in (4, 2, 0):
            ledger.reserve(0).participate([b"a", b"b"])
            assert ledger.remaining_rounds() == left
        assert ledger.history.remaining_rounds() == 8  # that the budget pays for
        assert not ledger.may_participate([b"a", b"b"]).any()
    matrices = banded(rounds=4)
    with Ledger.create(tmp_path / "banded", matrices, participation_key=KEY) as ledger:
        ledger.reserve(0).participate([b"%d" % unit for unit in range(1000)])
        assert ledger.remaining_rounds() == 4
