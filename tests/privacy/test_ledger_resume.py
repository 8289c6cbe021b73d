"""A process that died before it released anything is followed by one that pays nothing twice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import PlanError, PrivacyError, ReservationError
from fedcore.privacy import CentralMechanism, IntSum, NoisySum, SharedMechanism
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.ledger_journal import Journal
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.release import released_mean
from tests.privacy.plans import banded, client, shared
from tests.privacy.releases import KEY


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def opened_again(folder: Path, plan: PrivacyPlan) -> Ledger:
    key = KEY if plan.adjacency.name == "ZERO_OUT" else None
    return Ledger.open(folder, checkpoint=None, plan=plan, participation_key=key)


def a_sum(plan: PrivacyPlan) -> IntSum:
    return IntSum(np.arange(plan.dimension, dtype=np.int64), plan.contribution_norm)


def test_a_resumed_reservation_is_charged_once_and_released_once(tmp_path: Path) -> None:
    plan = client()
    with Ledger.create(tmp_path, plan) as ledger:
        reservation = ledger.reserve(0)
        reservation.select()
        CentralMechanism(plan).prepare(reservation)
        seq = reservation.seq
    with opened_again(tmp_path, plan) as ledger:
        resumed = ledger.resume(seq)
        mean = CentralMechanism(plan).release(a_sum(plan), resumed)
        assert mean.receipt.seq == seq
        assert ledger.spent == {plan.event: 1}
        with pytest.raises(PrivacyError):
            CentralMechanism(plan).release(a_sum(plan), resumed)
        with pytest.raises(ReservationError):
            ledger.resume(seq)
        assert ledger.spent == {plan.event: 1}


def test_a_payload_whose_record_never_followed_it_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def died(*_: object) -> None:
        raise KeyboardInterrupt

    plan = client()
    with Ledger.create(tmp_path, plan) as ledger:
        reservation = ledger.reserve(0)
        reservation.select()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Journal, "write", died)
            CentralMechanism(plan).release(a_sum(plan), reservation)
    assert len(list(tmp_path.glob("release-*.bin"))) == 1
    with opened_again(tmp_path, plan) as ledger:
        mean = CentralMechanism(plan).release(a_sum(plan), ledger.resume(reservation.seq))
        assert ledger.released(0) is not None
        assert ledger.spent == {plan.event: 1}
        assert mean.receipt.seq == reservation.seq


def test_a_sum_of_shares_is_opened_under_the_reservation_that_its_session_began_with(
    tmp_path: Path,
) -> None:
    plan = shared()
    with Ledger.create(tmp_path, plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        reservation.participate([b"a", b"b", b"c", b"d", b"e"])
        SharedMechanism(plan).begin(reservation, minimum_survivors=4, corrupt=1)
        seq = reservation.seq
    with opened_again(tmp_path, plan) as ledger:
        resumed, mechanism = ledger.resume(seq), SharedMechanism(plan)
        mechanism.begin(resumed, minimum_survivors=4, corrupt=1)
        total = NoisySum(np.arange(plan.wire_dimension, dtype=np.int64), shares=5)
        assert mechanism.release(total, resumed).receipt.round == 0
        assert ledger.spent == {plan.event: 1}


def test_nobody_is_drawn_a_second_time_and_nothing_is_voided(tmp_path: Path) -> None:
    plan = client()
    with Ledger.create(tmp_path, plan) as ledger:
        seq = ledger.reserve(0).seq
    with opened_again(tmp_path, plan) as ledger:
        resumed = ledger.resume(seq)
        with pytest.raises(ReservationError, match="cannot be used so"):
            resumed.select()
        with pytest.raises(ReservationError, match="cannot be used so"):
            resumed.void("who was drawn before is not known")
        assert ledger.spent == {plan.event: 1}


def test_who_takes_part_openly_has_to_be_recorded_before_or_after_the_crash(tmp_path: Path) -> None:
    plan = shared()
    with Ledger.create(tmp_path, plan, participation_key=KEY) as ledger:
        seq = ledger.reserve(0).seq
    with opened_again(tmp_path, plan) as ledger:
        resumed, mechanism = ledger.resume(seq), SharedMechanism(plan)
        with pytest.raises(ReservationError, match="cannot be used so"):
            mechanism.begin(resumed, minimum_survivors=4, corrupt=1)
        resumed.participate([b"a", b"b", b"c", b"d", b"e"])
        mechanism.begin(resumed, minimum_survivors=4, corrupt=1)


def test_only_the_newest_reservation_is_resumed(tmp_path: Path) -> None:
    plan = client()
    with Ledger.create(tmp_path, plan) as ledger:
        first, second = ledger.reserve(0).seq, ledger.reserve(0)
        with pytest.raises(ReservationError, match="taken up again"):
            ledger.resume(first)
        with pytest.raises(ReservationError, match="taken up again"):
            ledger.resume(second.seq + 1)
        second.void("nobody came")
        with pytest.raises(ReservationError, match="taken up again"):
            ledger.resume(second.seq)


def test_a_matrix_of_rounds_whose_noise_was_in_memory_is_not_resumed(tmp_path: Path) -> None:
    plan = banded()
    with Ledger.create(tmp_path, plan, participation_key=KEY) as ledger:
        seq = ledger.reserve(0).seq
    with opened_again(tmp_path, plan) as ledger, pytest.raises(ReservationError, match="several"):
        ledger.resume(seq)


def test_a_released_mean_is_served_again_as_what_a_mechanism_released(tmp_path: Path) -> None:
    plan = client()
    with Ledger.create(tmp_path, plan) as ledger:
        assert released_mean(ledger, 0) is None
        reservation = ledger.reserve(0)
        reservation.select()
        mean = CentralMechanism(plan).release(a_sum(plan), reservation)
    with opened_again(tmp_path, plan) as ledger:
        again = released_mean(ledger, 0)
        assert again is not None
        assert again.vector.tobytes() == mean.vector.tobytes()
        assert again.receipt == mean.receipt
        ledger.reserve(1)
        later = released_mean(ledger, 0)
        assert later is not None
        assert later.receipt.sha256 == mean.receipt.sha256
        assert later.receipt.head == ledger.head


def test_what_only_looks_like_a_ledger_serves_no_mean() -> None:
    class Forged:
        plan = client()

        def released(self, round: int) -> bytes:
            return bytes(24)

        def receipt(self, round: int) -> object:
            return object()

    with pytest.raises(PlanError, match="Forged"):
        released_mean(Forged(), 0)  # type: ignore[arg-type]


def test_who_took_part_in_what_came_to_nothing_may_come_again(tmp_path: Path) -> None:
    plan = shared()
    names = [b"a", b"b"]
    with Ledger.create(tmp_path, plan, participation_key=KEY) as ledger:
        ledger.reserve(0).participate(names)
        assert not ledger.may_participate(names).any()
        assert ledger.may_participate(names, anew=True).all()
        ledger.reserve(0).participate(names)
        ledger.reserve(0).participate(names)
        assert ledger.participations.most == 3
        assert not ledger.may_participate(names, anew=True).any()


def test_a_sample_that_nobody_has_seen_is_drawn_by_who_resumes(tmp_path: Path) -> None:
    plan = client()
    with Ledger.create(tmp_path, plan) as ledger:
        seq = ledger.reserve(0).seq
    with opened_again(tmp_path, plan) as ledger:
        resumed = ledger.resume(seq, drawn=False)
        resumed.select()
        assert CentralMechanism(plan).release(a_sum(plan), resumed).receipt.seq == seq
        assert ledger.spent == {plan.event: 1}
