"""The tasks are the very ones that the peers run: same data, same clients, same work."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import tasks
from benchmarks.peers import DEFAULT_SCRIPTS
from benchmarks.tasks import TASKS


@pytest.fixture(scope="module")
def common() -> ModuleType:
    """The peers' own definition of the task."""
    path = DEFAULT_SCRIPTS / "common.py"
    if not path.is_file():
        pytest.skip(f"the peers' scripts are not in {DEFAULT_SCRIPTS}")
    spec = importlib.util.spec_from_file_location("peers_common", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


@pytest.mark.parametrize(
    ("name", "parameters", "flops_per_sample"),
    [("A", 169_462, 701_600), ("B", 1_690_046, 72_544_256), ("C", 49_918, 1_872_192)],
)
def test_sizes_and_work_follow_from_the_layers(
    name: str, parameters: int, flops_per_sample: int
) -> None:
    task = TASKS[name]
    assert (task.parameters, task.flops_per_sample) == (parameters, flops_per_sample)
    assert task.flops_per_client == 60 * flops_per_sample


def test_the_counts_are_those_of_the_peers(common: ModuleType) -> None:
    for name, task in TASKS.items():
        assert task.parameters == common.N_PARAMS[name]
        assert task.flops_per_client == common.FLOPS_PER_CLIENT[name]
    ours = (tasks.CLIENTS, tasks.SAMPLES, tasks.CLASSES, tasks.COHORT, tasks.BATCH)
    theirs = (common.N_CLIENTS, common.N_PER, common.N_CLASSES, common.COHORT, common.BATCH)
    assert (*ours, tasks.LEARNING_RATE, tasks.WARM_UP_ROUNDS) == (*theirs, common.LR, common.WARMUP)


def test_cohorts_are_those_of_the_peers(common: ModuleType) -> None:
    for r in range(12):
        np.testing.assert_array_equal(tasks.cohort(r), common.cohort(r))


def test_a_cohort_has_fifty_different_clients_and_repeats() -> None:
    clients = tasks.cohort(3)
    assert len(set(clients.tolist())) == 50
    assert clients.min() >= 0 and clients.max() < 1000
    np.testing.assert_array_equal(clients, tasks.cohort(3))
    assert not np.array_equal(clients, tasks.cohort(4))


@pytest.mark.parametrize(
    ("clients", "expected"),
    [
        (10, "328c8e989ebc04f4894194861b5e571d858ba4f820d2cb924bc6c51b8a164b80"),
        pytest.param(
            tasks.CLIENTS,
            "cb00eb6f37e5534c74d1859e5d47a88e8315da2624ea6dfa78bd4f5efeaff00c",
            marks=pytest.mark.slow,  # draws 188 MB
        ),
    ],
)
def test_the_data_is_always_the_same(
    clients: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "CLIENTS", clients)
    data = tasks.population()
    assert data.x.shape == (clients, 60, 28, 28, 1) and data.x.dtype == np.float32
    assert data.y.shape == (clients, 60) and data.y.dtype == np.int64
    assert data.x_test.shape == (2000, 28, 28, 1) and data.y_test.shape == (2000,)
    digest = hashlib.sha256()
    for part in (data.x[0], data.x[-1], data.y, data.x_test, data.y_test):
        digest.update(np.ascontiguousarray(part).tobytes())
    assert digest.hexdigest() == expected


@pytest.mark.slow
def test_the_data_is_that_of_the_peers(common: ModuleType, tmp_path: Path) -> None:
    common.generate(tmp_path)
    data = tasks.population()
    for name, ours in (("X", data.x), ("y", data.y), ("Xt", data.x_test), ("yt", data.y_test)):
        np.testing.assert_array_equal(ours, np.load(tmp_path / f"{name}.npy"))


def test_the_peers_are_run_at_their_best_settings() -> None:
    jax, torch = tasks.training_commands(TASKS["B"], processes=2)
    assert (jax.venv, jax.script) == ("jax", "jax_peer.py")
    assert " ".join(jax.arguments) == "--model B --rounds 3 --chunk 1 --conv im2col --devices 2"
    assert (torch.venv, torch.script) == ("torch", "torch_mp.py")
    assert " ".join(torch.arguments) == "--model B --rounds 3 --procs 2 --threads 1"


def test_the_peers_scripts_named_exist(common: ModuleType) -> None:
    del common
    for task in TASKS.values():
        for peer in tasks.training_commands(task) + tasks.dp_commands(task):
            assert (DEFAULT_SCRIPTS / peer.script).is_file(), peer.name
