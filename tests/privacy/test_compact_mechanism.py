"""A plan drives the compact mode: narrow slots, and noise enough from whoever survives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    DtypeError,
    EntropyError,
    FedcoreError,
    PlanError,
    ReservationError,
    ShapeError,
    SurvivorsError,
)
from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.compact import centred, compress, expand
from fedcore.privacy.compact_mechanism import CompactAdder, CompactMechanism, rotation_of
from fedcore.privacy.csprng import Stream
from fedcore.privacy.events import PoissonEvent, SkellamEvent
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import CentralMechanism, ShareAdder, SharedMechanism, read_release
from fedcore.privacy.noise import CompactShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import decode, quantise
from fedcore.privacy.sampling import Poisson
from fedcore.privacy.skellam import skellam
from fedcore.privacy.values import IntSum, NoisySum
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.session import run_session
from tests.privacy import plans
from tests.privacy.releases import ledgers_in, opened, reserved
from tests.variants import mostly_slow


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[[PrivacyPlan], Ledger]]:
    """Makes ledgers in folders of their own, and closes them."""
    with ledgers_in(tmp_path) as new:
        yield new


def seeded(name: object) -> SeededEntropy:
    return SeededEntropy(str(name).encode())


def parts(
    plan: PrivacyPlan, update: NDArray[Any], name: object, round_: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What `CompactAdder.add` adds up under this entropy: the contribution, and the noise."""
    stream, terms = Stream(seeded(name)), plan.compact_terms
    rotation = rotation_of(plan, round_)
    rule = plan.clipping
    assert isinstance(rule, Flat | PerLayer)
    own = compress(update, clipping=rule, terms=terms, rotation=rotation, stream=stream)
    return own.vector, skellam(terms.local_variance, terms.padded, stream=stream)


# From the clients to the mean.


@pytest.mark.parametrize("bits", mostly_slow([21, 16]))
def test_masked_sums_that_wrap_release_the_exact_modes_mean_within_rounding(
    create: Callable[[PrivacyPlan], Ledger], bits: int
) -> None:
    """Through the whole protocol, with a client that is lost; every coordinate accounted for."""
    plan = plans.compact(
        dimension=1000,
        clipping=Flat(3),
        noise=CompactShares(5, 4, 1, slot_bits=bits),
        noise_multiplier=Fraction(1, 4),
    )
    source = np.random.default_rng(bits)
    updates = list(source.normal(size=(5, 1000)) * [[1], [0.01], [10], [1e-9], [0.1]])
    # All of it in one coordinate once it is rotated: three such clients have no room in 16 bits.
    updates[0] = rotation_of(plan, 0).backward(np.eye(1, plan.wire_dimension)[0]) * 3
    updates[1] = updates[4] = updates[0]
    sent = [CompactAdder(plan, entropy=seeded(i)).add(u, round=0) for i, u in enumerate(updates)]
    config = SessionConfig(task=bytes(32), layout=plans.layout_of(plan, bits), delta=Fraction(1, 4))
    result = run_session(sent, config=config, dropouts={2: LostAt.UPLOAD}, entropy=seeded("run"))
    assert result.survivors == (0, 1, 3, 4)
    whole = np.sum([sent[i] for i in result.survivors], axis=0)
    lost = result.totals[0] - whole
    if bits == 16:  # one coordinate wraps round, and carries one into the next slot of its word
        assert lost[0] == -(2**16) and centred(whole, slot_bits=16)[0] == result.totals[0][0]
        assert lost[plan.wire_dimension // 4] == 1
        lost[[0, plan.wire_dimension // 4]] = 0
    assert not lost.any()

    ledger = create(plan)
    total = NoisySum(result.totals[0], shares=4)
    server = CompactMechanism(plan, entropy=seeded("server"))
    mean = opened(server, total, reserved(ledger))
    assert np.array_equal(read_release(plan, ledger.released(0) or b"")[0], mean.vector)
    assert ledger.spent == {plan.event: 1}
    # Take all noise away again, and undo the one wrap.
    terms = plan.compact_terms
    noise = np.sum([parts(plan, updates[i], i)[1] for i in result.survivors], axis=0)
    noise += skellam(terms.local_variance, terms.padded, stream=Stream(seeded("server")))
    step = 3 / terms.grid_steps
    rotation = rotation_of(plan, 0)
    shift = rotation.backward((result.totals[0] - whole + noise).astype(float)) * step
    exact = IntSum.of(
        (quantise(updates[i], clipping=Flat(3), grid_steps=2**24) for i in result.survivors),
        dimension=1000,
        grid_steps=2**24,
    )
    wanted = decode(exact.vector, clipping_norm=3, grid_steps=2**24, denominator=1)
    error = (mean.vector * float(plan.denominator) - shift - wanted) / step
    assert error.var() < 1.2 * 4 / 4  # of four clients, at most a quarter of a step each
    assert np.abs(error).max() < 6


def test_without_a_wrap_the_mean_is_that_of_the_clients_up_to_the_planned_noise(
    create: Callable[[PrivacyPlan], Ledger],
) -> None:
    plan = plans.compact(
        dimension=4000,
        noise=CompactShares(20, 15, 2),
        largest_weight=10,
    )
    updates = np.random.default_rng(0).normal(size=(18, 4000))
    adder = CompactAdder(plan)
    weight = plan.weight(3)
    total = sum(adder.add(update, round=1, weight=weight) for update in updates)
    reservation = create(plan).reserve(1)
    reservation.participate([b"%d" % i for i in range(18)])
    mean = opened(CompactMechanism(plan), NoisySum(np.asarray(total), 18), reservation)
    wanted = sum(Flat(1).clip(update) for update in updates) * float(weight) / plan.denominator
    step = 1 / (plan.grid * plan.denominator)
    variance = float(plan.compact_terms.local_variance) * 20  # two of them the server's
    assert ((mean.vector - wanted) / step).var() == pytest.approx(variance, rel=0.12)  # 5 sigma


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        9,
        elements={"allow_subnormal": True},
    ),
    st.sampled_from([Fraction(1), Fraction(1, 3), 0]),
)
def test_whatever_the_update_a_client_adds_at_most_the_radius_to_its_noise(
    update: NDArray[Any], weight: Fraction | int
) -> None:
    plan = plans.compact(dimension=9)
    sent = CompactAdder(plan, entropy=seeded("x")).add(update, round=0, weight=weight)
    assert sent.dtype == np.int64 and sent.shape == (plan.wire_dimension,)
    weighted = Flat(1).clip(update) * float(weight) if weight != 1 else update
    own, noise = parts(plan, weighted, "x")
    assert np.array_equal(sent, own + noise)
    assert sum(int(value) ** 2 for value in own) <= plan.squared_sensitivity
    if weight == 0 or not np.isfinite(update.astype(float)).all():
        assert not own.any()


def test_a_client_adds_noise_anew_at_every_attempt() -> None:
    plan = plans.compact(dimension=400)
    adder, nothing = CompactAdder(plan), np.zeros(400)
    first = adder.add(nothing, round=0)
    for other in (adder, CompactAdder(plan)):
        assert (other.add(nothing, round=0) != first).mean() > 0.95


def test_a_weight_is_a_fraction_that_only_makes_a_contribution_smaller() -> None:
    plan = plans.compact()
    for wrong in (Fraction(3, 2), -1, 0.5, True, "1"):
        with pytest.raises(PlanError, match="weighted"):
            CompactAdder(plan).add(np.zeros(6), round=0, weight=wrong)  # type: ignore[arg-type]


def test_the_mean_of_a_sum_taken_apart_is_the_terms_own(
    create: Callable[[PrivacyPlan], Ledger],
) -> None:
    """With nobody missing, a release is `expand` of the sum and nothing else."""
    plan = plans.compact(dimension=33, clipping=PerLayer((3, 4), (10, 23)))
    total = np.random.default_rng(1).integers(-(2**40), 2**40, plan.wire_dimension)
    mean = opened(CompactMechanism(plan), NoisySum(total, 5), reserved(create(plan)))
    wanted = expand(
        total,
        clipping_norm=5,
        terms=plan.compact_terms,
        rotation=rotation_of(plan, 0),
        denominator=50,
    )
    assert np.array_equal(mean.vector, wanted)


# What the guarantee counts on.


@given(
    st.integers(1, 30).flatmap(
        lambda clients: st.tuples(st.just(clients), st.integers(1, clients)).flatmap(
            lambda pair: st.tuples(*map(st.just, pair), st.integers(0, pair[1] - 1))
        )
    ),
    st.fractions(Fraction(1, 4), 4, max_denominator=99),
    st.integers(1, 10**6),
)
def test_whoever_survives_the_noise_is_at_least_what_is_accounted(
    cohort: tuple[int, int, int], z: Fraction, dimension: int
) -> None:
    clients, survivors, corrupt = cohort
    noise = CompactShares(clients, survivors, corrupt)
    plan = plans.compact(noise=noise, noise_multiplier=z, dimension=dimension)
    event, terms = plan.noise_event, plan.compact_terms
    assert isinstance(event, SkellamEvent) and event == terms.event
    assert event.squared_sensitivity == plan.squared_sensitivity == plan.contribution_norm**2
    assert plan.contribution_norm == terms.radius >= plan.grid == terms.grid_steps
    assert plan.variance == event.variance == z**2 * event.squared_sensitivity
    assert event.dimension == plan.wire_dimension == terms.padded >= dimension
    assert plan.event == event
    for alive in range(survivors, clients + 1):
        for missing in range(corrupt + 1):
            assert (alive - missing) * terms.local_variance >= event.variance


def test_missing_shares_are_drawn_in_as_many_parts_as_the_sampler_needs(
    create: Callable[[PrivacyPlan], Ledger],
) -> None:
    plan = plans.compact(
        dimension=20_000,
        noise=CompactShares(12, 4, 3, slot_bits=21),
        noise_multiplier=Fraction(3),
    )
    local = plan.compact_terms.local_variance
    assert local * 8 > 2**26
    nothing = NoisySum(np.zeros(plan.wire_dimension, np.int64), 4)
    mean = opened(CompactMechanism(plan), nothing, reserved(create(plan)))
    found = (mean.vector * float(plan.grid * plan.denominator)).var()
    # 20,000 coordinates: the variance of a variance is 1e-4; five deviations are 5 %.
    assert found == pytest.approx(8 * float(local), rel=0.05)


def test_an_update_that_is_zero_changes_nothing_but_the_noise() -> None:
    plan = plans.compact(dimension=50)
    own, noise = parts(plan, np.zeros(50), 3)
    assert not own.any()
    sent = CompactAdder(plan, entropy=seeded(3)).add(np.zeros(50), round=0)
    assert np.array_equal(sent, noise)


def test_a_rotation_is_of_one_plan_and_one_round() -> None:
    plan = plans.compact(dimension=40)
    found = {rotation_of(plan, round_).seed for round_ in range(5)}
    found |= {rotation_of(replace(plan, rounds=4), round_).seed for round_ in range(5)}
    assert len(found) == 10
    assert rotation_of(PrivacyPlan.from_json(plan.to_json()), 3) == rotation_of(plan, 3)
    for wrong in (-1, True, 1.0, None, 2**63):
        with pytest.raises(PlanError, match="round"):
            rotation_of(plan, wrong)  # type: ignore[arg-type]


# What is refused.


@pytest.mark.parametrize("shares", [1, 3, 6])
def test_too_few_or_too_many_survivors_release_nothing_and_stay_charged(
    create: Callable[[PrivacyPlan], Ledger], shares: int
) -> None:
    plan = plans.compact()
    ledger = create(plan)
    reservation = reserved(ledger)
    total = NoisySum(np.zeros(plan.wire_dimension, np.int64), shares)
    with pytest.raises(SurvivorsError) as found:
        opened(CompactMechanism(plan), total, reservation)
    assert found.value.code == "FED-1505" and found.value.why and found.value.fix
    with pytest.raises(ReservationError):
        reservation.void("too late")
    assert ledger.released(0) is None and ledger.spent == {plan.event: 1}


def test_only_a_sum_of_shares_as_long_as_rotated_updates_is_opened(
    create: Callable[[PrivacyPlan], Ledger],
) -> None:
    plan = plans.compact(dimension=17)
    ledger, mechanism = create(plan), CompactMechanism(plan)
    reservation = reserved(ledger)
    assert plan.wire_dimension == 18
    mechanism.begin(reservation, minimum_survivors=4, corrupt=1)
    with pytest.raises(PlanError, match="IntSum"):
        mechanism.release(IntSum(np.zeros(18, np.int64), plan.grid), reservation)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="18"):
        mechanism.release(NoisySum(np.zeros(17, np.int64), 5), reservation)
    mechanism.release(NoisySum(np.zeros(18, np.int64), 5), reservation)
    with pytest.raises(FedcoreError):
        mechanism.release(NoisySum(np.zeros(18, np.int64), 5), reservation)
    other = create(plans.compact(dimension=17, rounds=4))
    with pytest.raises(ReservationError, match="another plan"):
        mechanism.begin(reserved(other), minimum_survivors=4, corrupt=1)
    with pytest.raises(ReservationError, match="nobody was recorded"):
        mechanism.begin(ledger.reserve(1), minimum_survivors=4, corrupt=1)


def test_an_update_of_another_model_is_refused_before_noise_is_drawn() -> None:
    adder = CompactAdder(plans.compact())
    with pytest.raises(ShapeError):
        adder.add(np.zeros(7), round=0)
    with pytest.raises(DtypeError):
        adder.add(np.zeros(6, np.int64), round=0)


def test_each_mechanism_follows_plans_of_its_own_noise() -> None:
    for plan in (plans.client(), plans.shared(), plans.banded()):
        for make in (CompactAdder, CompactMechanism):
            with pytest.raises(PlanError, match="CompactShares"):
                make(plan)
        with pytest.raises(PlanError, match="CompactShares"):
            _ = plan.compact_terms
        assert plan.wire_dimension == plan.dimension
    for other in (CentralMechanism, ShareAdder, SharedMechanism):
        with pytest.raises(PlanError, match="CompactShares"):
            other(plans.compact())


def test_noise_comes_from_no_other_generator() -> None:
    class Dice:
        def token(self, size: int) -> bytes:
            return b"4" * size

    for make in (CompactAdder, CompactMechanism):
        with pytest.raises(EntropyError):
            make(plans.compact(), entropy=Dice())


def test_a_certificate_states_both_numbers_and_no_second_accountant(
    create: Callable[[PrivacyPlan], Ledger],
) -> None:
    # Of 31 that are expected 3 to 99 join, as near as makes no matter.
    plan = plans.client(
        population=1000,
        sampling=Poisson(2**27),
        noise=CompactShares(clients=100, survivors=2, corrupt=1),
        delta=1e-5,
        epsilon=2.0,
    )
    assert plan.event == PoissonEvent(2**27, plan.noise_event)
    ledger = create(plan)
    reservation = reserved(ledger)
    total = NoisySum(np.zeros(plan.wire_dimension, np.int64), 30)
    opened(CompactMechanism(plan), total, reservation)
    data = certificate(ledger)
    found = {adversary["name"]: adversary["epsilon"] for adversary in data["adversaries"]}
    assert found["the server"] == found["who knows participants"] > found["readers"]
    assert data["gaussian"] is None and not data["float_noise"]
    assert "Skellam" in data["accountant"]["check"]
    text = " ".join(format_certificate(data).split())
    assert "Skellam noise before secure aggregation" in text and "16 bits" in text
