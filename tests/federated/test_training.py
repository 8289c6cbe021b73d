"""A client's local work: the bits it finds, when it stops, and what it says when it cannot."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.data import Dataset, stack_clients
from fedcore.errors import CancelledError, DivergenceError, FedcoreError, ProgramError, UpdateError
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import Progress, TrainingRequest
from fedcore.federated.training import LocalTraining, stream_of

NORMED = {
    "layers": [
        {"kind": "linear", "inputs": 4, "outputs": 5},
        {"kind": "batch_norm", "channels": 5},
        {"kind": "relu"},
        {"kind": "dropout", "rate": 0.25},
        {"kind": "linear", "inputs": 5, "outputs": 3},
    ]
}


def request_of(task, data, **options):
    terms = {"round": 2, "stream": stream_of("a")} | options
    theta = terms.pop("theta", None)
    theta = initial_theta(task) if theta is None else theta
    return TrainingRequest(task=task, theta=theta, dataset=data, **terms)


def training(**changed):
    terms = {
        "loss": "cross_entropy",
        "epochs": 2,
        "batch_size": 4,
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
    return terms | changed


def test_one_client_trains_as_fit_on_the_same_batches_does(small_task, small_data):
    task = small_task()
    found = LocalTraining().train(request_of(task, small_data))
    theta, rebuild = fc.ravel(fc.nn.Sequential(nn.Linear(4, 3, key=0)))
    theta = fc.tensor(initial_theta(task))
    rule = optim.SGD(lr=0.1)
    key = fc.Key(1, "shuffle", round=2, client=stream_of("a"))
    for epoch in range(2):
        for batch in small_data.batches(4, key=key, epoch=epoch):
            gradient = fc.grad(
                lambda t, b=batch: nn.cross_entropy(rebuild(t)(b.x), b.y, weight=b.weight)
            )(theta)
            theta, _ = rule.step(theta, gradient, ())
    np.testing.assert_allclose(found.delta, theta.numpy() - initial_theta(task), atol=1e-6)
    assert found.weight == 10


def test_batches_are_those_of_a_simulation_that_stacks_clients(small_task, small_data):
    key = fc.Key(1, "shuffle", round=2, client=stream_of("a"))
    stacked = stack_clients([small_data], 4, keys=[key])
    own = list(small_data.batches(4, key=key, epoch=0))
    assert np.array_equal(stacked.x[0], np.stack([batch.x for batch in own]))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox"])
def test_the_same_request_gives_the_same_bits_after_a_restart_and_after_other_rounds(
    small_task, small_data, optimizer, algorithm
):
    task = small_task(
        model=NORMED,
        algorithm={"name": algorithm},
        training=training(optimizer={"name": optimizer, "lr": 0.01}),
    )
    kept, fresh = LocalTraining(), LocalTraining()
    wanted = kept.train(request_of(task, small_data))
    kept.train(request_of(task, small_data, round=5))
    again, anew = (p.train(request_of(task, small_data)) for p in (kept, fresh))
    assert wanted.delta.tobytes() == again.delta.tobytes() == anew.delta.tobytes()
    assert wanted.statistics == again.statistics == anew.statistics


@pytest.mark.parametrize("changed", [{"round": 3}, {"stream": stream_of("b")}])
def test_rounds_and_clients_draw_from_streams_of_their_own(small_task, small_data, changed):
    task = small_task(model=NORMED)
    program = LocalTraining()
    one = program.train(request_of(task, small_data))
    other = program.train(request_of(task, small_data, **changed))
    assert not np.array_equal(one.delta, other.delta)


def test_the_model_that_was_sent_is_left_alone(small_task, small_data):
    task = small_task(model=NORMED)
    theta = initial_theta(task)
    kept = theta.copy()
    LocalTraining().train(request_of(task, small_data, theta=theta))
    assert np.array_equal(theta, kept)


def test_batch_statistics_travel_behind_the_parameters(small_task, small_data):
    task = small_task(model=NORMED)
    flat = FlatModel(task)
    assert flat.dimension == task.dimension > flat.trained
    found = LocalTraining().train(request_of(task, small_data))
    after = initial_theta(task) + found.delta
    model = flat.model(after)
    batch = small_data.x
    normed = model(batch).numpy()
    assert np.abs(found.delta[flat.trained :]).max() > 0
    _, state = nn.ravel_state(model)[0], nn.ravel_state(model)[0].numpy()
    assert np.array_equal(state, after[flat.trained :])
    assert normed.shape == (10, 3)


def test_an_installed_model_of_another_size_than_the_tasks_is_not_trained(small_task, small_data):
    task = small_task()
    other = replace(task, model=replace(task.model, parts=(task.dimension + 1,)))
    with pytest.raises(ProgramError, match="is another than the task's"):
        LocalTraining().train(request_of(other, small_data))


@pytest.mark.parametrize(("steps", "examples"), [(1, 4), (2, 8), (3, 10), (7, 10)])
def test_a_task_may_count_steps_instead_of_epochs(small_task, small_data, steps, examples):
    task = small_task(training=training(epochs=None, steps=steps))
    told: list[Progress] = []
    found = LocalTraining().train(request_of(task, small_data, progress=told.append))
    assert [p.step for p in told] == list(range(1, steps + 1))
    assert {p.steps for p in told} == {steps}
    assert found.weight == examples or steps == 2  # the short batch may be among the two
    assert found.statistics["loss"] > 0


def test_so_many_steps_as_an_epoch_has_are_that_epoch(small_task, small_data):
    by_steps = small_task(training=training(epochs=None, steps=3))
    by_epochs = small_task(training=training(epochs=1))
    one, other = (LocalTraining().train(request_of(t, small_data)) for t in (by_steps, by_epochs))
    assert np.array_equal(one.delta, other.delta)


def test_the_rate_follows_the_schedule_by_round(small_task, small_data):
    schedule = {"name": "step", "every": 2, "factor": 0.5}
    scheduled = small_task(training=training(schedule=schedule))
    halved = small_task(training=training(optimizer={"name": "sgd", "lr": 0.05}))
    one = LocalTraining().train(request_of(scheduled, small_data, round=2))
    other = LocalTraining().train(request_of(halved, small_data, round=2))
    assert np.array_equal(one.delta, other.delta)


def test_fedsgd_sends_the_mean_gradient_over_all_data_downhill(small_task):
    draw = np.random.default_rng(3)
    data = Dataset(draw.normal(size=(700, 4)).astype(np.float32), draw.integers(0, 3, 700))
    task = small_task(algorithm={"name": "fedsgd", "lr": 0.1}, training={"loss": "cross_entropy"})
    found = LocalTraining().train(request_of(task, data))
    rebuild = FlatModel(task).rebuild
    wanted = fc.grad(lambda t: nn.cross_entropy(rebuild(t)(data.x), data.y))(
        fc.tensor(initial_theta(task))
    )
    np.testing.assert_allclose(found.delta, -wanted.numpy(), atol=1e-6)
    assert found.weight == 700


def test_fedprox_with_mu_0_is_fedavg_and_a_large_mu_stays_near(small_task, small_data):
    def moved(**algorithm):
        task = small_task(algorithm=algorithm)
        return LocalTraining().train(request_of(task, small_data)).delta

    plain = moved(name="fedavg")
    # To rounding: BLAS adds the product of a factored gradient in one, a pulled one takes two.
    np.testing.assert_allclose(moved(name="fedprox", mu=0.0), plain, rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(moved(name="fedprox", mu=5.0)) < np.linalg.norm(plain)


def test_a_cancelled_client_stops_before_its_next_step(small_task, small_data):
    told: list[Progress] = []
    request = request_of(
        small_task(), small_data, progress=told.append, cancelled=lambda: len(told) == 2
    )
    with pytest.raises(CancelledError):
        LocalTraining().train(request)
    assert len(told) == 2


def test_a_program_goes_on_after_a_cancelled_round(small_task, small_data):
    task, program = small_task(model=NORMED), LocalTraining()
    calls = iter([False, True])
    with pytest.raises(CancelledError):
        program.train(request_of(task, small_data, cancelled=lambda: next(calls)))
    after = program.train(request_of(task, small_data))
    fresh = LocalTraining().train(request_of(task, small_data))
    assert np.array_equal(after.delta, fresh.delta)


@pytest.mark.parametrize("algorithm", [{"name": "fedavg"}, {"name": "fedsgd", "lr": 0.1}])
def test_data_that_are_not_finite_end_in_a_divergence_error(small_task, small_data, algorithm):
    terms = {"loss": "cross_entropy"} if algorithm["name"] == "fedsgd" else training()
    task = small_task(algorithm=algorithm, training=terms)
    x = small_data.x.copy()
    x[3, 1] = np.inf
    with pytest.raises(DivergenceError, match="round 3"):
        LocalTraining().train(request_of(task, Dataset(x, small_data.y)))


def test_steps_that_leave_the_numbers_end_in_a_divergence_error(small_task, small_data):
    task = small_task(training=training(optimizer={"name": "sgd", "lr": 1e38}, epochs=5))
    with pytest.raises(DivergenceError):
        LocalTraining().train(request_of(task, small_data))


def test_data_that_do_not_fit_the_model_are_refused_with_their_shapes(small_task, small_data):
    wide = Dataset(np.zeros((5, 9), np.float32), np.zeros(5, np.int64))
    with pytest.raises(FedcoreError, match="9"):
        LocalTraining().train(request_of(small_task(), wide))
    with pytest.raises(UpdateError, match="15 numbers"):
        LocalTraining().train(request_of(small_task(), small_data, theta=np.zeros(3, np.float32)))


@pytest.mark.parametrize(("optimizer", "first", "later"), [("sgd", 6, 3), ("adam", 11, 7)])
def test_memory_is_a_few_models_and_all_of_it_goes_back(small_task, optimizer, first, later):
    layers = [{"kind": "linear", "inputs": 500, "outputs": 400}]
    terms = training(optimizer={"name": optimizer, "lr": 0.01})
    task = small_task(model={"layers": layers}, training=terms)
    draw = np.random.default_rng(1)
    data = Dataset(draw.normal(size=(8, 500)).astype(np.float32), draw.integers(0, 400, 8))
    program, theta = LocalTraining(), initial_theta(task)
    LocalTraining().train(request_of(task, data, theta=theta))  # imports what it needs
    tracemalloc.start()
    try:
        for index in range(4):
            tracemalloc.reset_peak()
            program.train(request_of(task, data, theta=theta, round=index))
            kept, peak = tracemalloc.get_traced_memory()
            assert kept / theta.nbytes < 0.5
            assert peak / theta.nbytes < (later if index else first)
    finally:
        tracemalloc.stop()


def test_a_round_that_is_still_being_cancelled_does_not_disturb_the_next(small_task, small_data):
    task, program = small_task(), LocalTraining()
    wanted = LocalTraining().train(request_of(task, small_data)).delta
    training_begun, others_turn = Event(), Event()

    def begun(progress):
        training_begun.set()
        others_turn.wait(5)

    slow = request_of(task, small_data, round=9, progress=begun)
    with ThreadPoolExecutor(2) as pool:
        before = pool.submit(program.train, slow)
        assert training_begun.wait(5)
        after = pool.submit(program.train, request_of(task, small_data))
        others_turn.set()
        undisturbed = LocalTraining().train(request_of(task, small_data, round=9))
        assert np.array_equal(before.result().delta, undisturbed.delta)
        assert np.array_equal(after.result().delta, wanted)


def test_one_program_serves_one_task_after_another(small_task, small_data):
    program = LocalTraining()
    one, other = small_task(), small_task(training=training(epochs=1))
    first = program.train(request_of(one, small_data))
    program.train(request_of(other, small_data))
    assert np.array_equal(program.train(request_of(one, small_data)).delta, first.delta)


def test_stream_numbers_are_stable_and_lie_in_64_bits():
    assert stream_of("writer-03") == 5021648025035895582
    assert all(0 <= stream_of(name) < 2**64 for name in ("", "a", "Ünïcode", "x" * 500))
