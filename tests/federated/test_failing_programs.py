"""Under privacy a program that fails tells the device's owner and nobody else: it counts as zeros.

Whether a program fails depends on the data. A client that dropped out for it would show a server
what no noise hides.
"""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.entropy import SeededEntropy
from fedcore.errors import CancelledError, DivergenceError, ProgramError
from fedcore.federated.clipping import encode_clipping
from fedcore.federated.contribution import Contributor
from fedcore.federated.numpy_client import NumPyClientProgram
from fedcore.federated.programs import TrainingResult
from fedcore.federated.reference import train_in_process
from tests.federated.private_tasks import client_privacy, record_privacy, request_of

SEED = bytes(range(32))


class Raising:
    """A program that fails with what it was given."""

    def __init__(self, error):
        self.error = error

    def train(self, request):
        raise self.error


class Giving:
    """A program that gives whatever it was given, or what a function makes of the request."""

    def __init__(self, delta, weight=10):
        self.delta, self.weight = delta, weight

    def train(self, request):
        return TrainingResult(self.delta, self.weight)


class Forgetting:
    """A program without an answer."""

    def train(self, request):
        return None


class Fitting:
    """A NumPyClient whose `fit` does what it was given."""

    def __init__(self, fit):
        self.fit = lambda parameters, config: fit(parameters)


def _out_of_memory(parameters):
    raise MemoryError("4 GiB for the first patient")


FAILURES = {
    "diverged": Raising(DivergenceError("the loss is inf")),
    "defective": Raising(KeyError("patient 7")),
    "misfit": Raising(ProgramError("label 12 is no class")),
    "recursive": Raising(RecursionError("too deep")),
    "no answer": Forgetting(),
    "longer": Giving(np.zeros(16, np.float32)),
    "a table": Giving(np.zeros((15, 1), np.float32)),
    "integers": Giving(np.zeros(15, np.int64)),
    "a list": Giving([0.0] * 15),
    "not finite": Giving(np.full(15, np.nan, np.float32)),
    "infinite": Giving(np.r_[np.inf, np.zeros(14)].astype(np.float32)),
}
FITS = {
    "raises": lambda parameters: 1 // 0,
    "out of memory": _out_of_memory,
    "other shapes": lambda parameters: ([np.zeros(3)], 10, {}),
    "not finite": lambda parameters: ([parameters[0] * np.nan], 10, {}),
    "no examples": lambda parameters: (parameters, 0, {}),
    "no triple": lambda parameters: parameters,
}
ARRAYS = {"layers": None, "arrays": [{"name": "w", "shape": [15]}]}
OWN = {"program": "own", "loss": None, "epochs": None, "batch_size": None, "optimizer": None}


def failing(task, data, program, **options):
    told = []
    request = request_of(task, data, failed=told.append, **options)
    blocks = Contributor(task, programs={"own": program}).contribute(request)
    return blocks, told


@pytest.mark.parametrize("weighted", [None, 20])
@pytest.mark.parametrize("failure", FAILURES)
def test_under_privacy_a_program_that_fails_counts_as_zeros_and_only_the_owner_is_told(
    task_for, small_data, failure, weighted
):
    privacy = client_privacy(largest_weight=weighted)
    task = task_for(privacy, training={"program": "own", "loss": None})
    (found,), [error] = failing(task, small_data, FAILURES[failure])
    (zeros,), [] = failing(task, small_data, Giving(np.zeros(15, np.float32)))
    assert np.array_equal(found, zeros) and not found.any()
    if failure in ("diverged", "defective", "misfit", "recursive"):
        assert error is FAILURES[failure].error


@pytest.mark.parametrize("weight", [-1, 0.5, "many", None])
def test_a_weight_that_counts_no_examples_is_a_failure_where_weights_count(
    task_for, small_data, weight
):
    for largest, failures in ((None, 0), (20, 1)):
        privacy = client_privacy(largest_weight=largest)
        task = task_for(privacy, training={"program": "own", "loss": None})
        program = Giving(np.ones(15, np.float32), weight)
        (found,), told = failing(task, small_data, program)
        assert len(told) == failures and found.any() == (not failures)


@pytest.mark.parametrize("fit", FITS)
def test_a_numpy_client_that_fails_under_privacy_counts_as_zeros(task_for, fit):
    task = task_for(client_privacy(largest_weight=20), model=ARRAYS, training=OWN)
    program = NumPyClientProgram(Fitting(FITS[fit]))
    # It brings its own data: nothing is bound that could be counted.
    (found,), [_] = failing(task, None, program, theta=np.ones(15, np.float32))
    assert not found.any()


@pytest.mark.parametrize("noise", ["shares", "compact"])
def test_noise_hides_a_failure_as_it_hides_an_update(task_for, small_data, noise):
    def sent(program):
        contributor = Contributor(task, programs={"own": program}, entropy=SeededEntropy(SEED))
        return contributor.contribute(request_of(task, small_data))

    task = task_for(client_privacy(noise=noise), training={"program": "own", "loss": None})
    assert np.array_equal(
        *(
            block
            for program in (FAILURES["defective"], Giving(np.zeros(15, np.float32)))
            for block in sent(program)
        )
    )


def test_a_failure_under_adaptive_clipping_is_an_update_of_zeros(task_for, small_data):
    privacy = client_privacy(clipping="adaptive", denominator=40)
    task = task_for(privacy, training={"program": "own", "loss": None})
    plan = task.plan
    state = plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    clipping = encode_clipping(state)
    (found,), [_] = failing(task, small_data, FAILURES["not finite"], clipping=clipping)
    zeros = Giving(np.zeros(15, np.float32))
    assert np.array_equal(found, failing(task, small_data, zeros, clipping=clipping)[0][0])


@pytest.mark.parametrize("error", [CancelledError("stop", why="stop"), KeyError("stopped")])
def test_a_cancelled_program_is_no_failure_whatever_it_raises(task_for, small_data, error):
    task = task_for(client_privacy(), training={"program": "own", "loss": None})
    with pytest.raises(CancelledError):
        failing(task, small_data, Raising(error), cancelled=lambda: True)


def test_a_program_that_says_it_was_cancelled_when_nobody_did_has_failed(task_for, small_data):
    task = task_for(client_privacy(), training={"program": "own", "loss": None})
    error = CancelledError("the first patient is too young")
    (found,), told = failing(task, small_data, Raising(error))
    assert told == [error] and not found.any()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_no_failure_of_a_program(task_for, small_data, error):
    task = task_for(client_privacy(), training={"program": "own", "loss": None})
    with pytest.raises(error):
        failing(task, small_data, Raising(error()))


def test_a_program_that_is_not_installed_is_an_error_under_privacy_too(task_for):
    with pytest.raises(ProgramError, match="own"):
        Contributor(task_for(client_privacy(), training={"program": "own", "loss": None}))


def test_a_record_that_cannot_be_measured_stops_no_round(task_for, small_data):
    evaluation = {"every": 1, "metrics": ["accuracy"], "reported": False}
    task, told = task_for(record_privacy(), evaluation=evaluation), []
    y = small_data.y.copy()
    y[0] = 17
    contributor = Contributor(task)
    request = request_of(task, Dataset(small_data.x, y), evaluate=True, failed=told.append)
    (found,) = contributor.contribute(request)
    (rest,) = contributor.contribute(request_of(task, small_data[1:]))
    assert np.array_equal(found, rest) and len(told) == 1


def test_a_simulation_counts_failures_as_devices_do_and_says_whose_they_were(
    task_for, small_data, tmp_path
):
    task = task_for(client_privacy(), training={"program": "own", "loss": "cross_entropy"})
    zeros, told, models = Giving(np.zeros(15, np.float32)), [], []
    for case, program in (("failing", FAILURES["defective"]), ("zeros", zeros)):
        working = Giving(np.ones(15, np.float32))
        models += train_in_process(
            task,
            dict.fromkeys(("a", "b"), small_data),
            rounds=1,
            ledger=tmp_path / case,
            programs={"a": {"own": working}, "b": {"own": program}},
            entropy=SeededEntropy(SEED),
            on_failure=lambda name, error: told.append((name, error)),
        )
    assert np.array_equal(*models)
    assert told == [("b", FAILURES["defective"].error)]
