"""Clients of another framework train tasks of plain arrays, and say clearly what does not fit."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import numpy as np
import pytest

from fedcore.errors import CancelledError, DivergenceError, ProgramError
from fedcore.federated import programs
from fedcore.federated.contribution import Contributor
from fedcore.federated.numpy_client import NumPyClientProgram
from fedcore.federated.programs import TrainingRequest, find_program
from fedcore.federated.reference import train_in_process
from fedcore.federated.training import LocalTraining

ARRAYS = {"arrays": [{"name": "w", "shape": [2, 3]}, {"name": "b", "shape": [3]}]}
THETA = np.arange(9, dtype=np.float32)


class Client:
    """Adds one to every parameter."""

    def __init__(self, fit=None, examples=10):
        self.answer, self.examples, self.seen = fit, examples, []

    def get_parameters(self, config):
        return [np.ones((2, 3)), np.zeros(3)]

    def fit(self, parameters, config):
        self.seen.append(([array.copy() for array in parameters], config))
        if self.answer is not None:
            return self.answer
        for array in parameters:
            array += 1  # in place, as many clients do
        return parameters, self.examples, {"loss": 0.5, "note": "text"}

    def evaluate(self, parameters, config):
        return 2.0, 4, {"accuracy": 0.75}


@pytest.fixture(scope="module")
def task(small_task):
    return small_task(
        model=ARRAYS,
        training={"program": "theirs", "options": {"local_epochs": 3}},
        evaluation={"every": 1, "metrics": ["accuracy"]},
    )


def request_of(task, data, **options):
    return TrainingRequest(task=task, theta=THETA, dataset=data, round=4, stream=9, **options)


def test_fit_gets_the_arrays_of_the_task_and_its_options(task, small_data):
    client = Client()
    found = NumPyClientProgram(client).train(request_of(task, small_data))
    ((arrays, config),) = client.seen
    assert [array.tolist() for array in arrays] == [[[0, 1, 2], [3, 4, 5]], [6, 7, 8]]
    assert config["local_epochs"] == 3
    assert (config["round"], config["server_round"], config["stream"]) == (4, 5, 9)
    assert found.delta.tolist() == [1.0] * 9 and found.delta.dtype == np.float32
    assert found.weight == 10 and found.statistics == {"loss": 5.0}
    assert THETA.tolist() == list(range(9))


def test_evaluate_is_asked_before_fit_and_reported_as_sums(task, small_data):
    told = []
    request = request_of(task, small_data, evaluate=True, measured=told.append)
    found = NumPyClientProgram(Client()).train(request)
    measured = {
        "evaluation_examples": 4,
        "evaluation_loss": 8.0,
        "evaluation_accuracy": 3.0,
    }
    assert told == [measured]
    assert found.statistics == {"loss": 5.0} | measured


def test_the_first_model_is_what_the_client_has(task):
    assert NumPyClientProgram(Client()).first_model(task).tolist() == [1.0] * 6 + [0.0] * 3


GOOD = [np.zeros((2, 3)), np.zeros(3)]


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (([np.zeros((3, 2)), np.zeros(3)], 1, {}), ProgramError, r"\(3, 2\)"),
        (([np.zeros((2, 3))], 1, {}), ProgramError, "shapes"),
        ((np.zeros(9), 1, {}), ProgramError, "shapes"),
        (([np.zeros((2, 3)), np.array(["a"] * 3)], 1, {}), ProgramError, "'b'"),
        (([np.zeros((2, 3)), np.full(3, np.nan)], 1, {}), DivergenceError, "'b'"),
        (([np.full((2, 3), 1e300), np.zeros(3)], 1, {}), DivergenceError, "'w'"),
        ((GOOD, 0, {}), ProgramError, "0 examples"),
        ((GOOD, 2.5, {}), ProgramError, "2.5 examples"),
        ((GOOD, 1, None), ProgramError, "metric"),
        ((GOOD, 1, {"loss": "low"}), ProgramError, "'loss'"),
        ((GOOD, 1, {"loss": np.nan}), ProgramError, "'loss'"),
        ((GOOD, 1), ProgramError, "fit gave a tuple"),
        (None.__class__, ProgramError, "fit gave a type"),
    ],
)
def test_an_answer_that_does_not_fit_says_what_and_where(task, small_data, answer, error, says):
    with pytest.raises(error, match=says):
        NumPyClientProgram(Client(fit=answer)).train(request_of(task, small_data))


def test_a_task_of_layers_is_not_for_a_numpy_client(small_task, small_data):
    layered = small_task()
    request = TrainingRequest(
        task=layered, theta=np.zeros(15, np.float32), dataset=small_data, round=0, stream=0
    )
    with pytest.raises(ProgramError, match="model of layers"):
        NumPyClientProgram(Client()).train(request)


def test_a_class_instead_of_an_object_is_refused():
    with pytest.raises(ProgramError, match="no method fit"):
        NumPyClientProgram(3)


def test_what_fit_gave_after_a_cancellation_is_dropped(task, small_data):
    client = Client()
    request = request_of(task, small_data, cancelled=lambda: bool(client.seen))
    with pytest.raises(CancelledError):
        NumPyClientProgram(client).train(request)
    assert len(client.seen) == 1


def test_a_federation_of_numpy_clients_finds_the_mean_of_their_models(task, small_data):
    names = {"a": 10, "b": 30}
    programs = {
        name: {"theirs": NumPyClientProgram(Client(fit=([g + i for g in GOOD], n, {})))}
        for i, (name, n) in enumerate(names.items())
    }
    data = dict.fromkeys(names, small_data)
    zeros = np.zeros(9, np.float32)
    (found,) = train_in_process(task, data, rounds=1, theta=zeros, programs=programs)
    np.testing.assert_allclose(found, 0.75, rtol=1e-6)


@pytest.mark.parametrize("value", ["LocalTraining", "INSTALLED"])
def test_an_installed_package_may_provide_a_program_or_its_class(monkeypatch, value):
    module = ModuleType("an_installed_package")
    module.LocalTraining, module.INSTALLED = LocalTraining, LocalTraining()
    monkeypatch.setitem(sys.modules, "an_installed_package", module)
    own = EntryPoint("theirs", f"an_installed_package:{value}", programs.PROGRAM_GROUP)
    monkeypatch.setattr(
        programs, "entry_points", lambda group: EntryPoints([own]).select(group=group)
    )
    assert isinstance(find_program("theirs", {}), LocalTraining)
    with pytest.raises(ProgramError, match="'thiers'") as caught:
        find_program("thiers", {})
    assert "local, theirs" in caught.value.why


def test_a_program_is_looked_up_by_name_and_one_that_is_missing_is_named(task, small_data):
    program = NumPyClientProgram(Client())
    assert find_program("theirs", {"theirs": program}) is program
    with pytest.raises(ProgramError, match="no program 'theirs'") as caught:
        Contributor(task)
    assert "local" in caught.value.why
