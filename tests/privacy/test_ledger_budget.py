"""The ledger stops at the exact round, and what was spent stays spent whatever plan comes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import pytest

from fedcore.errors import BudgetError, LedgerError, PlanError, ReservationError
from fedcore.privacy import ledger_history
from fedcore.privacy.events import Event, GaussianEvent, PoissonEvent
from fedcore.privacy.ledger import Ledger, verify
from fedcore.privacy.ledger_records import Reserve, Void, encode
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy import plans
from tests.privacy.ledger_world import FILE, KEY, banded, bounded, plan_of, release


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


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


@pytest.mark.parametrize("order", [None, 9])
def test_no_other_event_is_charged_than_that_of_the_noise_that_is_drawn(
    tmp_path: Path, order: int | None
) -> None:
    cheaper = PoissonEvent(rate=2**20, event=GaussianEvent(Fraction(3)))
    with Ledger.create(tmp_path, plan_of(), order=order) as ledger:
        with pytest.raises(TypeError):
            ledger.reserve(0, cheaper)  # type: ignore[call-arg]
        assert "another event" in ledger.history.refusal(Reserve(0, cheaper))
        assert ledger.reserve(0).event == plan_of().event
        head = ledger.head
    line, _ = encode(Reserve(1, cheaper), head)
    with (tmp_path / FILE).open("ab") as file:
        file.write(line)
    with pytest.raises(LedgerError, match="cannot stand there"):
        verify(tmp_path)


def test_nothing_that_a_ledger_hands_out_changes_what_was_spent(tmp_path: Path) -> None:
    plan = plan_of()
    with Ledger.create(tmp_path, plan) as ledger:
        reservation = ledger.reserve(0)
        for held in (plan, ledger.plan, ledger.history.plan, reservation.plan):
            vars(held)["event"] = GaussianEvent(Fraction(1000))
        for clear in (
            lambda: ledger.history.segment.counts.clear(),
            lambda: ledger.history.segments.clear(),
            lambda: ledger.history.payloads.clear(),
            lambda: setattr(ledger.history.current, "event", None),
            lambda: ledger.history.add(Void(reservation.seq, "for nothing"), 2),
        ):
            clear()
        again = ledger.reserve(1)
        assert reservation.event == again.event == plan_of().event
        assert ledger.spent == verify(tmp_path).spent == {plan_of().event: 2}
        assert ledger.epsilon() == verify(tmp_path).epsilon


def test_a_ledger_with_an_order_of_its_own_counts_by_it(tmp_path: Path) -> None:
    with Ledger.create(tmp_path, plan_of(), order=9) as ledger:
        for round_ in range(2):
            ledger.reserve(round_)
        curve = compose({plan_of().event: 2}, Adjacency.ADD_REMOVE)
        assert ledger.epsilon() == epsilon(curve, 1e-5, order=9)[0] > epsilon(curve, 1e-5)[0]


def test_a_round_that_is_not_in_the_plan_is_refused(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "one by one", plan_of()) as ledger:
        for round_ in (3, 99, -1):
            with pytest.raises(PlanError, match="cannot be reserved") as caught:
                ledger.reserve(round_)
            assert "3 rounds" in caught.value.why
        for round_ in (0, 1, 2, 1, 2):  # what was not released is run again
            ledger.reserve(round_)
        with pytest.raises(PlanError):
            ledger.reserve(3)
    with Ledger.create(tmp_path / "matrix", banded(rounds=4), participation_key=KEY) as ledger:
        reservation = ledger.reserve(3)
        reservation.participate([])
        reservation.mark_drawn()
        reservation.release(b"the last")
        with pytest.raises(ReservationError, match="cannot be used so"):
            reservation.participate([])


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


def test_after_a_change_of_plan_as_many_rounds_are_left_as_the_new_one_can_pay(
    tmp_path: Path,
) -> None:
    first, second = plan_of(), plan_of(noise_multiplier=Fraction(2), rounds=50_000, epsilon=1.5)
    with Ledger.create(tmp_path, first) as ledger:
        ledger.reserve(0)
        order = epsilon(compose({first.event: 3}, first.adjacency), 1e-5)[1]
        ledger.migrate(second)

        def costs(count: int) -> float:
            spent = {first.event: 1, second.event: count}
            return epsilon(compose(spent, first.adjacency), 1e-5, order=order)[0]

        left = ledger.remaining_rounds()
        assert 1 < left < 50_000
        assert costs(left) <= 1.5 < costs(left + 1)


@pytest.mark.usefixtures("coarse_losses")
def test_the_plan_that_holds_already_is_no_change(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    plan = plan_of(epsilon=9.0)
    with Ledger.create(tmp_path, plan, accountant="pld") as ledger:
        reservation = ledger.reserve(0)
        before, head = ledger.epsilon(), ledger.head
        assert ledger.migrate(replace(plan)) == ledger.head == head
        assert (ledger.epsilon(), ledger.history.accountant) == (before, "pld")
        reservation.mark_drawn()
        reservation.release(b"payload")
    assert verify(tmp_path).plans == 1


def test_a_budget_below_what_was_spent_is_refused_by_the_order_that_will_count(
    tmp_path: Path,
) -> None:
    plan = plan_of(rounds=500)
    with Ledger.create(tmp_path, plan) as ledger:
        ledger.reserve(0)
        curve = compose(ledger.spent, plan.adjacency)
        settled = epsilon(compose({plan.event: 500}, plan.adjacency), 1e-5)[1]
        counts = epsilon(curve, 1e-5, order=settled)[0]
        assert ledger.epsilon() < 0.99 * counts
        head = ledger.head
        for budget in (ledger.epsilon() / 2, ledger.epsilon() * 1.001, counts * 0.999):
            with pytest.raises(BudgetError, match="new plan's budget"):
                ledger.migrate(plan_of(epsilon=budget))
        assert (ledger.head, ledger.plan) == (head, plan)
        ledger.migrate(plan_of(epsilon=counts))
        assert ledger.epsilon() == counts
        assert ledger.remaining_rounds() == 0


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


def test_a_larger_budget_needs_what_sampled_shares_set_aside_of_delta(tmp_path: Path) -> None:
    """A round that fails for one unit weighs 1 + e^epsilon, of the budget that holds at the end."""
    sampled = plans.sampled()
    larger = plans.client(epsilon=100.0, delta=sampled.failure)
    with pytest.raises(PlanError):
        replace(sampled, epsilon=larger.epsilon)
    with Ledger.create(tmp_path / "unused", sampled) as ledger:
        ledger.migrate(larger)
    with Ledger.create(tmp_path / "charged", sampled) as ledger:
        ledger.reserve(0)
        with pytest.raises(PlanError, match="sampled shares"):
            ledger.migrate(larger)
        ledger.migrate(replace(larger, epsilon=4.0))
