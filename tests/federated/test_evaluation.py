"""Measures on a device's data are sums, so that those of several devices add up to those of all."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore import nn
from fedcore.data import Dataset
from fedcore.federated.evaluation import evaluate_sums, measure
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.training import LocalTraining
from fedcore.metrics import accuracy
from fedcore.training import evaluate


def test_the_sums_of_parts_are_the_sums_of_the_whole():
    draw = np.random.default_rng(1)
    data = Dataset(draw.normal(size=(700, 5)), draw.integers(0, 3, 700))
    model = nn.Sequential(nn.Linear(5, 3, key=1))

    def sums(part):
        return evaluate_sums(model, part, loss=nn.cross_entropy, metrics={"accuracy": accuracy})

    whole, parts = sums(data), [sums(data[:123]), sums(data[123:])]
    for name, value in whole.items():
        assert value == pytest.approx(sum(part[name] for part in parts), rel=1e-5)
    means = evaluate(model, data, loss=nn.cross_entropy, metrics=[accuracy])
    assert whole["evaluation_loss"] / 700 == pytest.approx(means["loss"], rel=1e-5)
    assert whole["evaluation_accuracy"] / 700 == pytest.approx(means["accuracy"])


def test_the_model_that_was_sent_is_measured_and_the_owner_told(small_task, small_data):
    task = small_task(evaluation={"every": 1, "metrics": ["accuracy"]})
    told = []
    request = TrainingRequest(
        task=task,
        theta=initial_theta(task),
        dataset=small_data,
        round=0,
        stream=1,
        evaluate=True,
        measured=told.append,
    )
    wanted = measure(FlatModel(task), request)
    found = LocalTraining().train(request)
    assert told == [wanted, wanted]
    assert {name: found.statistics[name] for name in wanted} == wanted
    model = FlatModel(task).model(initial_theta(task))
    right = (model(small_data.x).numpy().argmax(1) == small_data.y).sum()
    assert wanted["evaluation_accuracy"] == right
