"""What training on records tells of one of them: attacks on gradients, models, samples and sizes.

Every attack succeeds against the way that it breaks, in the same test or the one beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fedcore
from fedcore import nn
from fedcore.autograd.ravel import ravel
from fedcore.data.dataset import Dataset
from fedcore.errors import NormError, PlanError, ReservationError
from fedcore.nn.module import Module
from fedcore.optim import Adam
from fedcore.privacy.audit import (
    Inversion,
    Membership,
    Outcome,
    Trace,
    inversion,
    membership,
    replay,
)
from fedcore.privacy.clipping import Flat
from fedcore.privacy.csprng import Stream
from fedcore.privacy.dpsgd import NoisySteps, draw_records
from fedcore.privacy.events import PoissonEvent, RepeatedEvent
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import CentralMechanism
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.quantise import quantise_rows
from fedcore.privacy.sampling import FixedSize, Poisson, rate_of
from fedcore.privacy.values import IntSum, IntUpdate
from fedcore.private_training import RecordGradients, fit_private
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import tensor
from fedcore.training import fit
from tests.privacy import plans
from tests.privacy.attacks_rounds import has_variance, is_uniform
from tests.variants import mostly_slow

SIDE, CLASSES = 100, 10


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# Gradient inversion


@cache
def picture() -> NDArray[np.float32]:
    """One record: 100 x 100 pixels in 0 … 1, smooth, as a photograph is.

    So many that pure noise correlates with it by more than 0.05 once in a million times.
    """
    random, at = np.random.default_rng(5), np.linspace(0, 1, SIDE)
    waves = [
        np.outer(np.cos(3 * k * at + random.uniform(0, 6)), np.cos(2 * k * at)) / k
        for k in range(1, 6)
    ]
    total = sum(waves)
    shade = (total - np.min(total)) / np.ptp(total)
    return np.asarray(shade, np.float32).reshape(-1)


@cache
def model() -> nn.Linear:
    return nn.Linear(SIDE * SIDE, CLASSES, key=0)


def attack(gradient: NDArray[Any]) -> Inversion:
    """Reads the picture from a gradient (D,) of one record, however it was scaled."""
    _, rebuild = ravel(model())
    layer = rebuild(tensor(gradient.astype(np.float32)))
    assert layer.bias is not None
    return inversion(layer.weight.numpy().T, layer.bias.numpy(), picture())


def of_one_picture(noise: Fraction, grade: Grade) -> PrivacyPlan:
    return plans.record(
        population=1,
        delta=1e-5,
        sampling=Poisson(2**32),
        noise_multiplier=noise,
        denominator=1,
        dimension=SIDE * SIDE * CLASSES + CLASSES,
        rounds=1,
        steps=1,
        epsilon=1e4,
        grade=grade,
    )


def clipped(plan: PrivacyPlan) -> IntSum:
    """The step's sum over the one record, by the path that training takes."""
    theta, rebuild = ravel(model())
    gradients = RecordGradients(rebuild, loss=nn.cross_entropy, plan=plan)
    label = np.array([3])
    return gradients.total(theta.numpy(), picture()[None], label, key=Key(0, "forward"))


def test_a_gradient_without_privacy_is_the_picture() -> None:
    theta, rebuild = ravel(model())

    def loss(theta: Any) -> Any:
        return nn.cross_entropy(rebuild(theta)(tensor(picture()[None])), tensor(np.array([3])))

    found = attack(fedcore.grad(loss)(theta).numpy())
    assert found.quotient_correlation > 0.99 and found.spectral_correlation > 0.99
    assert found.verdict.outcome is Outcome.FAILED


@pytest.mark.parametrize("grade", Grade)
def test_clipping_alone_leaves_the_picture_in_the_gradient(grade: Grade) -> None:
    total = clipped(of_one_picture(Fraction(1), grade))
    assert total.vector.any()
    found = attack(total.vector / total.grid_steps)
    assert found.quotient_correlation > 0.99 and found.spectral_correlation > 0.99


@pytest.mark.parametrize("grade", Grade)
@pytest.mark.parametrize("noise", [Fraction(3, 10), Fraction(1)])
def test_the_picture_is_not_in_a_noisy_step(tmp_path: Path, noise: Fraction, grade: Grade) -> None:
    plan = of_one_picture(noise, grade)
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        steps = NoisySteps(plan, ledger.reserve(0))
        assert steps.draw(1).tolist() == [0]
        gradient = steps.step(clipped(plan))
        steps.release(gradient.tobytes())
        assert ledger.spent == {plan.event: 1}
    found = attack(gradient)
    assert abs(found.quotient_correlation) < 0.1 and abs(found.spectral_correlation) < 0.1
    assert found.verdict.outcome is Outcome.PASSED


# Membership inference

MEMBERS, INPUTS, DELTA = 300, 40, 1e-4


@cache
def strangers_and_members() -> tuple[Dataset, Dataset]:
    """Labels that nothing explains, so that what is learned of them is learned by heart."""
    random = np.random.default_rng(11)
    x = random.standard_normal((2, MEMBERS, INPUTS)).astype(np.float32)
    y = random.integers(CLASSES, size=(2, MEMBERS))
    return Dataset(x[0], y[0]), Dataset(x[1], y[1])


def network() -> Module:
    return nn.Sequential(nn.Linear(INPUTS, 64, key=1), nn.relu, nn.Linear(64, CLASSES, key=2))


def threshold_attack(found: Module, epsilon: float) -> Membership:
    """Yeom et al.: who has a smaller loss was trained on."""

    def scores(data: Dataset) -> NDArray[np.float64]:
        logits = found(tensor(data.x)).numpy().astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        picked = np.take_along_axis(logits, np.asarray(data.y)[:, None], axis=1)[:, 0]
        score: NDArray[np.float64] = picked - np.log(np.exp(logits).sum(axis=1))
        return score

    strangers, members = (scores(data) for data in strangers_and_members())
    return membership(members, strangers, epsilon=epsilon, delta=DELTA)


def test_members_of_an_overfitted_model_are_recognised() -> None:
    _, members = strangers_and_members()
    found = fit(
        network(),
        members,
        loss=nn.cross_entropy,
        optimizer=Adam(lr=0.01),
        epochs=25,
        batch_size=50,
        progress=False,
    )
    attacked = threshold_attack(found.model, 1.0)
    assert attacked.auc >= 0.7 and attacked.verdict.outcome is Outcome.FAILED


@pytest.mark.parametrize("epsilon", mostly_slow([1.0, 2.0]))
def test_members_of_a_private_model_stay_below_the_line(tmp_path: Path, epsilon: float) -> None:
    _, members = strangers_and_members()
    plan = plans.record(
        population=MEMBERS,
        delta=DELTA,
        sampling=Poisson(rate_of(1 / 4)),
        clipping=Flat(1),
        denominator=MEMBERS // 4,
        dimension=(INPUTS + 1) * 64 + 65 * CLASSES,
        rounds=4,
        steps=10,
        epsilon=epsilon,
    ).calibrated()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit_private(
            network(),
            members,
            loss=nn.cross_entropy,
            optimizer=Adam(lr=0.01),
            plan=plan,
            ledger=ledger,
        )
    assert found.rounds == plan.rounds and found.epsilon <= epsilon
    # What goes out beside the model is what the ledger says (X10): no loss, no size of a batch.
    assert set(found.history) == {"epsilon"}
    attacked = threshold_attack(found.model, epsilon)
    assert attacked.verdict.outcome is Outcome.PASSED
    assert attacked.worst_excess <= 0 and attacked.epsilon_lower <= epsilon


# One object samples and states its event (X11)


def has_poisson_sizes(sizes: NDArray[np.int64], population: int, rate: Fraction) -> bool:
    mean = population * rate
    return has_variance((sizes - float(mean)), mean * (1 - rate))


def test_batches_that_are_shuffled_and_cut_are_seen_not_to_be_poisson() -> None:
    assert not has_poisson_sizes(np.full(400, 100), 1000, Fraction(1, 10))


def test_the_holder_draws_the_sample_that_is_accounted_for() -> None:
    plan = plans.record(population=1000, sampling=Poisson(rate_of(0.1)))
    stream = Stream()
    drawn = [draw_records(plan, 1000, stream=stream) for _ in range(400)]
    sampling: Any = plan.sampling
    assert has_poisson_sizes(np.array([len(one) for one in drawn]), 1000, sampling.probability)
    assert is_uniform(np.concatenate(drawn), 1000)
    pairs = sum(np.isin([0, 1], one).all() for one in drawn)
    assert pairs < 400 * 0.01 + 30  # two records join independently
    assert plan.event == RepeatedEvent(2, PoissonEvent(sampling.rate, plan.noise_event))


def test_a_sampler_that_states_another_event_than_it_draws_is_refused() -> None:
    class Shuffled(Poisson):
        def draw(self, population: int, *, stream: Stream) -> NDArray[np.int64]:
            return np.arange(population // 10)

    with pytest.raises(PlanError):
        plans.record(sampling=Shuffled(rate_of(0.1)))
    for unknown in (None, "poisson", 0.1, 100):
        with pytest.raises(PlanError):
            plans.record(sampling=unknown)
    with pytest.raises(PlanError):  # nor is a fixed size accounted under a relation of Poisson's
        plans.record(sampling=FixedSize(10, 100))


def test_no_sum_is_released_without_the_sample_that_was_paid_for(tmp_path: Path) -> None:
    """Neither over whoever was at hand, nor over the better one of two samples."""
    plan, clients = plans.record(), plans.client()
    nothing = IntSum(np.zeros(6, np.int64), plan.grid)
    with Ledger.create(tmp_path / "records", plan) as ledger:
        steps = NoisySteps(plan, ledger.reserve(0))
        with pytest.raises(PlanError):
            steps.step(nothing)
        steps.draw(100)
        with pytest.raises(ReservationError):
            steps.draw(100)
    with Ledger.create(tmp_path / "clients", clients) as ledger:
        reservation = ledger.reserve(0)
        with pytest.raises(PlanError):
            CentralMechanism(clients).release(nothing, reservation)
        assert not reservation.drawn
        reservation.select()
        with pytest.raises(ReservationError):
            reservation.select()


# Nothing is counted in the data (X12)


def silent_step(plan: PrivacyPlan, folder: Path, records: int) -> NDArray[np.float64]:
    """A step on records that have nothing to say, times the denominator of the plan: noise."""
    with Ledger.create(folder, plan) as ledger:
        steps = NoisySteps(plan, ledger.reserve(0))
        steps.draw(records)
        step = steps.step(IntSum(np.zeros(plan.dimension, np.int64), plan.grid))
        assert step.shape == (plan.dimension,)
        return step.astype(np.float64) * plan.denominator


def test_neighbours_get_the_same_noise_and_denominator_also_if_nobody_is_there(
    tmp_path: Path,
) -> None:
    plan = plans.record(dimension=20_000, denominator=10, sampling=Poisson(rate_of(0.1)))
    promised = float(plan.noise_multiplier) ** 2
    for records in (100, 99, 0):
        assert has_variance(silent_step(plan, tmp_path / str(records), records), promised)
    # Opacus divided by int(len(dataset) * rate): 10 for one neighbour, and 9 for the other.
    found = silent_step(plan, tmp_path / "theirs", 99)
    assert int(99 * 0.1) == 9 and not has_variance(found * 10 / 9, promised)
    with pytest.raises(PlanError) as refused:
        draw_records(plan, 101, stream=Stream())
    assert "101" not in str(refused.value)


def test_the_plan_is_one_for_all_neighbours() -> None:
    """No field is given data: only numbers that are public before anybody replies."""
    plan = plans.record()
    for name in ("population", "denominator", "dimension", "rounds", "steps"):
        for counted in (np.int64(5), 5.0, np.arange(5), None):
            with pytest.raises(PlanError):
                plans.record(**{name: counted})
    assert plans.record().digest == plan.digest


# The norm is checked end to end (X17)


@pytest.mark.parametrize("factor", [1.0001, 2, 64])
def test_a_factor_that_was_lost_after_clipping_does_not_pass_for_a_contribution(
    factor: float,
) -> None:
    """Tramer et al. 2022: gradients were summed where the noise was made for their mean."""
    plan = plans.record()
    gradients = list(np.random.default_rng(0).standard_normal((4, 6)) * 10)

    def cut(update: NDArray[Any]) -> NDArray[np.int64]:
        fits = update.dtype.kind == "f" and update.shape == (6,)
        gradient = update[None] if fits else np.zeros((1, 6))
        return quantise_rows(gradient, clipping=Flat(1), grid_steps=plan.grid)

    with pytest.raises(NormError):
        IntUpdate((cut(gradients[0]) * factor).astype(np.int64), plan.grid)

    def lost(updates: Sequence[NDArray[Any]]) -> Trace:
        return Trace((sum(map(cut, updates), np.zeros(6)) * factor).astype(np.int64))

    def honest(updates: Sequence[NDArray[Any]]) -> Trace:
        total = sum(map(cut, updates), np.zeros(6, np.int64))
        return Trace(IntSum(total, plan.grid).vector)

    bound = plan.squared_sensitivity
    assert replay(lost, gradients, squared_sensitivity=bound).verdict.outcome is Outcome.FAILED
    assert replay(honest, gradients, squared_sensitivity=bound).verdict.outcome is Outcome.PASSED


def test_one_record_moves_the_sum_by_its_norm_whatever_the_batch() -> None:
    gradients = np.random.default_rng(0).standard_normal((64, 6)) * 10
    without = gradients.copy()
    without[17] = 0
    moved = quantise_rows(gradients, clipping=Flat(1), grid_steps=2**20) - quantise_rows(
        without, clipping=Flat(1), grid_steps=2**20
    )
    squared = sum(value * value for value in moved.tolist())
    assert (2**20 * 0.9999) ** 2 < squared <= 2**40
    unclipped = gradients.sum(axis=0) - without.sum(axis=0)
    assert np.linalg.norm(unclipped) > 10


def test_the_unit_is_the_record_and_not_the_batch() -> None:
    """A batch that was clipped as a whole lets one record take all of the norm."""
    with pytest.raises(PlanError):
        RecordGradients(ravel(model())[1], loss=nn.cross_entropy, plan=plans.client())
