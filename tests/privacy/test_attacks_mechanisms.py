"""What goes into a mechanism, and in which order: attacks on its rule, its input and its charge.

Each faulty order is run beside ours, and there the attack succeeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.errors import DtypeError, FedcoreError, PlanError, PrivacyError, ReservationError
from fedcore.optim import Adam
from fedcore.privacy.adaptive import Adaptive, QuantileState
from fedcore.privacy.events import PoissonEvent
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import CentralMechanism, PrivateMean
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import quantise
from fedcore.privacy.values import IntSum
from fedcore.tensor.tensor import tensor
from tests.privacy import attacks_rounds as rounds, plans
from tests.privacy.attacks_rounds import KEY, has_variance, watched


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# Adaptive clipping (X1, X2, X20)


def settled(
    start: float, folder: Path, rule: Callable[[QuantileState, QuantileState], QuantileState]
) -> float:
    """The norm after sixty rounds of forty clients whose updates have a median length of 1."""
    lengths = np.exp(np.random.default_rng(1).normal(0, 0.5, 40))
    plan = plans.adaptive(
        clipping=Adaptive(start, 40),
        denominator=40,
        population=40,
        dimension=3,
        rounds=60,
        epsilon=1e4,
        noise_multiplier=Fraction(1),
        delta=1e-3,
    )
    clipping: Any = plan.clipping
    state = clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    mechanism = CentralMechanism(plan)
    with Ledger.create(folder, plan) as ledger:
        for number in range(plan.rounds):
            reservation = ledger.reserve(number)
            reservation.select()
            found = [state.quantise(np.array([length, 0.0])) for length in lengths]
            mean = mechanism.release(rounds.sum_of(plan, found), reservation, clipping=state)
            assert mean.clipping is not None
            state = rule(state, mean.clipping)
    return float(state.norm)


def ours(sent: QuantileState, following: QuantileState) -> QuantileState:
    return following


def repelled(sent: QuantileState, following: QuantileState) -> QuantileState:
    """Counts the clipped updates, with the sign that is right for the unclipped ones."""
    return replace(sent, norm=Fraction(float(sent.norm**2 / following.norm)))


@pytest.mark.parametrize("start", [0.1, 10.0])
@pytest.mark.slow
def test_the_norm_finds_the_median_where_the_other_sign_runs_away(
    tmp_path: Path, start: float
) -> None:
    found = settled(start, tmp_path / "ours", ours)
    assert 0.5 < found < 2
    attacked = settled(start, tmp_path / "theirs", repelled)
    assert attacked < 0.01 if start < 1 else attacked > 100


def test_noise_and_decoding_use_the_norm_that_was_sent(tmp_path: Path) -> None:
    """X2. The count of this round is known before its noise is drawn: it must not scale it."""
    plan = plans.adaptive(
        clipping=Adaptive(Fraction(1), 50, learning_rate=1),
        dimension=20_001,
        noise_multiplier=Fraction(1),
    )
    clipping: Any = plan.clipping
    state = clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    short = [state.quantise(np.zeros(20_000)) for _ in range(50)]  # all unclipped: the norm falls
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        reservation = ledger.reserve(0)
        reservation.select()
        total = rounds.sum_of(plan, short)
        mean = CentralMechanism(plan).release(total, reservation, clipping=state)
    assert mean.clipping is not None and float(mean.clipping.norm) < 0.75
    multiplier = clipping.update_noise(plan.noise_multiplier)
    in_means = mean.vector.astype(np.float64) * 50
    assert has_variance(in_means, float(multiplier * state.norm) ** 2)
    assert not has_variance(in_means, float(multiplier * mean.clipping.norm) ** 2)


def test_update_and_count_are_one_event_and_cost_no_more_than_it(tmp_path: Path) -> None:
    """X20. A count that is released beside the update under noise of its own costs extra."""
    plan, plain = plans.adaptive(), plans.client(dimension=6)
    assert plan.event == plain.event and isinstance(plan.event, PoissonEvent)
    clipping: Any = plan.clipping
    state = clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    # The largest a client can do to both together, against the one noise that both get.
    worst = state.quantise(np.array([1.0, 0, 0, 0, 0, 0])).vector.tolist()
    joint = sum(value * value for value in worst)
    assert joint <= plan.squared_sensitivity
    assert plan.variance >= plan.noise_multiplier**2 * joint
    # Forgotten: the update alone under z, and the count beside it for nothing.
    forgotten = plan.noise_multiplier**2 * plan.grid**2
    assert forgotten < plan.noise_multiplier**2 * joint
    assert (forgotten / joint) ** 0.5 < plan.noise_multiplier
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        ledger.reserve(0)
        assert ledger.spent == {plan.event: 1}


# Noise after the server's optimiser (X5), metrics beside it (X10), no ledger at all (X6)


def test_an_optimiser_before_the_noise_makes_any_client_as_large_as_it_likes() -> None:
    """X5. Adam's first step is the sign of what it is given, however small that is."""
    optimiser, theta = Adam(lr=1.0), tensor(np.zeros(4, np.float32))

    def step(aggregate: float) -> NDArray[np.float32]:
        gradient = tensor(np.full(4, aggregate, np.float32))
        moved, _ = optimiser.step(theta, gradient, optimiser.init(theta))
        return moved.numpy()

    apart = np.linalg.norm(step(0.01) - step(-0.01))
    assert apart > 50 * np.linalg.norm(np.full(4, 0.02))


@pytest.mark.parametrize("kind", ["a mean", "a step", "floats", "integers", "a private mean"])
def test_nothing_that_was_averaged_before_is_taken_for_a_sum(tmp_path: Path, kind: str) -> None:
    plan = watched(dimension=4)
    private = rounds.release(plan, tmp_path / "first", [])
    found: Any = {
        "a mean": np.full(4, 0.25, np.float32),
        "a step": tensor(np.ones(4, np.float32)),
        "floats": [0.1, 0.2, 0.3, 0.4],
        "integers": np.arange(4),
        "a private mean": private,
    }[kind]
    with Ledger.create(tmp_path / "second", plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        with pytest.raises(PlanError):
            CentralMechanism(plan).release(found, reservation)
        with pytest.raises(FedcoreError):
            IntSum.of([found], dimension=4, grid_steps=plan.grid)
        if kind != "integers":
            with pytest.raises(DtypeError):
                IntSum(found, plan.grid)
        assert not reservation.drawn  # it was refused before anything was spent on it


def test_a_metric_that_goes_round_the_mechanism_has_no_type_to_go_in(tmp_path: Path) -> None:
    """X10. As further coordinates it shares the ball of the update, and its noise."""
    plan = watched(dimension=5)
    weights, loss = np.array([3.0, 0, 0, 4.0]), 1e6
    update = rounds.update_of(plan, np.append(weights, loss))
    assert sum(value * value for value in update.vector.tolist()) <= plan.grid**2
    mean = rounds.release(plan, tmp_path / "ledger", [update])
    assert set(PrivateMean.__slots__) == {"vector", "receipt", "clipping"}
    assert mean.vector.shape == (5,)
    total = rounds.sum_of(plan, [update])
    with pytest.raises(PrivacyError):
        np.asarray(total)
    with pytest.raises(TypeError):
        float(total)  # type: ignore[arg-type]


def test_nothing_is_private_without_plan_and_ledger() -> None:
    """X6. No default makes a plan up, and no mechanism releases without a reservation."""
    plan = watched(dimension=4)
    given: dict[str, Any] = {
        name: getattr(plan, name)
        for name in plan.__dataclass_fields__
        if name not in ("steps", "delta", "grid_steps", "grade", "largest_weight")
    }
    assert PrivacyPlan(**given).failure < 1 / plan.population
    for name in given:
        with pytest.raises(TypeError, match=name):
            PrivacyPlan(**{field: value for field, value in given.items() if field != name})
    total = rounds.sum_of(plan, [])
    with pytest.raises(TypeError):
        CentralMechanism(plan).release(total)  # type: ignore[call-arg]
    with pytest.raises(FedcoreError):
        PrivateMean(np.zeros(4, np.float32), None, None, issued_by=object())  # type: ignore[arg-type]
    with pytest.raises(PlanError):
        quantise(np.ones(4), clipping_norm=np.inf, grid_steps=plan.grid)


def test_a_round_that_was_paid_at_much_noise_is_not_released_with_little(tmp_path: Path) -> None:
    """X6. The charge and the noise are those of one plan."""
    paid, wanted = watched(dimension=4), watched(dimension=4, noise_multiplier=Fraction(1, 10))
    with Ledger.create(tmp_path / "ledger", paid, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        with pytest.raises(ReservationError):
            CentralMechanism(wanted).release(rounds.sum_of(wanted, []), reservation)
        with pytest.raises(ReservationError):
            CentralMechanism(wanted).prepare(reservation)
        assert not reservation.drawn
        with pytest.raises(TypeError):
            ledger.reserve(1, wanted.event)  # type: ignore[call-arg]


def test_an_empty_sum_is_released_like_any_other(tmp_path: Path) -> None:
    """X12: nobody came, and the noise is that of a full round."""
    plan = watched()
    mean = rounds.release(plan, tmp_path / "ledger", [])
    assert has_variance(rounds.integers_of(plan, mean.vector), plan.variance)
