"""What a caller gets wrong costs nothing: it is found out before a round is paid for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore import nn
from fedcore.data.dataset import Dataset
from fedcore.errors import ArgumentError, FedcoreError, PlanError
from fedcore.optim import SGD
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.noise import NoiseShares
from fedcore.privacy.plan import Grade
from fedcore.privacy.sampling import FixedSize, Poisson
from fedcore.privacy.units import Adjacency, Unit
from fedcore.private_training import fit_private
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import tensor
from fedcore.training import accuracy
from tests.private_terms import examples, fit, planned


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


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


DATA = examples(40)


class Growing:
    """An optimiser whose state is another after a step."""

    lr = 0.1

    def init(self, theta: Any) -> Any:
        return (tensor([0.0]),)

    def step(self, theta: Any, gradient: Any, state: Any, *, lr: Any = None) -> Any:
        return theta, (tensor([0.0, 0.0]),)


SLIPS: dict[str, dict[str, Any]] = {
    "a list of data": {"dataset": [DATA.x, DATA.y]},
    "inputs of another shape": {"dataset": Dataset(DATA.x[:, :4], DATA.y)},
    "labels that are floats": {"dataset": Dataset(DATA.x, DATA.y.astype(np.float64))},
    "inputs that are integers": {"dataset": Dataset(np.ones((40, 5), np.uint8), DATA.y)},
    "inputs that are texts": {"dataset": Dataset(np.full((40, 5), "a"), DATA.y)},
    "no loss": {"loss": 0.1},
    "a loss without weights": {"loss": lambda prediction, target: 0.0},
    "a loss of many numbers": {
        "loss": lambda prediction, target, *, weight: prediction,
    },
    "a number for an optimiser": {"optimizer": 0.1},
    "a class for an optimiser": {"optimizer": SGD},
    "an optimiser whose state grows": {"optimizer": Growing()},
    "a number for a schedule": {"schedule": 0.1},
    "a schedule of NaN at the last step": {"schedule": lambda step: np.nan if step == 5 else 0.1},
    "a schedule below zero": {"schedule": lambda step: 1.0 - step},
    "a schedule of texts": {"schedule": lambda step: "0.1"},
    "an average that is a text": {"average": "0.5"},
    "a seed that is a text": {"seed": "zero"},
    "a model of functions": {"model": nn.relu},
    "validation that is no data": {"validation": (1, 2)},
    "validation of another shape": {"validation": Dataset(DATA.x[:, :4], DATA.y)},
    "metrics that are names": {"validation": DATA, "metrics": ["accuracy"]},
    "one metric": {"validation": DATA, "metrics": accuracy},
    "metrics alone that are names": {"metrics": ["accuracy"]},
    "progress of two arguments": {"progress": lambda index, values: None},
    "progress that is a text": {"progress": "yes"},
    "a source of noise that only looks like one": {"entropy": np.random.default_rng(0)},
}


@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_costs_nothing(tmp_path: Path, case: str) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        with pytest.raises(FedcoreError) as found:
            fit(plan, ledger, **SLIPS[case])
        assert found.value.why and found.value.fix
        assert ledger.history.reservations == 0


def test_an_error_in_a_schedule_costs_nothing(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        with pytest.raises(ZeroDivisionError):
            fit(plan, ledger, schedule=lambda step: 1 / (5 - step))
        assert ledger.history.reservations == 0


def test_a_model_that_the_sum_grade_is_not_declared_for_costs_nothing(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(50, 40, key=0), nn.flatten, nn.Linear(160, 3, key=1))
    plan = planned(dimension=2523, grade=Grade.SUM)
    data = examples(40, (4, 50))
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        with pytest.raises(PlanError, match="of one example"):
            fit(plan, ledger, model=model, dataset=data)
        assert ledger.history.reservations == 0


def test_a_pair_of_arrays_is_data_as_it_is_for_fit(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        pair = (DATA.x, DATA.y)
        found = fit(plan, ledger, dataset=pair, validation=pair)
    assert found.rounds == 3 and len(found.history["val_accuracy"]) == 3


BAD_RECORDS: dict[str, tuple[str, float]] = {
    "a label below the classes": ("y", -1),
    "a label past the classes": ("y", 3),
    "NaN": ("x", np.nan),
    "infinity": ("x", np.inf),
    "more than float32 holds": ("x", 1e300),
}


@pytest.mark.parametrize("grade", list(Grade))
@pytest.mark.parametrize("case", BAD_RECORDS)
def test_one_bad_record_neither_stops_training_nor_shows(
    tmp_path: Path, case: str, grade: Grade, capfd: pytest.CaptureFixture[str]
) -> None:
    """All records join each step; warnings are errors here."""
    part, value = BAD_RECORDS[case]
    plan = planned(sampling=Poisson(2**32), grade=grade)
    arrays = {"x": DATA.x.astype(np.float64), "y": DATA.y.copy()}
    arrays[part][17] = value
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit(plan, ledger, dataset=Dataset(arrays["x"], arrays["y"]))
        assert ledger.spent == {plan.event: 3}
    assert found.rounds == 3 and set(found.history) == {"epsilon"}
    assert capfd.readouterr() == ("", "")


def test_a_data_set_of_bad_records_trains_as_an_empty_one_would(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit(plan, ledger, dataset=Dataset(DATA.x, DATA.y + 3))
    assert found.rounds == 3
