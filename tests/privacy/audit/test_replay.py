"""The replay passes a round of the package's own parts, and fails each defect that others had."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError, DtypeError, FedcoreError, ShapeError
from fedcore.privacy import (
    Adaptive,
    Adjacency,
    CentralMechanism,
    CentralNoise,
    FixedSize,
    Flat,
    IntSum,
    IntUpdate,
    Ledger,
    PerLayer,
    Poisson,
    PrivacyPlan,
    Unit,
    quantise,
)
from fedcore.privacy.audit import Outcome, Round, Trace, hostile_updates, replay
from tests.variants import mostly_slow

DIMENSION, GRID = 40, 2**20
Updates = Sequence[NDArray[Any]]
UPDATES = [np.random.default_rng(seed).normal(size=DIMENSION) for seed in range(3)]


def plan_of(**changes: Any) -> PrivacyPlan:
    terms: dict[str, Any] = {
        "unit": Unit.CLIENT,
        "adjacency": Adjacency.ADD_REMOVE,
        "population": 100,
        "sampling": Poisson(2**31),
        "clipping": Flat(1),
        "noise": CentralNoise(),
        "noise_multiplier": Fraction(3, 2),
        "denominator": 50,
        "dimension": DIMENSION,
        "rounds": 3,
        "epsilon": 100.0,
        "grid_steps": GRID,
    }
    return PrivacyPlan(**terms | changes)


def zeros(dimension: int = DIMENSION, bound: int = GRID) -> IntSum:
    return IntSum.of([], dimension=dimension, grid_steps=bound)


def tolerant(updates: Updates, quantised: Callable[[NDArray[Any]], IntUpdate]) -> list[IntUpdate]:
    """What a server keeps: a client that sends no update at all contributes nothing."""
    kept = []
    for update in updates:
        try:
            kept.append(quantised(update))
        except FedcoreError:
            continue
    return [update for update in kept if update.vector.size == DIMENSION]


def central(plan: PrivacyPlan) -> Round:
    """A round of ledger and mechanism, from reservation to release; of zeros, which freezes it."""

    def run(updates: Updates, /) -> Trace:
        kept = tolerant(
            updates, lambda u: quantise(u, clipping=plan.clipping, grid_steps=plan.grid)
        )
        total = IntSum.of(kept, dimension=plan.dimension, grid_steps=plan.contribution_norm)
        with tempfile.TemporaryDirectory() as folder, Ledger.create(folder, plan) as ledger:
            reservation = ledger.reserve(0)
            reservation.select(entropy=SeededEntropy(b"cohort"))
            mechanism = CentralMechanism(plan, entropy=SeededEntropy(b"noise"))
            mean = mechanism.release(zeros(), reservation)
            records = [p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()]
        return Trace(total.vector, (mean.vector.tobytes(),), tuple(records))

    return run


def plain(update: NDArray[Any], *, grid_steps: int = GRID) -> IntUpdate:
    return quantise(update, clipping_norm=1, grid_steps=grid_steps)


def honest(updates: Updates, /) -> Trace:
    return Trace(IntSum.of(tolerant(updates, plain), dimension=DIMENSION, grid_steps=GRID).vector)


def total_of(vectors: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return sum(vectors, np.zeros(DIMENSION, np.int64))


@pytest.mark.parametrize("clipping", mostly_slow([PerLayer([3, 4], [30, 10]), Flat(1)]))
def test_a_round_of_ledger_and_mechanism_passes_at_its_very_bound(clipping: Any) -> None:
    plan = plan_of(clipping=clipping)
    found = replay(central(plan), UPDATES, squared_sensitivity=plan.squared_sensitivity)
    assert found.verdict.passed, found.verdict
    assert 0.9999 < found.largest_ratio <= 1
    assert found.runs == 2 + 3 * (len(hostile_updates(DIMENSION)) + 2)
    json.dumps(found.as_dict(), allow_nan=False)


def test_an_adaptive_round_passes_with_its_joint_norm() -> None:
    clipping = Adaptive(1, 50)
    plan = plan_of(clipping=clipping, dimension=DIMENSION + 1)
    state = clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)

    def run(updates: Updates, /) -> Trace:
        kept = []
        for update in updates:
            try:
                quantised = state.quantise(update)
            except FedcoreError:
                continue
            if quantised.vector.size == plan.dimension:
                kept.append(quantised)
        return Trace(
            IntSum.of(kept, dimension=plan.dimension, grid_steps=plan.contribution_norm).vector
        )

    found = replay(run, UPDATES, squared_sensitivity=plan.squared_sensitivity)
    assert found.verdict.passed, found.verdict
    without_count = replay(run, UPDATES, squared_sensitivity=plan.grid**2)
    assert without_count.verdict.failed


@pytest.mark.parametrize("adjacency", Adjacency)
def test_each_adjacency_has_the_bound_it_states_and_reaches_it(adjacency: Adjacency) -> None:
    found = replay(honest, UPDATES, squared_sensitivity=GRID**2, adjacency=adjacency)
    assert found.verdict.passed and found.largest_ratio > 0.9999


def test_to_replace_moves_a_sum_further_than_to_remove() -> None:
    found = replay(
        honest, UPDATES, squared_sensitivity=GRID**2 // 4, adjacency=Adjacency.REPLACE_ONE
    )
    assert found.verdict.failed and found.largest_ratio == pytest.approx(2, rel=1e-4)


def test_a_sensitivity_that_is_off_by_one_in_ten_thousand_fails() -> None:
    larger = math.ceil(GRID * 1.0001)

    def run(updates: Updates, /) -> Trace:
        kept = tolerant(updates, lambda update: plain(update, grid_steps=larger))
        return Trace(total_of([update.vector for update in kept]))

    found = replay(run, UPDATES, squared_sensitivity=GRID**2)
    assert found.verdict.failed
    assert 1.00009 < found.largest_ratio < 1.00011
    assert replay(run, UPDATES, squared_sensitivity=larger**2).verdict.passed


def weighted_by_examples(updates: Updates, /) -> Trace:
    kept = tolerant(updates, plain)
    return Trace(total_of([5 * kept[0].vector] + [u.vector for u in kept[1:]] if kept else []))


def divided_by_who_replied(updates: Updates, /) -> Trace:
    kept = tolerant(updates, plain)
    return Trace(honest(updates).total * 3 // max(1, len(kept)))


def rounded_to_the_nearest(updates: Updates, /) -> Trace:
    steps = 100
    vectors = []
    for update in tolerant(updates, plain):
        vectors.append(np.rint(update.vector / GRID * steps).astype(np.int64) * (GRID // steps + 1))
    return Trace(total_of(vectors))


def scaled_by_the_data(updates: Updates, /) -> Trace:
    lengths = [np.linalg.norm(u) for u in updates if u.shape == (DIMENSION,) and u.dtype == float]
    finite = [length for length in lengths if np.isfinite(length)]
    norm = max([1e-3, *finite])
    kept = tolerant(updates, lambda update: quantise(update, clipping_norm=norm, grid_steps=GRID))
    return Trace(total_of([update.vector for update in kept]))


def clipped_by_a_minimum(updates: Updates, /) -> Trace:
    vectors = []
    for update in updates:
        if update.shape == (DIMENSION,) and update.dtype.kind == "f":
            with np.errstate(all="ignore"):
                scaled = update * np.fmin(1, 1 / np.linalg.norm(update)) * (GRID - 50)
                vectors.append(np.trunc(scaled).astype(np.int64))
    return Trace(total_of(vectors))


def counted_in_a_message(updates: Updates, /) -> Trace:
    return Trace(honest(updates).total, messages=(b"%d replied" % len(updates),))


def silent_about_zeros(updates: Updates, /) -> Trace:
    records = [b"took part" for update in tolerant(updates, plain) if update.vector.any()]
    return Trace(honest(updates).total, records=tuple(records))


def loss_in_a_record(updates: Updates, /) -> Trace:
    total = honest(updates).total
    return Trace(total, records=(b"reserved", b"%d" % total[0]))


def of_the_dimension_of_the_first(updates: Updates, /) -> Trace:
    return Trace(honest(updates).total[: updates[0].size if updates else DIMENSION])


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (weighted_by_examples, "times as far"),
        (divided_by_who_replied, "times as far"),
        (rounded_to_the_nearest, "times as far"),
        (scaled_by_the_data, "times as far"),
        (clipped_by_a_minimum, "holds NaN"),
        (counted_in_a_message, "message 0 is another"),
        (silent_about_zeros, "holds NaN: 2 records instead of 3"),
        (loss_in_a_record, "record 1 is another"),
        (of_the_dimension_of_the_first, "another shape"),
    ],
)
def test_what_was_wrong_elsewhere_fails(run: Round, reason: str) -> None:
    found = replay(run, UPDATES, squared_sensitivity=GRID**2)
    assert found.verdict.failed
    assert any(reason in violation for violation in found.violations), found.violations


@pytest.mark.parametrize("name", hostile_updates(DIMENSION))
def test_a_round_that_stops_for_one_update_fails_and_tells_nothing_of_it(name: str) -> None:
    hostile = hostile_updates(DIMENSION)[name]

    def run(updates: Updates, /) -> Trace:
        if any(update is hostile for update in updates):
            raise ValueError(f"the secret is {hostile}")
        return honest(updates)

    found = replay(run, UPDATES, squared_sensitivity=GRID**2, substitutes={name: hostile})
    assert found.violations == tuple(
        f"unit {unit} holds {name}: the round stops with ValueError" for unit in range(3)
    )
    assert "secret" not in str(found)


def test_a_round_that_does_not_repeat_itself_cannot_be_judged() -> None:
    random = np.random.default_rng(0)

    def noisy(updates: Updates, /) -> Trace:
        return Trace(honest(updates).total + random.integers(9, size=DIMENSION))

    def clocked(updates: Updates, /) -> Trace:
        return Trace(honest(updates).total, records=(random.bytes(8),))

    for run, what in ((noisy, "another sum"), (clocked, "record 0")):
        found = replay(run, UPDATES, squared_sensitivity=GRID**2)
        assert found.verdict.outcome is Outcome.INCONCLUSIVE and what in found.verdict.reason


def test_a_bound_that_nobody_comes_near_is_not_confirmed() -> None:
    found = replay(honest, UPDATES, squared_sensitivity=4 * GRID**2)
    assert found.verdict.outcome is Outcome.INCONCLUSIVE
    assert found.largest_ratio == pytest.approx(0.5, rel=1e-4)


def test_sums_so_far_apart_that_their_difference_wraps_fail() -> None:
    def run(updates: Updates, /) -> Trace:
        total = np.full(DIMENSION, 2**63 - 1 if len(updates) == 3 else -(2**63), np.int64)
        return Trace(total)

    found = replay(run, UPDATES, squared_sensitivity=GRID**2)
    expected = (2**64 - 1) * math.sqrt(DIMENSION) / GRID
    assert found.verdict.failed and found.largest_ratio == pytest.approx(expected)


@pytest.mark.slow
def test_a_fixed_cohort_is_replayed_by_replacement() -> None:
    plan = plan_of(adjacency=Adjacency.REPLACE_ONE, sampling=FixedSize(size=3, population=100))
    found = replay(
        central(plan),
        UPDATES,
        squared_sensitivity=plan.squared_sensitivity,
        adjacency=plan.adjacency,
    )
    assert found.verdict.passed, found.verdict
    assert "nothing" not in found.largest_at


def test_what_cannot_be_replayed_is_refused() -> None:
    with pytest.raises(DtypeError):
        Trace(np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        Trace(np.ones((3, 1), np.int64))
    for wrong in (0, -1, 1.0, True):
        with pytest.raises(ArgumentError):
            replay(honest, UPDATES, squared_sensitivity=wrong)  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        replay(honest, [], squared_sensitivity=1)
    with pytest.raises(ShapeError):
        replay(honest, [np.ones(3), np.ones(4)], squared_sensitivity=1)
    with pytest.raises(ShapeError):
        replay(honest, [np.ones((3, 3))], squared_sensitivity=1)
