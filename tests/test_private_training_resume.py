"""Private training goes on from what it has released, if it is still the same training."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore import nn
from fedcore.autograd.ravel import ravel
from fedcore.entropy import SeededEntropy
from fedcore.errors import PlanError
from fedcore.optim import SGD, Adam, constant
from fedcore.privacy.ledger import Ledger
from fedcore.private_rounds import TrainingState, training_terms
from fedcore.progress import Report
from tests.private_terms import fit, linear, parameters, planned


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(Exception):
    """The process ends between two rounds."""


def stop_after(rounds: int) -> Any:
    def progress(report: Report) -> None:
        assert report.measures["epsilon"] > 0
        if report.epoch + 1 == rounds:
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
        assert found.history == whole.history
    assert (whole.rounds_restored, resumed.rounds_restored, again.rounds_restored) == (0, 2, 3)
    assert not np.array_equal(parameters(whole.model), parameters(linear()))


def test_a_round_that_was_under_way_is_paid_for_again(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        ledger.reserve(0)  # and then the power fails
    with Ledger.open(tmp_path / "ledger", checkpoint=None) as ledger:
        found = fit(plan, ledger)
        assert found.rounds == 3 and ledger.spent == {plan.event: 4}


def test_a_restored_round_shows_the_epsilon_that_held_then(tmp_path: Path) -> None:
    """Also after rounds that were lost, of which later ones know."""
    plan = planned(rounds=5)
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        ledger.reserve(0)
        with pytest.raises(Killed):
            fit(plan, ledger, progress=stop_after(2))
        ledger.reserve(2)
        ledger.reserve(2)
        told: list[Report] = []
        found = fit(plan, ledger, progress=told.append)
        again = fit(plan, ledger)
        assert found.rounds_restored == 2 and again.rounds_restored == 5
        assert found.history == again.history
        assert [report.measures["epsilon"] for report in told] == found.history["epsilon"]
    costs = []
    with Ledger.create(tmp_path / "counted", plan) as ledger:
        for count in range(1, 9):
            ledger.reserve(0)
            costs.append(ledger.epsilon())
            assert ledger.spent == {plan.event: count}
    assert found.history["epsilon"] == [costs[count - 1] for count in (2, 3, 6, 7, 8)]


def test_under_a_changed_plan_rounds_begin_anew_and_show_all_that_was_spent(
    tmp_path: Path,
) -> None:
    before, after = planned(), planned(rounds=2, epsilon=2000.0)
    with Ledger.create(tmp_path / "ledger", before) as ledger:
        first = fit(before, ledger)
        ledger.migrate(after)
        second, again = fit(after, ledger), fit(after, ledger)
        assert ledger.spent == {before.event: 5}
    assert (second.rounds, second.rounds_restored, again.rounds_restored) == (2, 0, 2)
    assert second.history == again.history
    assert first.epsilon < second.history["epsilon"][0] < second.history["epsilon"][1]


def test_what_is_released_is_what_the_run_goes_on_with(tmp_path: Path) -> None:
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        found = fit(plan, ledger, optimizer=SGD(lr=0.1))
        payload = ledger.released(2) or b""
    values = np.frombuffer(payload[payload.index(b"\n") + 1 :], "<f4")
    assert values.size == 2 * 18  # the parameters and their running mean
    assert np.array_equal(values[18:], parameters(found.model))


# Another training


def other_loss(prediction: Any, target: Any, *, weight: Any) -> Any:
    return nn.cross_entropy(prediction, target, weight=weight)


CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "another rate": ("optimizer", {"optimizer": Adam(lr=0.06)}),
    "another optimiser": ("optimizer", {"optimizer": SGD(lr=0.05)}),
    "a schedule": ("schedule", {"schedule": constant(0.05)}),
    "no average": ("average", {"average": 0.0}),
    "another seed": ("seed", {"seed": 1}),
    "another loss": ("loss", {"loss": other_loss}),
    "a loss with another setting": (
        "loss",
        {"loss": partial(nn.cross_entropy, label_smoothing=0.1)},
    ),
    "other layers": ("model", {"model": nn.Sequential(nn.Dropout(0.5), linear())}),
    "another layout": ("model", {"model": nn.Sequential(linear())}),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_script_is_not_given_the_old_model(tmp_path: Path, case: str) -> None:
    """It would cost nothing, and look like the result of what was asked for."""
    name, changes = CHANGED[case]
    plan = planned()
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        with pytest.raises(Killed):
            fit(plan, ledger, progress=stop_after(1))
        with pytest.raises(PlanError, match=f"round 0 was trained with another .*{name}") as found:
            fit(plan, ledger, **changes)
        assert name in found.value.why and "another ledger" in found.value.fix
        assert ledger.spent == {plan.event: 1}
        assert fit(plan, ledger).rounds == 3


def test_schedules_are_told_apart_by_their_rates(tmp_path: Path) -> None:
    plan = planned(rounds=2)
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        fit(plan, ledger, schedule=constant(0.05))
        assert fit(plan, ledger, schedule=lambda step: 0.05).rounds_restored == 2
        with pytest.raises(PlanError, match="another schedule"):
            fit(plan, ledger, schedule=lambda step: 0.05 if step < 3 else 0.04)


class Plain:
    """An optimiser of nobody's, whose text names an address in memory."""

    def __init__(self, lr: float) -> None:
        self.lr, self.cache = lr, object()

    def init(self, theta: Any) -> Any:
        return ()

    def step(self, theta: Any, gradient: Any, state: Any, *, lr: Any = None) -> Any:
        return theta - gradient * lr, state


def test_terms_are_the_same_in_every_process_and_know_settings() -> None:
    def terms(lr: float) -> Any:
        model = linear()
        return training_terms(
            model,
            ravel(model)[1].spec,
            loss=nn.cross_entropy,
            optimizer=Plain(lr),
            rates=None,
            average=0.0,
            seed=0,
        )

    assert terms(0.5) == terms(0.5) != terms(0.4)
    assert "0x" not in str(terms(0.5)) and "cross_entropy" in str(terms(0.5))


HEAD = b'{"average":0.5,"seed":0}'


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(18 * 8),
        b"\n",
        b"[" * 10**5 + b"\n" + bytes(18 * 8),
        b"\xff\xfe\n" + bytes(18 * 8),
        b"[1, 2]\n" + bytes(18 * 8),
        b"9" * 10**4 + b"\n" + bytes(18 * 8),
        HEAD + b"\n" + bytes(18 * 8 - 1),
        HEAD + b"\n" + bytes(18 * 8 + 1),
        HEAD,
    ],
)
def test_what_is_no_round_of_this_training_is_refused(payload: bytes) -> None:
    theta = parameters(linear())
    state = TrainingState(theta, SGD(lr=0.1), {"average": 0.5, "seed": 0})
    with pytest.raises(PlanError, match="something else than this training"):
        state.restore(payload, index=4)
    assert np.array_equal(state.theta, theta)
