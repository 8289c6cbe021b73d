"""Private training learns, says what it costs round by round, and stops at its budget."""

from __future__ import annotations

import itertools
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore import nn
from fedcore.data.dataset import Dataset
from fedcore.entropy import SeededEntropy
from fedcore.errors import BudgetError, DivergenceError, PlanError
from fedcore.optim import SGD
from fedcore.privacy.clipping import Flat
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.noise import CentralNoise
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.sampling import Poisson, rate_of
from fedcore.privacy.units import Adjacency, Unit
from fedcore.private_training import fit_private, record_plan
from fedcore.progress import Report
from fedcore.tensor.random import Key
from fedcore.training import evaluate
from tests.private_terms import examples, fit, linear, parameters, planned
from tests.variants import mostly_slow


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# It learns


@pytest.mark.parametrize("seed", mostly_slow([0, 1]))
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


def test_two_runs_have_two_noises(tmp_path: Path) -> None:
    models = []
    for folder in ("a", "b"):
        plan = planned(rounds=1)
        with Ledger.create(tmp_path / folder, plan) as ledger:
            models.append(parameters(fit(plan, ledger, seed=7).model))
    assert (models[0] != models[1]).all()


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


# It ends


def test_a_plan_that_its_budget_does_not_pay_for_is_refused_before_it_starts(
    tmp_path: Path,
) -> None:
    """As one that was not calibrated: ending after a few rounds would look like a result."""
    with Ledger.create(tmp_path / "ledger", planned(rounds=9, epsilon=6.0)) as ledger:
        paid = ledger.remaining_rounds()
        assert 1 <= paid < 9
        with pytest.raises(PlanError, match=f"pays for {paid} of the plan's 9 rounds") as found:
            fit(ledger.plan, ledger)
        assert 'calibrated(accountant="rdp")' in found.value.fix
        assert "stop_early=True" in found.value.fix and ledger.spent == {}


@pytest.mark.slow
def test_a_plan_of_another_accountant_than_the_ledgers_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting", reason="the accountant is of the extra 'dp'")
    plan = planned(rounds=10, epsilon=2.0, delta=1e-5).calibrated(accountant="pld")
    with Ledger.create(tmp_path / "rdp", plan) as ledger:
        with pytest.raises(PlanError, match="accountant, rdp, all of them cost"):
            fit(plan, ledger)
        assert ledger.spent == {}
    with Ledger.create(tmp_path / "pld", plan, accountant="pld") as ledger:
        assert fit(plan, ledger).rounds == 10


def test_a_run_that_has_lost_a_round_takes_those_that_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a crash has spent is no mistake of the plan."""
    plan = planned(rounds=6, epsilon=5.0).calibrated()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        ledger.reserve(0)  # and then the power fails
        found = fit(plan, ledger, progress=True)
        assert (found.rounds, found.rounds_planned) == (5, 6)
        assert found.epsilon <= plan.epsilon
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "5 of 6 rounds: the budget pays for no further one"


def test_training_ends_where_the_budget_does(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "lavish", planned(rounds=9)) as ledger:
        costs = []
        for index in range(4):
            ledger.reserve(index)
            costs.append(ledger.epsilon())
    plan = planned(rounds=9, epsilon=(costs[1] + costs[2]) / 2)
    with Ledger.create(tmp_path / "two", plan) as ledger:
        found = fit(plan, ledger, stop_early=True)
        assert found.rounds == 2 and found.epsilon == costs[1] <= plan.epsilon
        assert found.rounds_planned == 9 and found.rounds_restored == 0
        assert len(found.history["epsilon"]) == 2
        again = fit(plan, ledger, stop_early=True)
        assert again.rounds == again.rounds_restored == 2
        assert np.array_equal(parameters(found.model), parameters(again.model))
    plan = planned(rounds=9, epsilon=costs[0] * 0.99)
    with Ledger.create(tmp_path / "none", plan) as ledger:
        with pytest.raises(BudgetError):
            fit(plan, ledger, stop_early=True)
        assert ledger.spent == {}


# It tells


def test_a_step_out_of_all_bounds_ends_the_training(tmp_path: Path) -> None:
    """Its parameters are public, and further rounds would be spent on nothing."""
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        with pytest.raises(DivergenceError, match="after round 1"):
            fit(plan, ledger, optimizer=SGD(lr=1e300))
        assert ledger.spent == {plan.event: 1}


# It tells


def test_progress_is_told_once_a_round_and_no_loss(tmp_path: Path) -> None:
    plan = planned()
    told: list[Report] = []
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit(plan, ledger, progress=told.append)
    assert [(report.epoch, report.epochs) for report in told] == [(0, 3), (1, 3), (2, 3)]
    assert all(set(report.measures) == {"epsilon"} for report in told)
    assert found.history == {"epsilon": [report.measures["epsilon"] for report in told]}
    assert all(a < b for a, b in itertools.pairwise(found.history["epsilon"]))


def test_progress_prints_a_line_a_round_as_fit_does_an_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        fit(plan, ledger, progress=False)
        assert capsys.readouterr().out == ""
    with Ledger.create(tmp_path / "again", plan) as ledger:
        found = fit(plan, ledger, progress=True, validation=examples(40))
    lines = capsys.readouterr().out.splitlines()
    for index, line in enumerate(lines):
        epsilon, reached = (found.history[name][index] for name in ("epsilon", "val_accuracy"))
        expected = f"round {index + 1}/3  epsilon {epsilon:.4f} of 1000  val_accuracy {reached:.4f}"
        assert line.startswith(expected) and line.endswith(" s")
    assert len(lines) == 3


def test_training_ends_when_progress_says_so(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit(plan, ledger, progress=lambda report: report.epoch == 1)
        assert found.rounds == 2 and ledger.spent == {plan.event: 2}
        again = fit(plan, ledger, progress=lambda report: report.epoch == 1)
        assert again.rounds == again.rounds_restored == 2 and ledger.spent == {plan.event: 2}


# A plan from what is known of the data


def test_a_plan_of_epochs_is_the_one_that_is_made_by_hand() -> None:
    found = record_plan(
        linear(), records=1000, batch=50, epochs=7, epsilon=2.0, clipping_norm=0.5, delta=1e-5
    )
    assert found == PrivacyPlan(
        unit=Unit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        population=1000,
        sampling=Poisson(round(2**32 / 20)),
        clipping=Flat(Fraction(1, 2)),
        noise=CentralNoise(),
        noise_multiplier=found.noise_multiplier,
        denominator=50,
        dimension=18,
        rounds=7,
        steps=20,
        epsilon=2.0,
        delta=1e-5,
    )
    assert found == found.calibrated()


def test_such_a_plan_is_trained_by_as_it_is(tmp_path: Path) -> None:
    plan = record_plan(linear(), records=40, batch=20, epochs=3, epsilon=5.0, clipping_norm=1)
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit(plan, ledger)
        assert found.rounds == 3 and found.epsilon <= 5


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"batch": 41},
        {"batch": 2.5},
        {"records": 40.0},
        {"records": True},
        {"epochs": 0},
        {"epsilon": 0.0},
        {"clipping_norm": 0},
        {"model": nn.Sequential(nn.BatchNorm(5), nn.Linear(5, 3, key=0))},
    ],
)
def test_a_plan_of_epochs_that_does_not_add_up_is_refused(changes: dict[str, Any]) -> None:
    terms = {"records": 40, "batch": 20, "epochs": 3, "epsilon": 5.0, "clipping_norm": 1} | changes
    with pytest.raises(PlanError):
        record_plan(terms.pop("model", linear()), **terms)
