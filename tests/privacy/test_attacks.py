"""What a release tells an attacker who knows all but one client: nothing that noise should hide.

Each attack is mounted as its authors did, against the way that it breaks and then against ours.
X-numbers are those of the requirements in the design of this package.
"""

from __future__ import annotations

import ast
import os
import random
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.errors import PlanError
from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import (
    CentralMechanism,
    PrivateMean,
    ShareAdder,
    SharedMechanism,
    read_release,
)
from fedcore.privacy.noise import NoiseShares, SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.simulated import SimulatedMechanism
from fedcore.privacy.values import NoisySum
from tests.privacy import attacks_rounds as rounds
from tests.privacy.attacks_rounds import KEY, has_variance, integers_of, is_uniform, watched
from tests.privacy.releases import opened


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


GRID_SQUARED = rounds.GRID**2


# Low bits (X13)


def share_below(values: NDArray[np.float64]) -> float:
    """The share of small values that have bits below 2^-54: what adding 1 rounds away."""
    small = values[np.abs(values) < 0.25] * 2.0**54
    return float((small != np.trunc(small)).mean())


def released_central(bit: int, folder: Path) -> tuple[PrivacyPlan, NDArray[np.float32]]:
    plan = watched(dimension=200_000)
    update = rounds.update_of(plan, np.full(plan.dimension, bit / np.sqrt(plan.dimension)))
    return plan, rounds.release(plan, folder, [update]).vector


def released_shared(bit: int, folder: Path) -> tuple[PrivacyPlan, NDArray[np.float32]]:
    plan = watched(dimension=200_000, noise=NoiseShares(clients=4, survivors=4, corrupt=0))
    update = rounds.update_of(plan, np.full(plan.dimension, bit / np.sqrt(plan.dimension)))
    others = [rounds.sum_of(plan, found) for found in ([update], [], [], [])]
    total: Any = sum(ShareAdder(plan).add(found) for found in others)
    with Ledger.create(folder, plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        mean = opened(SharedMechanism(plan), NoisySum(total, shares=4), reservation)
        return plan, mean.vector


def test_float_noise_is_told_apart_by_low_bits() -> None:
    """Mironov 2012; here of 0 + noise and 1 + noise, without knowing the noise."""
    noise = np.random.default_rng(0).standard_normal((2, 100_000))
    assert share_below(0 + noise[0]) > 0.6 and share_below(1 + noise[1]) == 0


@pytest.mark.parametrize("released", [released_central, released_shared])
def test_released_values_have_the_same_low_bits_whatever_went_in(
    tmp_path: Path, released: Callable[[int, Path], tuple[PrivacyPlan, NDArray[np.float32]]]
) -> None:
    low = []
    for bit in (0, 1):
        plan, vector = released(bit, tmp_path / str(bit))
        assert share_below(vector.astype(np.float64)) == 0
        whole = integers_of(plan, vector)  # all are multiples of C / (S m)
        assert is_uniform(whole & 1, 2) and is_uniform(whole & 1023, 1024)
        low.append(whole & 1023)
        # One support: both reach far to either side, and neither leaves a residue out.
        assert whole.max() > 3 * plan.grid and whole.min() < -3 * plan.grid
        assert len(np.unique(low[-1])) == 1024
    assert is_uniform((low[0] - low[1]) % 1024, 1024)


# Differencing two runs that differ in one client (X8)


def released_by(
    plan: PrivacyPlan, folder: Path, updates: list[NDArray[np.float64]]
) -> NDArray[np.int64]:
    found = [rounds.update_of(plan, update) for update in updates]
    return integers_of(plan, rounds.release(plan, folder, found).vector)


def unit_vectors(count: int, dimension: int) -> list[NDArray[np.float64]]:
    found = np.random.default_rng(3).standard_normal((count, dimension))
    return list(found / np.linalg.norm(found, axis=1, keepdims=True))


def test_a_seeded_generator_gives_a_client_away_exactly() -> None:
    first, second, victim = unit_vectors(3, 20_000)

    def seeded_run(updates: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        np.random.seed(7)
        mean: NDArray[np.float64] = sum(updates) / 16 + np.random.normal(0, 1 / 16, 20_000)
        return mean

    state = np.random.get_state()
    try:
        difference = seeded_run([first, second, victim]) - seeded_run([first, second])
    finally:
        np.random.set_state(state)
    assert np.abs(difference * 16 - victim).max() < 1e-13


@pytest.mark.usefixtures("coarse_losses")
def test_noise_of_a_known_seed_gives_a_client_away_and_never_passes_for_private(
    tmp_path: Path,
) -> None:
    """Simulated noise is the faulty way on purpose; its type, its payload and its report say so."""
    plan = watched(noise=SimulatedNoise(seed=7), dimension=64)
    *others, victim = [rounds.update_of(plan, one) for one in unit_vectors(3, 64)]
    found = []
    for name, updates in (("with", [*others, victim]), ("without", others)):
        with Ledger.create(tmp_path / name, plan, participation_key=KEY) as ledger:
            reservation = ledger.reserve(0)
            rounds.admit(reservation)
            mean: Any = SimulatedMechanism(plan).release(rounds.sum_of(plan, updates), reservation)
            found.append(mean.vector.astype(np.float64) * plan.grid * plan.denominator)
            assert format_certificate(certificate(ledger)).startswith("NOT PRIVATE")
            payload = ledger.released(0)
        assert not isinstance(mean, PrivateMean) and payload is not None
        with pytest.raises(PlanError):
            read_release(plan, payload)
    assert np.abs(found[0] - found[1] - victim.vector).max() < 1e-5 * plan.grid
    with pytest.raises(PlanError):
        CentralMechanism(plan)


def test_two_runs_that_differ_in_one_client_differ_by_twice_the_noise(tmp_path: Path) -> None:
    plan = watched()
    *others, victim = unit_vectors(3, plan.dimension)
    whole = released_by(plan, tmp_path / "with", [*others, victim])
    less = released_by(plan, tmp_path / "without", others)
    exact = rounds.update_of(plan, victim).vector
    noise = whole - less - exact
    assert has_variance(noise, 2 * plan.variance)
    # Nor does what the attacker guesses as the update: the noise has no direction of it.
    shadow = float(noise @ victim)
    assert abs(shadow) < 5 * float(2 * plan.variance) ** 0.5
    assert not has_variance(np.zeros(plan.dimension), 2 * plan.variance)  # the faulty way


def test_a_forked_process_adds_other_noise_than_its_parent() -> None:
    plan = watched(noise=NoiseShares(clients=4, survivors=4, corrupt=0))
    local, silent = plan.variance / 4, rounds.sum_of(plan, [])
    adder = ShareAdder(plan)
    adder.add(silent)  # the key is there before the fork
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(adder.add(silent).tobytes())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        of_child = np.frombuffer(pipe.read(), np.int64)
    assert os.waitpid(child, 0)[1] == 0
    of_parent = adder.add(silent)
    assert has_variance(of_child, local) and has_variance(of_parent, local)
    assert has_variance(of_parent - of_child, 2 * local)
    assert has_variance(of_parent + of_child, 2 * local)


def test_two_threads_never_add_the_same_noise() -> None:
    """One adder in both, as a server with workers would hold it."""
    plan = watched(noise=NoiseShares(clients=4, survivors=4, corrupt=0))
    local, silent = plan.variance / 4, rounds.sum_of(plan, [])
    adder, ready = ShareAdder(plan), threading.Barrier(2)
    found: list[list[NDArray[np.int64]]] = [[], []]
    raised: list[BaseException] = []

    def work(own: list[NDArray[np.int64]]) -> None:
        try:
            ready.wait(timeout=30)
            own.extend(adder.add(silent) for _ in range(10))
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    draws = found[0] + found[1]
    assert not raised and len(draws) == 20
    pairs = list(combinations(range(20), 2))
    for i, j in pairs:
        difference = (draws[i] - draws[j]).astype(np.float64)
        ratio = float(difference @ difference) / float(2 * local) / difference.size
        assert has_variance(difference, 2 * local, looks=len(pairs)), (i, j, ratio)
    words = np.concatenate(draws).reshape(-1, 8)
    assert len(np.unique(words, axis=0)) == len(words)  # no run of a stream comes back


# Guessing the seed (X8, X14, X24)


def test_a_seed_from_the_clock_is_found_and_its_noise_subtracted() -> None:
    """The window is one second in microseconds; a server that is asked for its time tells more."""
    started = 1_700_000_000_000_000
    secret, update = started + 31_337, np.full(8, 0.1)
    released = update + np.random.Generator(np.random.SFC64(secret)).standard_normal(8)

    def leftover(seed: int) -> float:
        noise = np.random.Generator(np.random.SFC64(seed)).standard_normal(8)
        return float(np.ptp(released - noise))

    candidates = range(secret - 500, secret + 500)  # a thousandth of it, to keep the test short
    found = min(candidates, key=leftover)
    assert found == secret and leftover(found) < 1e-12


def test_no_state_of_the_noise_follows_from_time_process_or_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("time", "monotonic", "perf_counter", "process_time"):
        monkeypatch.setattr(time, name, lambda: 1.7e9)
        monkeypatch.setattr(time, f"{name}_ns", lambda: 17 * 10**17)
    monkeypatch.setattr(os, "getpid", lambda: 4242)
    kept, kept_python = np.random.get_state(), random.getstate()
    runs = []
    try:
        for _ in range(2):
            np.random.seed(0)
            random.seed(0)
            runs.append(rounded_gaussian(Fraction(GRID_SQUARED), 20_000, stream=Stream()))
        seeded = np.rint(np.random.RandomState(0).normal(0, rounds.GRID, 20_000))
    finally:
        np.random.set_state(kept)
        random.setstate(kept_python)
    for one, other in ((runs[0], runs[1]), (runs[0], seeded)):
        assert has_variance(one - other, 2 * GRID_SQUARED)


def test_no_module_that_protects_imports_another_generator(root: Path) -> None:
    """X24. The clock and the process are no entropy, and frameworks' generators have a seed."""
    forbidden = {"random", "time", "uuid", "torch", "cupy", "tensorflow", "jax", "datetime"}
    seeded = {"simulated.py"}  # NOT PRIVATE, and says so
    found = []
    sources = [*(root / "fedcore/privacy").glob("*.py"), root / "fedcore/entropy.py"]
    assert len(sources) > 30
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.Attribute) and node.attr == "random":
                names = ["random"]  # np.random
            if forbidden & set(names) and path.name not in seeded:
                found.append(f"{path.name}:{node.lineno}")  # type: ignore[attr-defined]
    assert not found
