"""Shares of noise add up to a release that does not tell how many of them there were."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    NormError,
    PlanError,
    ReservationError,
    ShapeError,
    SurvivorsError,
)
from fedcore.privacy.adaptive import Adaptive
from fedcore.privacy.clipping import Flat
from fedcore.privacy.compact_mechanism import CompactMechanism
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import (
    ShareAdder,
    SharedMechanism,
)
from fedcore.privacy.noise import NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampler import discrete_gaussian
from fedcore.privacy.units import Unit
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.session import run_session
from tests.privacy import plans
from tests.privacy.releases import (
    FROZEN,
    decoded,
    ledgers_in,
    opened,
    reserved,
    sum_of,
    updates,
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[[PrivacyPlan], Ledger]]:
    """Makes ledgers in folders of their own, and closes them."""
    with ledgers_in(tmp_path) as new:
        yield new


def test_secure_and_central_sums_differ_by_their_noise_alone(create: Callable[..., Ledger]) -> None:
    """Bit for bit, masked and unmasked in a block of 32 bits, with a client that was lost."""
    plan = plans.shared(dimension=33, clipping=Flat(3))
    found = updates(plan, 5)
    sent = [
        ShareAdder(plan, entropy=SeededEntropy(b"%d" % i)).add(sum_of(plan, [update]))
        for i, update in enumerate(found)
    ]
    layout = Layout((Block(33, 32, 2**20, wraps=True),))
    config = SessionConfig(task=bytes(32), layout=layout, delta=Fraction(1, 4))
    result = run_session(
        sent,
        config=config,
        dropouts={2: LostAt.UPLOAD},
        entropy=SeededEntropy(b"session"),
    )
    assert result.survivors == (0, 1, 3, 4)
    local = plan.variance / 3
    noise = [
        discrete_gaussian(local, 33, stream=Stream(SeededEntropy(b"%d" % i)))
        for i in result.survivors
    ]
    central = sum_of(plan, [found[i] for i in result.survivors])
    assert np.array_equal(result.totals[0] - sum(noise), central.vector)
    missing = discrete_gaussian(local, 33, stream=Stream(SeededEntropy(b"server")))
    reservation = reserved(create(plan))
    server = SharedMechanism(plan, entropy=SeededEntropy(b"server"))
    total = NoisySum(result.totals[0], shares=len(result.survivors))
    mean = opened(server, total, reservation)
    assert np.array_equal(mean.vector, decoded(plan, central.vector + sum(noise) + missing))


def test_a_sum_that_leaves_its_slots_comes_back_centred() -> None:
    """What wraps on the way does no harm as long as the sum fits."""
    plan = plans.shared(dimension=4)
    near = np.array([2**31 - 1, -(2**31), 2**31 - 1, -5], np.int64)
    sent = [near, near, -near, -near, np.array([1, 2, 3, 4], np.int64)]
    assert isinstance(plan.noise, NoiseShares)
    layout = Layout((Block(4, plan.noise.slot_bits, 2**20, wraps=True),))
    config = SessionConfig(task=bytes(32), layout=layout, delta=Fraction(1, 4))
    result = run_session(sent, config=config, entropy=SeededEntropy(b"session"))
    assert result.totals[0].tolist() == [1, 2, 3, 4]


def test_a_client_adds_noise_anew_at_every_attempt() -> None:
    plan = plans.shared(dimension=40)
    adder, total = ShareAdder(plan), sum_of(plan, [])
    assert (adder.add(total) != adder.add(total)).all()
    assert (ShareAdder(plan).add(total) != adder.add(total)).all()


@given(hnp.arrays(np.int64, 6, elements=st.integers(-(2**24), 2**24)), st.data())
def test_cutting_a_sum_to_its_slots_moves_no_two_apart(vector: Any, data: st.DataObject) -> None:
    plan = plans.shared(unit=Unit.RECORD, grid_steps=2**16, noise=NoiseShares(5, 4, 1, limit=2**18))
    other = vector + data.draw(hnp.arrays(np.int64, 6, elements=st.integers(-(2**16), 2**16)))

    def sent(total: Any) -> Any:
        adder = ShareAdder(plan, entropy=SeededEntropy(FROZEN))
        return adder.add(IntSum(total, plan.grid))

    noise = sent(np.zeros(6, np.int64))
    assert (np.abs(sent(vector) - sent(other)) <= np.abs(vector - other)).all()
    assert np.abs(sent(vector) - noise).max() <= 2**18
    inside = np.clip(vector, -(2**18), 2**18)
    assert np.array_equal(sent(inside) - noise, inside)


def test_a_count_that_weighs_more_than_the_update_is_sent_whole() -> None:
    plan = plans.adaptive(
        clipping=Adaptive(1, 50, Fraction(9, 10)), noise=NoiseShares(5, 4, 1), **plans.OPENLY
    )
    rule = plan.clipping
    assert isinstance(rule, Adaptive)
    state = rule.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    assert state.count_step > plan.grid
    total = sum_of(plan, [state.quantise(np.ones(6))])
    sent = ShareAdder(plan, entropy=SeededEntropy(FROZEN)).add(total)
    nothing = ShareAdder(plan, entropy=SeededEntropy(FROZEN)).add(sum_of(plan, []))
    assert np.array_equal(sent - nothing, total.vector)


@pytest.mark.parametrize("shares", [1, 3, 6])
def test_too_few_or_too_many_survivors_release_nothing_and_stay_charged(
    create: Callable[..., Ledger], shares: int
) -> None:
    plan = plans.shared()
    ledger = create(plan)
    reservation = reserved(ledger)
    with pytest.raises(SurvivorsError) as found:
        opened(SharedMechanism(plan), NoisySum(np.zeros(6, np.int64), shares), reservation)
    assert found.value.code == "FED-1505" and found.value.why and found.value.fix
    with pytest.raises(ReservationError):
        reservation.void("too late")
    assert ledger.spent == {plan.event: 1} and ledger.released(0) is None


@pytest.mark.parametrize("shares", [4, 5])
def test_every_accepted_number_of_survivors_is_decoded_alike(
    create: Callable[..., Ledger], shares: int
) -> None:
    plan = plans.shared()
    vector = np.arange(6) * 10**6
    server = SharedMechanism(plan, entropy=SeededEntropy(FROZEN))
    mean = opened(server, NoisySum(vector, shares), reserved(create(plan)))
    noise = discrete_gaussian(plan.variance / 3, 6, stream=Stream(SeededEntropy(FROZEN)))
    assert np.array_equal(mean.vector, decoded(plan, vector + noise * (5 - shares)))


def test_missing_shares_are_drawn_in_as_many_parts_as_the_sampler_needs(
    create: Callable[..., Ledger],
) -> None:
    """Seven shares of a variance of 9·10^16 are wider than 10^18 from the twelfth on."""
    plan = plans.shared(
        noise=NoiseShares(clients=40, survivors=16, corrupt=0, slot_bits=64),
        noise_multiplier=Fraction(30),
        grid_steps=2**25,
        denominator=64,
        dimension=20_000,
    )
    assert isinstance(plan.noise, NoiseShares)
    local = plan.noise.local_variance(plan.variance)
    assert 24 * local > 10**18 > local
    total = NoisySum(np.zeros(20_000, np.int64), 16)
    mean = opened(SharedMechanism(plan), total, reserved(create(plan)))
    found = mean.vector.astype(np.float64) * plan.grid * plan.denominator
    assert found.var() == pytest.approx(24 * float(local), rel=0.05)  # five deviations


def test_only_a_sum_of_shares_is_opened(create: Callable[..., Ledger]) -> None:
    plan = plans.shared()
    reservation, server = reserved(create(plan)), SharedMechanism(plan)
    server.begin(reservation, minimum_survivors=4, corrupt=1)
    wrong: list[Any] = [sum_of(plan, []), np.zeros(6, np.int64), None]
    for total in wrong:
        with pytest.raises(PlanError, match="is to be opened"):
            server.release(total, reservation)
    with pytest.raises(ShapeError):
        server.release(NoisySum(np.zeros(7, np.int64), 4), reservation)
    for bad in (np.zeros(6, np.int64), None, NoisySum(np.zeros(6, np.int64), 4)):
        with pytest.raises(PlanError):
            ShareAdder(plan).add(bad)  # type: ignore[arg-type]
    server.release(NoisySum(np.zeros(6, np.int64), 4), reservation)  # it is still to be had


SERVERS: dict[str, tuple[Callable[..., PrivacyPlan], type[Any]]] = {
    "shared": (plans.shared, SharedMechanism),
    "compact": (plans.compact, CompactMechanism),
}


def records(**changes: Any) -> PrivacyPlan:
    return plans.record(noise=NoiseShares(5, 4, 1), steps=1, **changes)


@pytest.mark.parametrize("case", SERVERS)
def test_a_session_that_could_open_too_little_noise_is_not_begun(
    create: Callable[..., Ledger], case: str
) -> None:
    make, kind = SERVERS[case]
    plan = make()
    server, reservation = kind(plan), reserved(create(plan))
    for bounds in [(3, 1), (0, 0), (4, 2), (4.0, 1), (4, -1), (None, 1), (4, True)]:
        with pytest.raises(PlanError) as found:
            server.begin(reservation, minimum_survivors=bounds[0], corrupt=bounds[1])
        assert found.value.why and found.value.fix
    assert not reservation.drawn
    server.begin(reservation, minimum_survivors=5, corrupt=0)  # with more noise than planned


@pytest.mark.parametrize("case", SERVERS)
def test_no_sum_is_opened_that_was_not_begun(create: Callable[..., Ledger], case: str) -> None:
    make, kind = SERVERS[case]
    plan = make()
    ledger, server = create(plan), kind(plan)
    total = NoisySum(np.zeros(plan.wire_dimension, np.int64), 5)
    reservation = reserved(ledger)
    with pytest.raises(ReservationError, match="begin"):
        server.release(total, reservation)
    reservation.mark_drawn()  # by whoever: it is the mechanism that has to begin
    with pytest.raises(ReservationError, match="begin"):
        server.release(total, reservation)
    reservation = reserved(ledger)
    server.begin(reservation, minimum_survivors=4, corrupt=1)
    with pytest.raises(ReservationError, match="pays for 1 draws"):
        server.begin(reservation, minimum_survivors=4, corrupt=1)
    with pytest.raises(ReservationError, match="another mechanism"):
        kind(plan).begin(reservation, minimum_survivors=4, corrupt=1)
    with pytest.raises(ReservationError, match="begin"):
        kind(plan).release(total, reservation)
    server.release(total, reservation)


@pytest.mark.parametrize("make", [plans.shared, records])
def test_a_round_whose_sum_may_have_been_seen_is_not_voided(
    create: Callable[..., Ledger], make: Callable[..., PrivacyPlan]
) -> None:
    """Whatever is wrong with the call that follows; else sums could be opened for nothing."""
    plan = make()
    ledger, server = create(plan), SharedMechanism(plan)
    reservation = ledger.reserve(0) if make is records else reserved(ledger)
    server.begin(reservation, minimum_survivors=4, corrupt=1)
    for total in (NoisySum(np.zeros(7, np.int64), 5), NoisySum(np.zeros(6, np.int64), 1)):
        with pytest.raises((ShapeError, SurvivorsError)):
            server.release(total, reservation)
        with pytest.raises(ReservationError, match="drawn"):
            reservation.void("a mistake")
    assert ledger.spent == {plan.event: 1}


def test_a_sum_with_too_little_noise_is_said_to_have_been_seen(
    create: Callable[..., Ledger],
) -> None:
    plan = plans.shared()
    with pytest.raises(SurvivorsError) as found:
        opened(SharedMechanism(plan), NoisySum(np.zeros(6, np.int64), 3), reserved(create(plan)))
    assert "against it the guarantee does not hold" in found.value.why


@pytest.mark.parametrize("unit", [Unit.CLIENT, Unit.USER])
def test_a_client_adds_one_contribution_and_no_sum_of_several(unit: Unit) -> None:
    plan = plans.shared(unit=unit)
    update = updates(plan, 1)[0]
    one = ShareAdder(plan, entropy=SeededEntropy(FROZEN)).add(update)
    same = ShareAdder(plan, entropy=SeededEntropy(FROZEN)).add(sum_of(plan, [update]))
    assert np.array_equal(one, same)
    with pytest.raises(NormError, match="longer than one update") as found:
        ShareAdder(plan).add(sum_of(plan, [update] * 2))
    assert found.value.why and found.value.fix
    with pytest.raises(NormError):  # on another grid
        ShareAdder(plan).add(IntUpdate(np.zeros(6, np.int64), 5))


def test_a_holder_of_records_adds_a_sum_of_them() -> None:
    plan = records()
    update = IntUpdate(np.full(6, plan.grid // 3), plan.grid)
    ShareAdder(plan).add(sum_of(plan, [update] * 10))
    with pytest.raises(PlanError):
        ShareAdder(plan).add(update)
