"""What hostile, faulty and missing clients change: their own bounded contribution, nothing else.

Weights, drop-outs, values that are no numbers, and lies; the last is not stopped under masks, which
is said where users read it and held fast here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    DtypeError,
    NormError,
    PlanError,
    ReservationError,
    ShapeError,
    SurvivorsError,
)
from fedcore.privacy.audit import Outcome, Trace, hostile_updates, replay
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import CentralMechanism, ShareAdder, SharedMechanism
from fedcore.privacy.noise import NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.session import run_session
from tests.privacy import attacks_rounds as rounds, plans
from tests.privacy.attacks_rounds import KEY, has_variance, integers_of, watched
from tests.privacy.releases import opened

FROZEN = b"frozen noise"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def squared(vector: NDArray[np.int64]) -> int:
    return sum(value * value for value in vector.tolist())


def frozen_round(plan: PrivacyPlan, folder: Path, updates: list[IntUpdate]) -> tuple[Any, float]:
    """The release with noise that is the same each time, and what the ledger has spent then."""
    with Ledger.create(folder, plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
        mean = mechanism.release(rounds.sum_of(plan, updates), reservation)
        return integers_of(plan, mean.vector), ledger.epsilon()


# Weights (X3)


def test_averaging_by_examples_lets_one_client_outweigh_the_noise() -> None:
    """Flower: noise of z C / n beside a mean by `num_examples`, of which one client claims most."""
    updates, claimed = np.zeros((10, 2)), np.array([10.0] * 9 + [1e9])
    updates[9] = [1.0, 0.0]  # clipped to C = 1, as all others
    mean = np.average(updates, axis=0, weights=claimed)
    noise = 1.0 / 10
    assert noise / np.linalg.norm(mean) < 0.11  # the multiplier was to be 1


@pytest.mark.parametrize("claimed", [10**9, np.int64(10**9), 2**63, 10**30])
def test_a_client_that_claims_a_billion_examples_counts_like_the_largest(
    tmp_path: Path, claimed: Any
) -> None:
    plan = watched(dimension=4, largest_weight=100)
    assert plan.weight(claimed) == 1 == plan.weight(100)
    liar = rounds.update_of(plan, np.full(4, 1e9), plan.weight(claimed))
    assert squared(liar.vector) <= plan.grid**2
    others = [rounds.update_of(plan, np.ones(4), plan.weight(10)) for _ in range(3)]
    attacked, spent = frozen_round(plan, tmp_path / "with", [*others, liar])
    honest, as_much = frozen_round(plan, tmp_path / "without", others)
    assert squared(attacked - honest) <= plan.grid**2 and spent == as_much


@pytest.mark.parametrize(
    "claimed", [-1, -(10**9), math.nan, math.inf, 1e9, "9", None, np.array([1, 2])]
)
def test_what_is_no_number_of_examples_weighs_nothing(claimed: Any) -> None:
    plan = watched(dimension=4, largest_weight=100)
    with pytest.raises(PlanError):
        plan.weight(claimed)


@pytest.mark.parametrize("weight", [2, Fraction(101, 100), -1, math.nan, 0.5])
def test_no_weight_beyond_the_clipping_norm_gets_past_quantising(weight: Any) -> None:
    with pytest.raises(PlanError):
        rounds.update_of(watched(dimension=4), np.ones(4), weight)


def test_without_a_declared_bound_there_are_no_weights() -> None:
    with pytest.raises(PlanError):
        watched().weight(1)


# Drop-outs (X4, X15)


def test_dividing_by_who_replied_weakens_the_noise() -> None:
    """Flower again: noise for ten clients, a mean over the seven that replied."""

    def cost(z: Fraction) -> float:
        plan = plans.client(noise_multiplier=z, delta=1e-5)
        return epsilon(compose({plan.event: 100}, plan.adjacency), 1e-5)[0]

    assert cost(Fraction(7, 10)) > 1.5 * cost(Fraction(1))


def test_missing_clients_change_neither_denominator_nor_noise_nor_cost(tmp_path: Path) -> None:
    plan = watched()
    random = np.random.default_rng(2)
    updates = [rounds.update_of(plan, random.standard_normal(plan.dimension)) for _ in range(10)]
    whole, spent = frozen_round(plan, tmp_path / "all", updates)
    rest, as_much = frozen_round(plan, tmp_path / "some", updates[:7])
    nobody, nothing = frozen_round(plan, tmp_path / "none", [])
    assert spent == as_much == nothing > 0
    missing = sum((update.vector for update in updates[7:]), np.zeros(plan.dimension, np.int64))
    assert np.array_equal(whole - rest, missing)
    assert has_variance(nobody, plan.variance)  # of an empty round too
    # Over the seven that came, decoded, the noise would be another one.
    assert not has_variance(nobody * 7 / 10, plan.variance)


def noisy_sum(plan: PrivacyPlan, clients: int) -> NDArray[np.int64]:
    silent = rounds.sum_of(plan, [])
    total: Any = sum(ShareAdder(plan).add(silent) for _ in range(clients))
    return np.asarray(total, np.int64)


def test_shares_that_were_made_for_all_clients_fall_short_when_some_are_lost() -> None:
    """The distributed mechanisms that assume no drop-outs: 30 % lost, 30 % of the noise lost."""
    plan = watched(noise=NoiseShares(clients=10, survivors=10, corrupt=0))
    assert has_variance(noisy_sum(plan, 10), plan.variance)
    found = noisy_sum(plan, 7)
    assert not has_variance(found, plan.variance)
    assert has_variance(found, plan.variance * 7 / 10)


def test_planned_shares_suffice_for_the_fewest_survivors(tmp_path: Path) -> None:
    plan = watched(noise=NoiseShares(clients=10, survivors=7, corrupt=0))
    total = noisy_sum(plan, 7)
    assert has_variance(total, plan.variance)
    with Ledger.create(tmp_path / "ledger", plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        mean = opened(SharedMechanism(plan), NoisySum(total, shares=7), reservation)
        added = integers_of(plan, mean.vector) - total  # by the server, for the three others
        assert has_variance(added, plan.variance * 3 / 7)
        spent = ledger.epsilon()
    with Ledger.create(tmp_path / "more", plan, participation_key=KEY) as ledger:
        ledger.reserve(0)
        assert ledger.epsilon() == spent  # settled before anybody was lost


@pytest.mark.parametrize("survivors", [1, 6])
def test_fewer_survivors_than_planned_are_refused_and_stay_charged(
    tmp_path: Path, survivors: int
) -> None:
    plan = watched(noise=NoiseShares(clients=10, survivors=7, corrupt=0))
    with Ledger.create(tmp_path / "ledger", plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        with pytest.raises(SurvivorsError):
            seen = NoisySum(noisy_sum(plan, survivors), shares=survivors)
            opened(SharedMechanism(plan), seen, reservation)
        with pytest.raises(ReservationError):
            reservation.void("nothing came of it")
        assert ledger.spent == {plan.event: 1} and ledger.released(0) is None


# Values that are no numbers (X7)


def test_the_usual_clip_lets_what_is_no_number_through() -> None:
    """`min(1, C / norm)` is 1 for NaN, divides by zero for zeros, and gives NaN for infinity."""

    def clip(update: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            factor = min(1.0, float(1.0 / np.linalg.norm(update)))
            return update * factor

    assert np.isnan(clip(np.array([np.nan, 1.0]))).any()
    assert np.isnan(clip(np.array([np.inf, 1.0]))).any()
    assert not clip(np.zeros(2)).any() and clip(np.ones(2)).any()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_what_has_no_length_is_a_contribution_of_zeros_to_the_last_byte(
    tmp_path: Path, value: float
) -> None:
    """The whole folder of the ledger, payload included, is that of a client that sent nothing."""
    plan = plans.client(grid_steps=rounds.GRID, denominator=32)
    honest: list[Any] = []
    found: list[Any] = []
    for name, update in (("zeros", np.zeros(6)), ("hostile", np.full(6, value))):
        others = [rounds.update_of(plan, np.arange(6.0)) for _ in range(2)]
        with Ledger.create(tmp_path / name, plan) as ledger:
            reservation = ledger.reserve(0)
            cohort = reservation.select(entropy=SeededEntropy(b"cohort"))
            mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
            total = rounds.sum_of(plan, [*others, rounds.update_of(plan, update)])
            mean = mechanism.release(total, reservation)
            (honest if name == "zeros" else found).append((cohort.tolist(), mean.receipt))
    assert honest == found
    assert files_of(tmp_path / "zeros") == files_of(tmp_path / "hostile")


def test_whatever_a_client_holds_the_round_runs_on_and_writes_the_same(tmp_path: Path) -> None:
    """Each of four clients in turn holds all that ever broke a round, or is not there at all."""
    plan = plans.client(grid_steps=rounds.GRID)
    assert {"NaN", "infinity", "1e300 in each coordinate"} <= hostile_updates(6).keys()
    number = iter(range(10_000))

    def contribution(update: NDArray[Any]) -> list[IntUpdate]:
        try:
            cut = rounds.update_of(plan, update)
        except (DtypeError, ShapeError):
            return []  # raised on the client's own device, which then does not reply
        return [cut] if cut.vector.size == plan.dimension else []  # as whoever receives it asks

    def run(updates: Sequence[NDArray[Any]]) -> Trace:
        total = rounds.sum_of(plan, [cut for update in updates for cut in contribution(update)])
        folder = tmp_path / str(next(number))
        with Ledger.create(folder, plan) as ledger:
            reservation = ledger.reserve(0)
            reservation.select(entropy=SeededEntropy(b"cohort"))
            mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
            receipt = mechanism.release(total, reservation).receipt
            cost = repr(ledger.epsilon())
        # Without its chain, and the digest of what the noise covers.
        records = tuple(
            line.rsplit(b" ", 1)[0].replace(receipt.sha256.encode(), b"")
            for line in (folder / "privacy.ledger").read_bytes().splitlines()
        )
        assert len(records) == 3
        return Trace(total.vector, messages=(cost.encode(),), records=records)

    updates = list(np.random.default_rng(0).standard_normal((4, 6)))
    found = replay(run, updates, squared_sensitivity=plan.squared_sensitivity)
    assert found.verdict.outcome is Outcome.PASSED, found.violations


# Lies


def secure_sum(plan: PrivacyPlan, lie: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Any:
    """Five clients under secure aggregation; the last sends what `lie` makes of its report."""
    silent = rounds.sum_of(plan, [])
    reports = [ShareAdder(plan).add(silent) for _ in range(5)]
    reports[4] = lie(reports[4])
    layout = Layout((Block(plan.dimension, 32, 2**20, wraps=True),))
    config = SessionConfig(task=plan.digest, layout=layout, delta=Fraction(1, 4))
    return run_session(reports, config=config, entropy=SeededEntropy(b"session")).totals[0]


def test_a_client_that_sends_ten_norms_under_masks_is_not_stopped(
    tmp_path: Path, root: Path
) -> None:
    """A fact and not a promise: whoever sees sums alone cannot check a norm. The guide says so."""
    plan = watched(dimension=64, noise=NoiseShares(clients=5, survivors=4, corrupt=0))
    ten = np.rint(rounds.first_coordinate(plan, 10.0) * plan.grid).astype(np.int64)
    total = secure_sum(plan, lambda report: report + ten)
    with Ledger.create(tmp_path / "ledger", plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        mean = opened(SharedMechanism(plan), NoisySum(total, shares=5), reservation)
    noise = float(plan.noise_multiplier) * math.sqrt(5 / 4) / plan.denominator
    assert abs(mean.vector[0] * plan.denominator - 10) < 6 * noise * plan.denominator
    assert mean.vector[0] > 3 / plan.denominator > np.abs(mean.vector[1:]).max() / 2
    guide = " ".join((root / "docs/privacy.md").read_text("utf-8").split())
    assert "**Malicious clients under masks.** A server that sees only sums cannot check" in guide


def test_a_client_that_overflows_under_masks_spoils_its_coordinate_and_no_other() -> None:
    plan = watched(dimension=64, noise=NoiseShares(clients=5, survivors=4, corrupt=0))
    largest = rounds.first_coordinate(plan, 1.0).astype(np.int64) * (2**31 - 1)
    total = secure_sum(plan, lambda report: largest)
    assert abs(total[0]) > 2**30  # far beyond five norms, or wrapped round to the other side
    assert np.abs(total[1:]).max() < 7 * plan.grid


@pytest.mark.parametrize("factor", [1.001, 10, 2**30])
def test_on_the_trusted_path_the_same_lie_is_refused(factor: float) -> None:
    plan = watched(dimension=4)
    lie = np.rint(rounds.first_coordinate(plan, factor) * plan.grid).astype(np.int64)
    with pytest.raises(NormError):
        IntUpdate(lie, plan.grid)
    with pytest.raises(NormError):  # nor does it pass with a bound of its own
        honest = IntUpdate(lie, math.isqrt(squared(lie)) + 1)
        IntSum.of([honest], dimension=4, grid_steps=plan.grid)


@pytest.mark.parametrize("value", [2**31, 2**32, 2**62, 2**63 - 1, -(2**63)])
def test_no_square_overflows_past_the_check_of_the_norm(value: int) -> None:
    """In int64 these squares are 0, or add up to it; the norm is an integer of Python's."""
    with pytest.raises(NormError):
        IntUpdate(np.array([value, 0, 0, 0], np.int64), rounds.GRID)
    with pytest.raises(NormError):
        IntUpdate(np.full(4, value, np.int64), rounds.GRID)


def test_a_checked_update_cannot_be_changed_afterwards() -> None:
    vector = np.array([1, 2, 3, 4])
    update = IntUpdate(vector, rounds.GRID)
    vector[0] = 2**40
    assert update.vector.tolist() == [1, 2, 3, 4]
    window = np.zeros(8, np.int64)
    update = IntUpdate(window[:4], rounds.GRID)
    window[0] = 2**40
    assert not update.vector.any()
