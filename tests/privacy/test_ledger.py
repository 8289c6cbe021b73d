"""The ledger refuses whatever would let a budget be spent twice, and reads back what it wrote."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    ArgumentError,
    BudgetError,
    FedcoreError,
    LedgerBusyError,
    LedgerError,
    ParticipationError,
    PlanError,
    ReservationError,
    RollbackError,
)
from fedcore.privacy import ledger_file, ledger_history
from fedcore.privacy.banded import Strategy
from fedcore.privacy.events import Event, GaussianEvent, PoissonEvent, RepeatedEvent
from fedcore.privacy.ledger import Head, Ledger, Reservation, verify
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_journal import require_current
from fedcore.privacy.ledger_records import Chain, read_chain
from fedcore.privacy.noise import BandedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.sampling import Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy.ledger_world import KEY, bounded, plan_of

FILE = "privacy.ledger"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def release(ledger: Ledger, round_: int, payload: bytes = b"payload") -> Head:
    reservation = ledger.reserve(round_)
    reservation.mark_drawn()
    return reservation.release(payload).head


def written(folder: Path) -> bytes:
    """A ledger with one of each record, closed."""
    with Ledger.create(folder, bounded(1, 3), participation_key=KEY) as ledger:
        for round_ in range(2):
            reservation = ledger.reserve(round_)
            reservation.participate([b"unit"])
            reservation.mark_drawn()
            reservation.release(b"payload %d" % round_)
        ledger.reserve(2).void("nobody came")
        ledger.migrate(bounded(1, 4))
        ledger.reserve(2)
        ledger.finish()
    return (folder / FILE).read_bytes()


def accepted(data: bytes) -> Chain | None:
    try:
        chain = read_chain(data)
        History(chain)
    except LedgerError:
        return None
    return chain


# --- The chain


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
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
        "except LedgerBusyError: print('busy')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "busy\n", done.stderr
    ledger.close()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "", done.stderr


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


# --- The budget


def test_the_budget_stops_at_the_exact_round(tmp_path: Path) -> None:
    plan = plan_of(rounds=2000, population=10_000)
    with Ledger.create(tmp_path, plan) as ledger:
        assert ledger.remaining_rounds() == 879
        for round_ in range(879):
            ledger.reserve(round_)
        assert ledger.epsilon() == pytest.approx(1.99962, abs=1e-5)
        assert ledger.remaining_rounds() == 0
        head = ledger.head
        with pytest.raises(BudgetError, match=r"2\.00052"):
            ledger.reserve(879)
        assert ledger.head == head
    with Ledger.open(tmp_path, checkpoint=head) as ledger, pytest.raises(BudgetError):
        ledger.reserve(879)


def test_what_was_spent_is_recomputed_and_the_same_after_a_restart(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        release(ledger, 0)
        ledger.reserve(1)
        before = ledger.epsilon(), ledger.epsilon(1e-6), ledger.spent
        assert before[0] < before[1]
    with Ledger.open(tmp_path, checkpoint=None) as ledger:
        assert (ledger.epsilon(), ledger.epsilon(1e-6), ledger.spent) == before
    found = verify(tmp_path)
    assert (found.epsilon, found.spent) == (before[0], before[2])
    assert found.unreleased == 1
    assert found.within_budget


def test_another_event_than_planned_is_refused_under_a_fixed_schedule(tmp_path: Path) -> None:
    other = PoissonEvent(rate=2**20, event=GaussianEvent(Fraction(3)))
    with (
        Ledger.create(tmp_path / "fixed", plan_of()) as ledger,
        pytest.raises(PlanError, match="order"),
    ):
        ledger.reserve(0, other)
    with Ledger.create(tmp_path / "adaptive", plan_of(), order=9) as ledger:
        ledger.reserve(0, other)
        ledger.reserve(1)
        spent = {other: 1, plan_of().event: 1}
        assert ledger.spent == spent
        curve = compose(spent, Adjacency.ADD_REMOVE)
        assert ledger.epsilon() == epsilon(curve, 1e-5, order=9)[0] > epsilon(curve, 1e-5)[0]


def test_no_more_rounds_are_reserved_than_planned(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        for round_ in (0, 1, 2, 1, 2):
            ledger.reserve(round_)
        with pytest.raises(PlanError, match="3 rounds"):
            ledger.reserve(3)
        with pytest.raises(PlanError):
            ledger.reserve(-1)


@pytest.mark.slow
def test_privacy_loss_distributions_pay_for_more_rounds(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    plan = plan_of(rounds=40, epsilon=0.36)
    with Ledger.create(tmp_path / "rdp", plan) as ledger:
        by_rdp = ledger.remaining_rounds()
    with Ledger.create(tmp_path / "pld", plan, accountant="pld") as ledger:
        assert by_rdp < ledger.remaining_rounds()


@pytest.mark.parametrize("fitting", [0, 5, 23, 32, 63, 64])
def test_a_round_is_refused_by_its_own_cost_however_few_costs_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitting: int
) -> None:
    counts = []

    def pld_epsilon(spend: Mapping[Event, int], *, adjacency: Adjacency, delta: float) -> float:
        (count,) = spend.values()
        counts.append(count)
        return count / 100

    cached = lru_cache(
        lambda spend, adjacency, delta: pld_epsilon(dict(spend), adjacency=adjacency, delta=delta)
    )
    monkeypatch.setattr(ledger_history, "_by_distributions", cached)
    plan = plan_of(rounds=64, epsilon=fitting / 100 + 0.001)
    with Ledger.create(tmp_path, plan, accountant="pld") as ledger:
        for round_ in range(fitting):
            ledger.reserve(round_)
        if fitting < 64:
            with pytest.raises(BudgetError):
                ledger.reserve(fitting)
    assert len(counts) < 24


def test_terms_that_no_accountant_holds_to_are_refused(tmp_path: Path) -> None:
    for options in ({"accountant": "both"}, {"order": 1}, {"accountant": "pld", "order": 4}):
        with pytest.raises(PlanError):
            Ledger.create(tmp_path / "none", plan_of(), **options)
    assert not (tmp_path / "none").exists()


# --- Changes of plan, and the end


def test_a_changed_plan_composes_with_what_was_spent_at_an_order_settled_before(
    tmp_path: Path,
) -> None:
    first, second = plan_of(epsilon=1.0), plan_of(noise_multiplier=Fraction(2), epsilon=3.0)
    with Ledger.create(tmp_path, first) as ledger:
        old = ledger.reserve(0)
        old.mark_drawn()
        planned = compose({first.event: 3}, first.adjacency)
        order = epsilon(planned, 1e-5)[1]
        ledger.migrate(second)
        with pytest.raises(ReservationError):
            old.release(b"payload")
        assert ledger.released(0) is None
        release(ledger, 0)
        spent = {first.event: 1, second.event: 1}
        assert ledger.spent == spent
        assert ledger.epsilon() == epsilon(compose(spent, first.adjacency), 1e-5, order=order)[0]
        for changed in (
            plan_of(unit=Unit.USER),
            plan_of(adjacency=Adjacency.ZERO_OUT),
            plan_of(delta=2e-5),
            bounded(1, 1),
        ):
            with pytest.raises(PlanError):
                ledger.migrate(changed)
    with pytest.raises(PlanError):
        Ledger.open(tmp_path, checkpoint=None, plan=first)
    with Ledger.open(tmp_path, checkpoint=None, plan=second) as ledger:
        assert ledger.spent == spent
    assert verify(tmp_path).plans == 2


def test_a_finished_ledger_pays_for_nothing_more(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        release(ledger, 0)
        head = ledger.finish()
        with pytest.raises(LedgerError, match="for good"):
            ledger.finish()
        assert ledger.head == head
        assert ledger.remaining_rounds() == 0
        with pytest.raises(PlanError):
            ledger.reserve(1)
        with pytest.raises(PlanError):
            ledger.migrate(plan_of())
        assert ledger.released(0) == b"payload"
    assert verify(tmp_path).closed


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
        reservation = ledger.reserve(0)
        reservation.participate([b"unit"])
        reservation.void("it did not answer")
        assert ledger.participations.units == 0
        ledger.reserve(0).participate([b"unit"])
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


def banded(rounds: int) -> PrivacyPlan:
    return plan_of(
        sampling=Uncontrolled(2, 2),
        noise=BandedNoise(Strategy((1024, 512))),
        grid_steps=2**16,
        noise_multiplier=Fraction(2),
        rounds=rounds,
        epsilon=10.0,
    )


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of(), participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        head = ledger.head
        for round_ in (True, 1.0, "1", 2**80, np.int64(1)):
            with pytest.raises(FedcoreError):
                ledger.reserve(round_)  # type: ignore[arg-type]
        with pytest.raises(PlanError):
            ledger.reserve(1, "nothing")  # type: ignore[arg-type]
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


def test_a_payload_is_never_written_over(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of()) as ledger:
        reservation = ledger.reserve(0)
        reservation.mark_drawn()
        ledger_file.payload_path(tmp_path, 2).write_bytes(b"another run's")
        with pytest.raises(LedgerError):
            reservation.release(b"payload")
    assert ledger_file.payload_path(tmp_path, 2).read_bytes() == b"another run's"
