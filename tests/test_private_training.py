"""Private training learns, stops at its budget, and goes on from what it has released."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fedcore import nn
from fedcore.autograd.ravel import ravel
from fedcore.data.dataset import Dataset
from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError, BudgetError, FedcoreError, PlanError
from fedcore.optim import SGD, Adam
from fedcore.privacy.clipping import Flat
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.noise import CentralNoise, NoiseShares
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.quantise import quantise
from fedcore.privacy.sampling import FixedSize, Poisson, rate_of
from fedcore.privacy.units import Adjacency, Unit
from fedcore.privacy.values import squared_norm
from fedcore.private_training import RecordGradients, fit_private
from fedcore.tensor.ops.elementwise import sqrt
from fedcore.tensor.random import Key
from fedcore.training import evaluate


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def planned(**changes: Any) -> PrivacyPlan:
    terms: dict[str, Any] = {
        "unit": Unit.RECORD,
        "adjacency": Adjacency.ADD_REMOVE,
        "population": 40,
        "sampling": Poisson(2**31),
        "clipping": Flat(Fraction(1, 2)),
        "noise": CentralNoise(),
        "noise_multiplier": Fraction(1),
        "denominator": 20,
        "dimension": 18,
        "rounds": 3,
        "steps": 2,
        "epsilon": 1000.0,
    }
    return PrivacyPlan(**terms | changes)


def linear(seed: int = 0) -> nn.Linear:
    """Five inputs, three classes: 18 parameters."""
    return nn.Linear(5, 3, key=Key(seed, "init"))


def examples(count: int, shape: tuple[int, ...] = (5,), classes: int = 3) -> Dataset:
    source = np.random.default_rng(count)
    x = source.normal(size=(count, *shape)).astype(np.float32)
    return Dataset(x, source.integers(0, classes, count))


def fit(training: PrivacyPlan, ledger: Ledger, **options: Any) -> Any:
    terms: dict[str, Any] = {
        "loss": nn.cross_entropy,
        "optimizer": Adam(lr=0.05),
        "plan": training,
        "ledger": ledger,
        "average": 0.5,
    }
    return fit_private(linear(), examples(40), **terms | options)


def parameters(model: Any) -> NDArray[np.float32]:
    return ravel(model)[0].numpy()


# It learns


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_are_learned_at_epsilon_three(tmp_path: Path, seed: int) -> None:
    """Linear, at (3, 1e-4) for every image; the settings were chosen on the last 300 rows of the
    training set (91.2 %, mean of four seeds), before the test set was opened.
    """
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    train, test = Dataset(x[:1437], y[:1437]), Dataset(x[1437:], y[1437:])
    plan = planned(
        population=1437,
        sampling=Poisson(rate_of(0.25)),
        denominator=359,
        dimension=650,
        rounds=5,
        steps=20,
        epsilon=3.0,
        delta=1e-4,
    ).calibrated()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit_private(
            nn.Linear(64, 10, key=Key(seed, "init")),
            train,
            loss=nn.cross_entropy,
            optimizer=SGD(lr=4.0),
            plan=plan,
            ledger=ledger,
            average=0.9,
            validation=test,
        )
        assert found.rounds == 5 and 2.9 < found.epsilon == ledger.epsilon() <= 3
    assert set(found.history) == {"epsilon", "val_accuracy"}
    # 83 % is the promise; eight seeds gave 91.4 to 93.3.
    assert found.history["val_accuracy"][-1] >= 0.88
    assert evaluate(found.model, test)["accuracy"] == found.history["val_accuracy"][-1]
    assert found.history["epsilon"] == sorted(found.history["epsilon"])


# Gradients


def conv() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, key=Key(0, "a")), nn.relu, nn.flatten, nn.Linear(64, 3, key=Key(1, "b"))
    )


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (linear, (5,)),
    "two layers": (
        lambda: nn.Sequential(
            nn.Linear(50, 17, key=Key(0, "a")), nn.relu, nn.Linear(17, 3, key=Key(1, "b"))
        ),
        (50,),
    ),
    "convolution": (conv, (6, 6, 1)),
    "normalised": (
        lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3, key=Key(0, "a"))),
        (5,),
    ),
}


def sums(
    name: str, *, grade: Grade = Grade.EXACT, chunk: int | None = None, loss: Any = nn.cross_entropy
) -> tuple[Any, NDArray[np.float32], PrivacyPlan]:
    """What adds up gradients of a model, and where."""
    theta, rebuild = ravel(MODELS[name][0]())
    plan = planned(dimension=theta.size, grade=grade)
    gradients = RecordGradients(rebuild, loss=loss, plan=plan, chunk=chunk)
    moved = np.random.default_rng(5).normal(size=theta.size).astype(np.float32)

    def total(x: Any, y: Any) -> NDArray[np.int64]:
        found = gradients.total(moved, x, y, key=Key(0, "forward"))
        vector: NDArray[np.int64] = found.vector
        return vector

    return total, moved, plan


@pytest.mark.parametrize("name", MODELS)
def test_an_exact_sum_has_the_same_bits_in_every_order_and_for_every_chunk(name: str) -> None:
    """A record's integers depend on that record alone; else removing it would change others'."""
    data = examples(37, MODELS[name][1])
    reference, _, plan = sums(name, chunk=8)
    whole = reference(data.x, data.y)
    one_by_one = sum(reference(data.x[i : i + 1], data.y[i : i + 1]) for i in range(37))
    assert whole.any() and np.array_equal(whole, one_by_one)
    for chunk in (None, 1, 2, 3, 7, 16, 31, 37, 64):
        total, _, _ = sums(name, chunk=chunk)
        assert np.array_equal(total(data.x, data.y), whole), chunk
    order = np.random.default_rng(1).permutation(37)
    assert np.array_equal(reference(data.x[order], data.y[order]), whole)
    for start in range(0, 37, 5):  # each neighbour, by what it lacks
        rest = np.delete(np.arange(37), start)
        assert squared_norm(whole - reference(data.x[rest], data.y[rest])) <= plan.grid**2


@pytest.mark.parametrize("grade", list(Grade))
def test_a_sum_of_gradients_is_that_of_a_loop_over_the_formula(grade: Grade) -> None:
    """Softmax regression, by hand in float64: (p - y) x and p - y, each clipped."""
    data = examples(23)
    total, theta, plan = sums("linear", grade=grade, chunk=8)
    weight, bias = theta[:15].reshape(5, 3).astype(np.float64), theta[15:].astype(np.float64)
    expected = np.zeros(18)
    for x, y in zip(data.x.astype(np.float64), data.y, strict=True):
        error = np.exp(x @ weight + bias)
        error /= error.sum()
        error[y] -= 1
        gradient = np.concatenate([np.outer(x, error).reshape(-1), error])
        expected += quantise(gradient, clipping_norm=0.5, grid_steps=plan.grid).vector
    assert np.abs(total(data.x, data.y) - expected).max() < 23 * 2e-6 * plan.grid


@pytest.mark.parametrize("grade", list(Grade))
def test_rows_that_fill_up_a_chunk_contribute_nothing(grade: Grade) -> None:
    """Even where zeros have no gradient: the root of the score has an infinite one at 0."""

    def rooted(prediction: Any, target: Any, *, weight: Any) -> Any:
        return (sqrt((prediction * prediction).sum()) * weight).sum()

    theta, rebuild = ravel(nn.Linear(5, 3, bias=False, key=Key(0, "a")))
    data = examples(5)
    found = []
    for chunk in (5, 8):
        plan = planned(dimension=15, grade=grade)
        gradients = RecordGradients(rebuild, loss=rooted, plan=plan, chunk=chunk)
        found.append(gradients.total(theta.numpy(), data.x, data.y, key=Key(0, "forward")).vector)
    assert found[0].any() and np.abs(found[0] - found[1]).max() <= (
        0 if grade is Grade.EXACT else 1
    )


def test_no_examples_make_a_sum_of_zeros() -> None:
    for grade in Grade:
        total, _, _ = sums("linear", grade=grade)
        assert not total(np.zeros((0, 5), np.float32), np.zeros(0, np.int64)).any()


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e38, 1e-40, 0.0]), max_size=5),
    st.sampled_from(list(Grade)),
    st.integers(0, 20),
)
def test_a_record_that_holds_anything_moves_a_sum_no_further_than_declared(
    odd: list[float], grade: Grade, place: int
) -> None:
    total, _, plan = sums("two layers", grade=grade, chunk=8)
    data = examples(20, (50,))
    record = np.random.default_rng(place).normal(size=(1, 50)).astype(np.float32)
    record[0, : len(odd)] = odd
    x = np.insert(data.x, place, record, axis=0)
    y = np.insert(data.y, place, 0)
    moved = total(x, y) - total(data.x, data.y)
    assert squared_norm(moved) <= plan.squared_sensitivity
    if not np.isfinite(odd).all():
        assert np.abs(moved).max() <= (0 if grade is Grade.EXACT else 1)


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True])
def test_a_chunk_is_a_number_of_examples(chunk: Any) -> None:
    with pytest.raises(ArgumentError):
        sums("linear", chunk=chunk)


# Rounds


class Killed(Exception):
    """The process ends between two rounds."""


def stop_after(rounds: int) -> Any:
    def progress(index: int, values: Mapping[str, float]) -> None:
        assert values["epsilon"] > 0
        if index + 1 == rounds:
            raise Killed

    return progress


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), SGD(lr=0.1, momentum=0.9), Adam(lr=0.05)])
def test_a_run_that_was_killed_goes_on_from_what_it_released(
    tmp_path: Path, optimizer: Any
) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "whole", plan) as ledger:
        entropy = SeededEntropy(b"run")
        whole = fit(plan, ledger, optimizer=optimizer, entropy=entropy)
        expected = [ledger.released(index) for index in range(3)]
    with Ledger.create(tmp_path / "killed", plan) as ledger, pytest.raises(Killed):
        entropy = SeededEntropy(b"run")
        fit(plan, ledger, optimizer=optimizer, entropy=entropy, progress=stop_after(2))
    with Ledger.open(tmp_path / "killed", checkpoint=None) as ledger:
        assert [ledger.released(index) for index in range(3)] == [*expected[:2], None]
        # `entropy` stands where the third round of the whole run began
        resumed = fit(plan, ledger, optimizer=optimizer, entropy=entropy)
        assert [ledger.released(index) for index in range(3)] == expected
        assert ledger.spent == {plan.event: 3}
        again = fit(plan, ledger, optimizer=optimizer)  # all is there: nothing is paid
        assert ledger.spent == {plan.event: 3}
    for found in (resumed, again):
        assert np.array_equal(parameters(found.model), parameters(whole.model))
        assert found.rounds == 3 and found.epsilon == whole.epsilon
        assert found.history["epsilon"][-1] == whole.epsilon
    assert not np.array_equal(parameters(whole.model), parameters(linear()))


def test_a_round_that_was_under_way_is_paid_for_again(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        ledger.reserve(0)  # and then the power fails
    with Ledger.open(tmp_path / "ledger", checkpoint=None) as ledger:
        found = fit(plan, ledger)
        assert found.rounds == 3 and ledger.spent == {plan.event: 4}


def test_what_is_released_is_what_the_run_goes_on_with(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit(plan, ledger, optimizer=SGD(lr=0.1))
        payload = ledger.released(2) or b""
    values = np.frombuffer(payload, "<f4")
    assert values.size == 2 * 18  # the parameters and their running mean
    assert np.array_equal(values[18:], parameters(found.model))


def test_a_release_of_another_optimiser_is_not_gone_on_with(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        fit(plan, ledger, optimizer=SGD(lr=0.1))
        with pytest.raises(PlanError, match="not one of this model and optimiser"):
            fit(plan, ledger, optimizer=Adam(lr=0.1))


def test_training_ends_where_the_budget_does(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "lavish", planned(rounds=9)) as ledger:
        costs = []
        for index in range(4):
            ledger.reserve(index)
            costs.append(ledger.epsilon())
    plan = planned(rounds=9, epsilon=(costs[1] + costs[2]) / 2)
    with Ledger.create(tmp_path / "two", plan) as ledger:
        found = fit(plan, ledger)
        assert found.rounds == 2 and found.epsilon == costs[1] <= plan.epsilon
        assert len(found.history["epsilon"]) == 2
        again = fit(plan, ledger)
        assert np.array_equal(parameters(found.model), parameters(again.model))
    plan = planned(rounds=9, epsilon=costs[0] * 0.99)
    with Ledger.create(tmp_path / "none", plan) as ledger:
        with pytest.raises(BudgetError):
            fit(plan, ledger)
        assert ledger.spent == {}


def test_two_runs_have_two_noises(tmp_path: Path) -> None:
    models = []
    for folder in ("a", "b"):
        plan = planned(rounds=1)
        with Ledger.create(tmp_path / folder, plan) as ledger:
            models.append(parameters(fit(plan, ledger, seed=7).model))
    assert (models[0] != models[1]).all()


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another dimension": ({"dimension": 19}, {}),
    "clients": ({"unit": Unit.CLIENT, "steps": 1}, {}),
    "shares of noise": ({"noise": NoiseShares(5, 4, 1)}, {}),
    "a sample of fixed size": (
        {"sampling": FixedSize(10, 40), "adjacency": Adjacency.REPLACE_ONE},
        {},
    ),
    "more records than planned": ({"population": 39, "denominator": 20}, {}),
    "an average of one": ({}, {"average": 1.0}),
    "a ledger of another plan": ({}, {"plan": planned(rounds=4)}),
    "a chunk of nothing": ({}, {"chunk": -1}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_costs_nothing(tmp_path: Path, case: str) -> None:
    changes, options = REFUSED[case]
    plan = planned(**changes)
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        with pytest.raises((PlanError, ArgumentError)) as found:
            fit(plan, ledger, **options)
        assert isinstance(found.value, FedcoreError) and found.value.why and found.value.fix
        assert ledger.spent == {}


def test_a_model_that_mixes_examples_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm(5), nn.Linear(5, 3, key=Key(0, "a")))
    plan = planned(dimension=28)
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        with pytest.raises(PlanError, match="statistics of batches") as found:
            fit_private(
                model,
                examples(40),
                loss=nn.cross_entropy,
                optimizer=SGD(lr=0.1),
                plan=plan,
                ledger=ledger,
            )
        assert "GroupNorm" in found.value.fix and ledger.spent == {}


def test_layers_that_draw_do_so_by_step_and_seed(tmp_path: Path) -> None:
    def trained(folder: str, seed: int) -> NDArray[np.float32]:
        plan = planned(grade=Grade.SUM)
        model = nn.Sequential(nn.Dropout(0.5), linear())
        with Ledger.create(tmp_path / folder, plan) as ledger:
            found = fit_private(
                model,
                examples(40),
                loss=nn.cross_entropy,
                optimizer=SGD(lr=1.0),
                plan=plan,
                ledger=ledger,
                seed=seed,
                entropy=SeededEntropy(b"same"),
            )
        return parameters(found.model)

    runs = [trained(str(index), seed) for index, seed in enumerate((1, 1, 2))]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_progress_is_told_once_a_round_and_no_loss(tmp_path: Path) -> None:
    plan, told = planned(), []
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit(plan, ledger, progress=lambda index, values: told.append((index, dict(values))))
    assert [index for index, _ in told] == [0, 1, 2]
    assert all(set(values) == {"epsilon"} for _, values in told)
    assert found.history == {"epsilon": [values["epsilon"] for _, values in told]}
    assert all(a < b for a, b in itertools.pairwise(found.history["epsilon"]))
