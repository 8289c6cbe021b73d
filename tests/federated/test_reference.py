"""A whole task in one process: that it learns, and that its bits depend on nothing but the task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.data import Dataset
from fedcore.entropy import SeededEntropy
from fedcore.errors import DivergenceError, PlanError, ProgramError, UpdateError
from fedcore.federated.algorithms import algorithm_of
from fedcore.federated.clipping import encode_clipping
from fedcore.federated.contribution import Contributor
from fedcore.federated.evaluation import evaluate_sums
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import TrainingRequest, TrainingResult
from fedcore.federated.reference import train_in_process
from fedcore.federated.task import Task
from fedcore.federated.training import LocalTraining, stream_of
from fedcore.federated.update import Mean, UpdateLayout
from fedcore.metrics import accuracy
from fedcore.privacy import Ledger
from fedcore.secagg import run_session

SECURE = {"profile": "semi_honest", "gamma": 0.1, "delta": 0.2}


def example(root: Path, name: str) -> Task:
    return Task.from_toml(root / "examples" / "tasks" / name).resolved()


def accuracy_of(task, theta, test):
    found = evaluate_sums(
        FlatModel(task).model(theta), test, loss=nn.cross_entropy, metrics={"accuracy": accuracy}
    )
    return found["evaluation_accuracy"] / found["evaluation_examples"]


@pytest.fixture(scope="module")
def hospitals():
    """Four hospitals with 60 patients each, of whom a third is ill: 4 features, 3 outcomes."""
    draw = np.random.default_rng(5)
    weights = draw.normal(size=(4, 3))
    found = {}
    for name in ("basel", "cleveland", "budapest", "zurich"):
        x = draw.normal(size=(60, 4)).astype(np.float32)
        scores = x @ weights + 0.3 * draw.normal(size=(60, 3))
        found[name] = Dataset(x, scores.argmax(axis=1))
    return found


def loss_of(task, theta, clients):
    sums = [
        evaluate_sums(FlatModel(task).model(theta), d, loss=nn.cross_entropy, metrics={})
        for d in clients.values()
    ]
    total = sum(found["evaluation_loss"] for found in sums)
    return total / sum(found["evaluation_examples"] for found in sums)


def test_fourteen_writers_reach_nine_of_ten_in_twenty_rounds(root, writers):
    clients, test = writers
    task = example(root, "digits-plain.toml")
    means: list[Mean] = []
    models = train_in_process(task, clients, on_round=lambda i, theta, mean: means.append(mean))
    assert accuracy_of(task, models[-1], test) >= 0.9
    assert all(mean.reports == 14 and mean.statistics["saturated"] == 0 for mean in means)
    assert means[-1].statistics["examples"] == sum(map(len, clients.values()))
    measured = [i for i, mean in enumerate(means) if "evaluation_accuracy" in mean.statistics]
    assert measured == [4, 9, 14, 19]


@pytest.mark.slow
def test_with_every_image_protected_the_writers_still_learn(root, writers, tmp_path):
    clients, test = writers
    task = example(root, "digits.toml")
    entropy = SeededEntropy(bytes(32))
    models = train_in_process(task, clients, ledger=tmp_path / "ledger", entropy=entropy)
    assert accuracy_of(task, models[-1], test) >= 0.85
    with Ledger.open(tmp_path / "ledger", checkpoint=None) as ledger:
        assert ledger.epsilon() <= 3.0
        assert ledger.released(39) is not None


def test_the_bits_depend_on_the_task_and_the_names_alone(small_task, hospitals):
    task = small_task()
    models = train_in_process(task, hospitals)
    turned = dict(reversed(hospitals.items()))
    again = train_in_process(task, turned)
    assert [m.tobytes() for m in models] == [m.tobytes() for m in again]
    renamed = {f"{name}-2": data for name, data in hospitals.items()}
    assert train_in_process(task, renamed, rounds=1)[0].tobytes() != models[0].tobytes()


def test_later_rounds_follow_from_the_model_alone(small_task, hospitals):
    """A server that was restarted goes on with the same bits, algorithms with a memory apart."""
    task = small_task(rounds={"count": 4})
    models = train_in_process(task, hospitals)
    assert len(models) == 4
    first = train_in_process(task, hospitals, rounds=1)[0]
    assert np.array_equal(first, models[0])


def test_a_federation_of_one_client_with_full_batches_is_plain_training(small_task, hospitals):
    data = hospitals["basel"]
    training = {
        "loss": "cross_entropy",
        "epochs": 1,
        "batch_size": 60,
        "optimizer": {"name": "sgd", "lr": 0.2},
    }
    update = {"slot_bits": 48}
    cohort = {"goal": 1, "minimum": 1}
    task = small_task(training=training, update=update, cohort=cohort, rounds={"count": 5})
    found = train_in_process(task, {"basel": data})[-1]
    theta, rebuild, rule = initial_theta(task), FlatModel(task).rebuild, optim.SGD(lr=0.2)
    theta = fc.tensor(theta)
    for _ in range(5):
        gradient = fc.grad(lambda t: nn.cross_entropy(rebuild(t)(data.x), data.y))(theta)
        theta, _ = rule.step(theta, gradient, ())
    np.testing.assert_allclose(found, theta.numpy(), atol=1e-6)


def test_fedsgd_with_all_clients_is_a_step_on_the_data_of_all(small_task, hospitals):
    task = small_task(
        algorithm={"name": "fedsgd", "lr": 0.5},
        training={"loss": "cross_entropy"},
        update={"slot_bits": 48},
        rounds={"count": 1},
    )
    (found,) = train_in_process(task, hospitals)
    x, y = (np.concatenate([getattr(d, n) for d in hospitals.values()]) for n in "xy")
    theta, rebuild = fc.tensor(initial_theta(task)), FlatModel(task).rebuild
    gradient = fc.grad(lambda t: nn.cross_entropy(rebuild(t)(x), y))(theta)
    np.testing.assert_allclose(found, (theta - gradient * 0.5).numpy(), atol=1e-6)


def test_what_the_server_keeps_goes_from_round_to_round(small_task, hospitals):
    task, means = small_task(algorithm={"name": "fedavgm", "lr": 0.5, "momentum": 0.5}), []
    models = train_in_process(task, hospitals, on_round=lambda i, theta, mean: means.append(mean))
    theta, velocity = initial_theta(task), np.float32(0)
    for mean, model in zip(means, models, strict=True):
        velocity = velocity * np.float32(0.5) + mean.vector
        theta = theta + velocity * np.float32(0.5)
        np.testing.assert_allclose(model, theta, atol=1e-6)


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "fedavg"},
        pytest.param({"name": "fedavgm", "momentum": 0.5}, marks=pytest.mark.slow),
        pytest.param({"name": "fedprox", "mu": 0.1}, marks=pytest.mark.slow),
        pytest.param({"name": "fedadagrad"}, marks=pytest.mark.slow),
        pytest.param({"name": "fedyogi"}, marks=pytest.mark.slow),
        {"name": "fedadam"},
        {"name": "fedsgd", "lr": 0.5},
    ],
    ids=lambda found: found["name"],
)
def test_every_algorithm_learns(small_task, hospitals, algorithm):
    by_server = {"training": {"loss": "cross_entropy"}} if algorithm["name"] == "fedsgd" else {}
    task = small_task(algorithm=algorithm, rounds={"count": 8}, **by_server)
    models = train_in_process(task, hospitals)
    before = loss_of(task, initial_theta(task), hospitals)
    assert loss_of(task, models[-1], hospitals) < 0.8 * before


def test_batch_statistics_are_averaged_whatever_the_algorithm(small_task, hospitals):
    normed = {
        "layers": [
            {"kind": "batch_norm", "channels": 4},
            {"kind": "linear", "inputs": 4, "outputs": 3},
        ]
    }
    ways = [{"name": "fedadam", "lr": 0.01}, {"name": "fedavg"}]
    adam, plain = (small_task(model=normed, algorithm=a, rounds={"count": 1}) for a in ways)
    trained = FlatModel(adam).trained
    one, other = (train_in_process(task, hospitals)[0] for task in (adam, plain))
    assert np.array_equal(one[trained:], other[trained:])
    assert not np.array_equal(one[:trained], other[:trained])
    assert np.abs(one[trained:] - initial_theta(adam)[trained:]).max() > 0


def test_a_masked_session_over_the_same_contributions_gives_the_same_bits(small_task, phones):
    cohort = {"goal": 10, "minimum": 8}
    task = small_task(cohort=cohort, secure_aggregation=SECURE, rounds={"count": 1})
    theta = initial_theta(task)
    blocks = [
        Contributor(task).contribute(
            TrainingRequest(task=task, theta=theta, dataset=data, round=0, stream=stream_of(name))
        )
        for name, data in phones.items()
    ]
    opened = run_session(blocks, config=task.session_config())
    mean = UpdateLayout.of(task).mean(opened.totals, len(opened.survivors))
    algorithm = algorithm_of(task)
    found, _ = algorithm.apply(theta, mean, algorithm.start(), round=0)
    assert found.tobytes() == train_in_process(task, phones)[0].tobytes()


def private(small_task, noise, rounds=2, **changed):
    privacy = {
        "unit": "client",
        "epsilon": 50.0,
        "delta": 1e-2,
        "population": 10,
        "clipping_norm": 1.0,
        "noise": noise,
        "maximum_participations": rounds,
    }
    return small_task(
        privacy=privacy | changed,
        cohort={"goal": 10, "minimum": 8},
        secure_aggregation={"profile": "off"} if noise == "central" else SECURE,
        rounds={"count": rounds},
    )


@pytest.fixture(scope="module")
def phones(hospitals):
    """Ten clients with a few examples each."""
    rows = {name: np.arange(6) for name in hospitals}
    found = {f"{name}-{i}": hospitals[name][rows[name] + 6 * i] for name in rows for i in range(3)}
    return dict(list(found.items())[:10])


@pytest.mark.parametrize("noise", ["central", "shares", "compact"])
def test_clients_are_protected_by_every_kind_of_noise(small_task, phones, tmp_path, noise):
    task = private(small_task, noise)
    models = train_in_process(task, phones, ledger=tmp_path / "ledger")
    assert len(models) == 2 and all(np.isfinite(model).all() for model in models)
    again = train_in_process(task, phones, ledger=tmp_path / "other")
    assert not np.array_equal(models[0], again[0])
    # However large the noise, it stays in proportion to the plan's.
    away = np.linalg.norm(models[0] - initial_theta(task))
    deviation = float(task.plan.noise_multiplier) * 1.0 / task.plan.denominator
    assert away < 1.5 + 10 * deviation * np.sqrt(task.dimension)


class Spy:
    """Trains as the built-in program does, and keeps what clipping has come to by round."""

    def __init__(self):
        self.program, self.seen = LocalTraining(), []

    def train(self, request):
        self.seen.append(request.clipping)
        return self.program.train(request)


def test_each_round_clips_by_what_came_of_the_last_release(small_task, phones, tmp_path):
    terms = {"clipping": "adaptive", "clipping_norm": 50, "denominator": 40}
    task, states = private(small_task, "central", rounds=3, **terms), []
    spies = {name: {"local": Spy()} for name in phones}
    train_in_process(
        task,
        phones,
        ledger=tmp_path / "ledger",
        programs=spies,
        entropy=SeededEntropy(bytes(32)),
        on_round=lambda i, theta, mean: states.append(mean.clipping),
    )
    start = task.plan.clipping.start(
        noise_multiplier=task.plan.noise_multiplier, grid_steps=task.plan.grid
    )
    wanted = [encode_clipping(state) for state in (start, *states[:-1])]
    assert all(own["local"].seen == wanted for own in spies.values())
    norms = [float(state.norm) for state in states]
    assert norms == sorted(norms, reverse=True) and norms[0] < 50  # no update is so long


def test_privacy_without_a_ledger_is_refused(small_task, phones):
    with pytest.raises(PlanError, match="ledger"):
        train_in_process(private(small_task, "central"), phones)


def test_a_server_applies_nothing_that_was_not_released(small_task, phones, tmp_path):
    task, plain = private(small_task, "central"), small_task()
    theta = initial_theta(task)
    exact = Mean(np.zeros_like(theta), 1.0, 1, {})
    algorithm = algorithm_of(task)
    with pytest.raises(PlanError, match="a Mean is to move the model"):
        algorithm.apply(theta, exact, algorithm.start(), round=0)
    with pytest.raises(PlanError, match="weights and losses"):
        UpdateLayout.of(task)
    means = []
    train_in_process(
        task,
        phones,
        rounds=1,
        ledger=tmp_path / "ledger",
        on_round=lambda i, theta, mean: means.append(mean),
    )
    other = algorithm_of(plain)
    with pytest.raises(PlanError, match="without privacy"):
        other.apply(theta, means[0], other.start(), round=0)


def test_a_server_refuses_models_means_and_states_of_other_tasks(small_task):
    task = small_task(algorithm={"name": "fedadam"})
    algorithm = algorithm_of(task)
    theta, state = initial_theta(task), algorithm.start()
    mean = Mean(np.zeros_like(theta), 1.0, 1, {})
    wrong = [
        (theta[1:], mean, state),
        (theta.astype(np.float64), mean, state),
        (theta, Mean(np.zeros(3, np.float32), 1.0, 1, {}), state),
        (theta, mean, {}),
        (theta, mean, {"first": state["first"]}),
        (theta, mean, {name: value[1:] for name, value in state.items()}),
        (theta, mean, state | {"third": theta}),
    ]
    for given in wrong:
        with pytest.raises(UpdateError, match="fedadam"):
            algorithm.apply(*given, round=0)
    infinite = Mean(np.full_like(theta, 3e38), 1.0, 1, {})
    plain = algorithm_of(small_task())
    with pytest.raises(DivergenceError, match="round 8"):
        plain.apply(np.full_like(theta, 3e38), infinite, {}, round=7)


def test_the_servers_rate_follows_the_schedule_under_fedsgd(small_task):
    training = {"loss": "cross_entropy", "schedule": {"name": "step", "every": 1, "factor": 0.5}}
    task = small_task(algorithm={"name": "fedsgd", "lr": 1.0}, training=training)
    algorithm, theta = algorithm_of(task), initial_theta(task)
    mean = Mean(np.ones_like(theta), 1.0, 1, {})
    moved = [algorithm.apply(theta, mean, algorithm.start(), round=r)[0] - theta for r in range(3)]
    np.testing.assert_allclose([step.mean() for step in moved], [1.0, 0.5, 0.25], rtol=1e-6)


def test_layers_without_a_loss_are_trained_by_a_program_of_the_owner(small_task, small_data):
    class Towards:
        def train(self, request):
            return TrainingResult(np.ones_like(request.theta) - request.theta, 10)

    task = small_task(training={"program": "own"}, rounds={"count": 1})
    clients = {name: small_data for name in ("a", "b")}
    programs = {name: {"own": Towards()} for name in clients}
    [theta] = train_in_process(task, clients, programs=programs)
    np.testing.assert_allclose(theta, 1.0, rtol=1e-6)
    with pytest.raises(ProgramError, match="names no loss"):
        _ = FlatModel(task).loss
