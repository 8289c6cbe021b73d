"""A sum leaves a mechanism once, with exactly the planned noise, paid for and durable."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
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
    EntropyError,
    FedcoreError,
    NormError,
    PlanError,
    PrivacyError,
    ReservationError,
    ShapeError,
    SurvivorsError,
)
from fedcore.privacy.adaptive import Adaptive, QuantileState
from fedcore.privacy.banded import BandedStream, Strategy
from fedcore.privacy.clipping import Flat
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Ledger, Reservation
from fedcore.privacy.mechanisms import (
    BandedMechanism,
    CentralMechanism,
    PrivateMean,
    ShareAdder,
    SharedMechanism,
    read_release,
)
from fedcore.privacy.noise import BandedNoise, NoiseShares, SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import quantise
from fedcore.privacy.sampler import discrete_gaussian, rounded_gaussian
from fedcore.privacy.sampling import FixedSize, Poisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.loopback import LostAt
from fedcore.secagg.packing import Block, Layout
from fedcore.secagg.session import run_session
from tests.privacy import plans

KEY = bytes(range(32))
FROZEN = b"frozen noise"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    """Makes ledgers in folders of their own, and closes them."""
    made: list[Ledger] = []

    def new(plan: PrivacyPlan) -> Ledger:
        bounded = isinstance(plan.sampling, Uncontrolled)
        key = KEY if bounded else None
        made.append(Ledger.create(tmp_path / str(len(made)), plan, participation_key=key))
        return made[-1]

    yield new
    for ledger in made:
        ledger.close()


def reserved(ledger: Ledger, round_: int = 0) -> Reservation:
    reservation = ledger.reserve(round_)
    reservation.select(entropy=SeededEntropy(b"cohort"))
    return reservation


def updates(plan: PrivacyPlan, count: int, seed: int = 0) -> list[IntUpdate]:
    source = np.random.default_rng(seed)
    rule = plan.clipping
    assert isinstance(rule, Flat)
    return [
        quantise(source.normal(size=plan.dimension), clipping=rule, grid_steps=plan.grid)
        for _ in range(count)
    ]


def sum_of(plan: PrivacyPlan, found: list[IntUpdate]) -> IntSum:
    return IntSum.of(found, dimension=plan.dimension, grid_steps=plan.contribution_norm)


def central_noise(plan: PrivacyPlan) -> NDArray[np.int64]:
    stream = Stream(SeededEntropy(FROZEN))
    return rounded_gaussian(plan.variance, plan.dimension, stream=stream)


def decoded(plan: PrivacyPlan, noisy: Any) -> NDArray[np.float32]:
    """By Python's fractions and one rounding to each float."""
    step = float(plan.clipping_norm / (plan.grid * plan.denominator))
    return np.array([np.float32(float(int(value)) * step) for value in noisy], np.float32)


# Central noise


@pytest.mark.parametrize("early", [False, True])
def test_a_release_is_the_decoded_sum_with_its_noise_and_nothing_else(
    create: Callable[..., Ledger], early: bool
) -> None:
    plan = plans.client(clipping=Flat(Fraction(7, 10)))
    ledger = create(plan)
    reservation, total = reserved(ledger), sum_of(plan, updates(plan, 5))
    mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
    if early:
        mechanism.prepare(reservation)
        mechanism.prepare(reservation)  # draws nothing more
    mean = mechanism.release(total, reservation)
    assert mean.vector.dtype == np.float32
    assert np.array_equal(mean.vector, decoded(plan, total.vector + central_noise(plan)))
    assert ledger.released(0) == mean.vector.astype("<f4").tobytes()
    assert ledger.spent == {plan.event: 1}
    assert np.array_equal(read_release(plan, ledger.released(0) or b"")[0], mean.vector)
    with pytest.raises(ValueError, match="read-only"):
        mean.vector[0] = 0


def test_two_rounds_have_two_noises(create: Callable[..., Ledger]) -> None:
    plan = plans.client(dimension=50)
    ledger, mechanism = create(plan), CentralMechanism(plan)
    total = sum_of(plan, [])
    means = [mechanism.release(total, reserved(ledger, index)).vector for index in range(3)]
    assert all((means[0] != other).all() for other in means[1:])


def test_an_empty_cohort_releases_noise_and_a_zero_update_changes_nothing(
    create: Callable[..., Ledger],
) -> None:
    plan = plans.client()
    nothing = IntUpdate(np.zeros(plan.dimension, np.int64), plan.grid)
    one = updates(plan, 1)[0]
    found = []
    for cohort in ([], [nothing], [one], [nothing, one, nothing]):
        mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
        found.append(mechanism.release(sum_of(plan, cohort), reserved(create(plan))).vector)
    assert np.array_equal(found[0], decoded(plan, central_noise(plan)))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[2], found[3]) and not np.array_equal(found[0], found[2])


def test_the_released_noise_has_the_law_that_was_planned(create: Callable[..., Ledger]) -> None:
    fit = pytest.importorskip("fedcore.privacy.audit.noise_fit")
    # All scales are powers of two, so that the noise can be read from the released floats.
    plan = plans.client(dimension=40_000, grid_steps=2**10, denominator=64)
    ledger, mechanism = create(plan), CentralMechanism(plan, entropy=SeededEntropy(b"fit"))
    rounds = []
    for index in range(3):
        mean = mechanism.release(sum_of(plan, []), reserved(ledger, index))
        steps = mean.vector.astype(np.float64) * 2**16
        rounds.append(steps.astype(np.int64))
        assert np.array_equal(rounds[-1], steps)
    found = fit.noise_fit(np.array(rounds), plan.variance)
    assert found.verdict.outcome.value == "passed", str(found)


def test_noise_prepared_for_one_reservation_serves_no_other(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    one, other = create(plan), create(plan)  # whose reservations have the same numbers
    mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
    first, second = reserved(one), reserved(other)
    mechanism.prepare(first)
    mean = mechanism.release(sum_of(plan, []), second)
    assert not np.array_equal(mean.vector, decoded(plan, central_noise(plan)))
    assert second.drawn and first.drawn
    with pytest.raises(ReservationError):  # its noise was thrown away
        mechanism.release(sum_of(plan, []), first)


def other_plan(plan: PrivacyPlan) -> PrivacyPlan:
    return plans.client(noise_multiplier=Fraction(2))


WRONG: dict[str, tuple[type[FedcoreError], Callable[[PrivacyPlan, IntSum], object]]] = {
    "a sum on another grid": (NormError, lambda plan, _: IntSum(np.zeros(6, np.int64), 2**20)),
    "a sum of another length": (ShapeError, lambda plan, _: IntSum(np.zeros(7, np.int64), 2**24)),
    "a single update": (PlanError, lambda plan, _: updates(plan, 1)[0]),
    "a sum of shares": (PlanError, lambda plan, _: NoisySum(np.zeros(6, np.int64), 4)),
    "a bare array": (PlanError, lambda plan, _: np.zeros(6, np.int64)),
    "nothing": (PlanError, lambda plan, _: None),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_sum_of_the_plan_draws_no_noise(
    create: Callable[..., Ledger], case: str
) -> None:
    error, make = WRONG[case]
    plan = plans.client()
    reservation = reserved(create(plan))
    total: Any = make(plan, sum_of(plan, []))
    with pytest.raises(error) as found:
        CentralMechanism(plan).release(total, reservation)
    assert found.value.why and found.value.fix
    assert not reservation.drawn
    reservation.void("nothing was seen")


def test_a_reservation_pays_for_one_release(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    ledger, mechanism = create(plan), CentralMechanism(plan)
    reservation, total = reserved(ledger), sum_of(plan, [])
    mechanism.release(total, reservation)
    for attempt in (mechanism, CentralMechanism(plan)):
        with pytest.raises(PlanError, match="or was released before"):
            attempt.release(total, reservation)
    with pytest.raises(ReservationError):
        reservation.select()
    with pytest.raises(PlanError, match="or was released before"):
        mechanism.prepare(reservation)
    assert ledger.spent == {plan.event: 1}


def test_the_reservation_of_another_plan_pays_for_nothing(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    reservation = reserved(create(other_plan(plan)))
    for call in (
        lambda: CentralMechanism(plan).prepare(reservation),
        lambda: CentralMechanism(plan).release(sum_of(plan, []), reservation),
    ):
        with pytest.raises(ReservationError, match="another plan"):
            call()
    assert not reservation.drawn


@pytest.mark.parametrize("unit", list(Unit))
def test_a_cohort_that_was_not_drawn_is_not_released(
    create: Callable[..., Ledger], unit: Unit
) -> None:
    fixed = {"sampling": FixedSize(10, 100), "adjacency": Adjacency.REPLACE_ONE}
    plan = plans.client(unit=unit, **fixed)
    reservation = create(plan).reserve(0)
    mechanism = CentralMechanism(plan)
    with pytest.raises(PlanError, match="not drawn"):
        mechanism.release(sum_of(plan, []), reservation)
    assert not reservation.drawn
    reservation.select()
    mechanism.release(sum_of(plan, []), reservation)


def test_records_that_their_holders_draw_are_released(create: Callable[..., Ledger]) -> None:
    plan = plans.record(steps=1)
    CentralMechanism(plan).release(sum_of(plan, []), create(plan).reserve(0))


def test_noise_that_was_drawn_cannot_be_taken_back(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    ledger, mechanism = create(plan), CentralMechanism(plan)
    reservation = reserved(ledger)
    mechanism.prepare(reservation)
    with pytest.raises(ReservationError, match="cannot be used so"):
        reservation.void("too late")
    later = reserved(ledger)  # the round is run again, and paid for again
    with pytest.raises(ReservationError):
        mechanism.release(sum_of(plan, []), reservation)
    mechanism.release(sum_of(plan, []), later)
    assert ledger.spent == {plan.event: 2}


def test_a_voided_reservation_releases_nothing(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    ledger = create(plan)
    reservation = reserved(ledger)
    reservation.void("nobody came")
    with pytest.raises(ReservationError):
        CentralMechanism(plan).release(sum_of(plan, []), reservation)
    assert ledger.spent == {}


def test_a_forked_process_releases_nothing(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    ledger, mechanism = create(plan), CentralMechanism(plan)
    reservation = reserved(ledger)
    mechanism.prepare(reservation)
    child = os.fork()
    if child == 0:
        try:
            mechanism.release(sum_of(plan, []), reservation)
        except ReservationError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert ledger.released(0) is None
    mechanism.release(sum_of(plan, []), reservation)


def test_a_release_that_could_not_be_stored_is_seen_by_nobody(
    create: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans.client()
    ledger, mechanism = create(plan), CentralMechanism(plan)
    reservation = reserved(ledger)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FedcoreError):
        mechanism.release(sum_of(plan, []), reservation)
    monkeypatch.undo()
    with pytest.raises(FedcoreError):
        mechanism.release(sum_of(plan, []), reservation)


def test_nobody_makes_a_private_mean_by_hand(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    mean = CentralMechanism(plan).release(sum_of(plan, []), reserved(create(plan)))
    for issued_by in (None, object(), "mechanism", True):
        with pytest.raises(ReservationError, match="by hand"):
            PrivateMean(np.zeros(6, np.float32), mean.receipt, None, issued_by=issued_by)
    assert "6 float32" in repr(mean)


def test_each_mechanism_follows_plans_of_its_own_noise(create: Callable[..., Ledger]) -> None:
    simulated = plans.client(noise=SimulatedNoise(3))
    makers: list[Callable[[PrivacyPlan], object]] = [
        CentralMechanism,
        ShareAdder,
        SharedMechanism,
        lambda plan: BandedMechanism(plan, reserved(create(plans.client()))),
    ]
    right = [plans.client(), plans.shared(), plans.shared(), plans.banded()]
    for make, own in zip(makers, right, strict=True):
        for plan in (plans.client(), plans.shared(), plans.banded(), simulated):
            if type(plan.noise) is not type(own.noise):
                with pytest.raises(PlanError, match="the plan says who adds the noise"):
                    make(plan)


def test_noise_comes_from_no_other_generator() -> None:
    class Dice:
        def token(self, size: int) -> bytes:
            return b"4" * size

    for make in (CentralMechanism, ShareAdder):
        plan = plans.client() if make is CentralMechanism else plans.shared()
        with pytest.raises(EntropyError):
            make(plan, entropy=Dice())


# Shares of noise


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
    reservation = reserved(create(plan))
    mean = SharedMechanism(plan).release(
        NoisySum(result.totals[0], shares=len(result.survivors)), reservation
    )
    assert np.array_equal(mean.vector, decoded(plan, central.vector + sum(noise)))


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
    plan = plans.shared(grid_steps=2**16, noise=NoiseShares(5, 4, 1, limit=2**18))
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
    plan = plans.adaptive(clipping=Adaptive(1, 50, Fraction(9, 10)), noise=NoiseShares(5, 4, 1))
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
        SharedMechanism(plan).release(NoisySum(np.zeros(6, np.int64), shares), reservation)
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
    mean = SharedMechanism(plan).release(NoisySum(vector, shares), reserved(create(plan)))
    assert np.array_equal(mean.vector, decoded(plan, vector))


def test_only_a_sum_of_shares_is_opened(create: Callable[..., Ledger]) -> None:
    plan = plans.shared()
    reservation = reserved(create(plan))
    wrong: list[Any] = [sum_of(plan, []), np.zeros(6, np.int64), None]
    for total in wrong:
        with pytest.raises(PlanError, match="is to be opened"):
            SharedMechanism(plan).release(total, reservation)
    with pytest.raises(ShapeError):
        SharedMechanism(plan).release(NoisySum(np.zeros(7, np.int64), 4), reservation)
    for bad in (np.zeros(6, np.int64), updates(plan, 1)[0]):
        with pytest.raises(PlanError):
            ShareAdder(plan).add(bad)  # type: ignore[arg-type]
    assert not reservation.drawn


# Adaptive clipping


def cohort_of(state: QuantileState, seed: int, count: int = 50) -> list[IntUpdate]:
    """Updates of length about 3."""
    source = np.random.default_rng(seed)
    made = source.normal(size=(count, 6)) * 3 / 6**0.5
    return [state.quantise(update) for update in made]


@pytest.mark.parametrize("where", ["central", "shared"])
def test_an_adaptive_norm_moves_by_the_noisy_count_and_survives_a_crash(
    tmp_path: Path, where: str
) -> None:
    noise = {"noise": NoiseShares(50, 40, 5)} if where == "shared" else {}
    plan = plans.adaptive(rounds=3, clipping=Adaptive(1, 50, 5), **noise)
    rule = plan.clipping
    assert isinstance(rule, Adaptive)
    state = rule.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
    states, means = [state], []
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        for index in range(3):
            found = cohort_of(states[-1], index)
            reservation = reserved(ledger, index)
            entropy = SeededEntropy(b"round %d" % index)
            if where == "central":
                mechanism = CentralMechanism(plan, entropy=entropy)
                noisy = sum_of(plan, found).vector + rounded_gaussian(
                    plan.variance,
                    plan.dimension,
                    stream=Stream(SeededEntropy(b"round %d" % index)),
                )
                mean = mechanism.release(sum_of(plan, found), reservation, clipping=states[-1])
            else:
                adder = ShareAdder(plan, entropy=entropy)
                noisy = sum(adder.add(sum_of(plan, [update])) for update in found)  # type: ignore[assignment]
                mean = SharedMechanism(plan).release(
                    NoisySum(noisy, 50), reservation, clipping=states[-1]
                )
            # decoded by the norm that was sent; the next one follows from the noisy count
            assert np.array_equal(mean.vector, states[-1].mean(noisy))
            assert mean.clipping == states[-1].next(int(noisy[-1]))
            assert mean.clipping is not None and mean.clipping.norm > states[-1].norm
            states.append(mean.clipping)
            means.append(mean.vector)
    with Ledger.open(tmp_path / "ledger", checkpoint=None) as ledger:
        state = states[0]
        for index in range(3):
            vector, following = read_release(plan, ledger.released(index) or b"", clipping=state)
            assert following is not None
            assert np.array_equal(vector, means[index]) and following == states[index + 1]
            state = following


def test_a_release_is_decoded_by_no_other_clipping_than_the_plans(
    create: Callable[..., Ledger],
) -> None:
    plan, fixed = plans.adaptive(), plans.client()
    rule, z = plan.clipping, plan.noise_multiplier
    assert isinstance(rule, Adaptive)
    wrong = [
        None,
        Adaptive(2, 50).start(noise_multiplier=z, grid_steps=plan.grid),
        rule.start(noise_multiplier=z + 1, grid_steps=plan.grid),
        rule.start(noise_multiplier=z, grid_steps=plan.grid // 2),
    ]
    reservation = reserved(create(plan))
    for state in wrong:
        with pytest.raises(PlanError, match="another clipping"):
            CentralMechanism(plan).release(sum_of(plan, []), reservation, clipping=state)
        with pytest.raises(PlanError, match="another clipping"):
            read_release(plan, bytes(32), clipping=state)
    assert not reservation.drawn
    good = rule.start(noise_multiplier=z, grid_steps=plan.grid)
    with pytest.raises(PlanError, match="another clipping"):
        CentralMechanism(fixed).release(sum_of(fixed, []), reserved(create(fixed)), clipping=good)
    CentralMechanism(plan).release(sum_of(plan, []), reservation, clipping=good)


@pytest.mark.parametrize("size", [0, 23, 25, 32])
def test_a_payload_of_another_size_is_no_mean_of_the_plan(size: int) -> None:
    with pytest.raises(PlanError, match="no mean under the plan"):
        read_release(plans.client(), bytes(size))
    assert read_release(plans.client(), bytes(24))[0].shape == (6,)


# Banded noise


def participating(ledger: Ledger, round_: int, names: list[bytes]) -> Reservation:
    reservation = ledger.reserve(round_)
    reservation.participate(names)
    return reservation


def test_banded_rounds_are_the_coded_stream_with_its_noise(create: Callable[..., Ledger]) -> None:
    plan = plans.banded(rounds=4, noise=BandedNoise(Strategy((1024, 512))))
    ledger = create(plan)
    reservation = participating(ledger, 0, [b"a"])
    mechanism = BandedMechanism(plan, reservation, entropy=SeededEntropy(FROZEN))
    stream, reference = Stream(SeededEntropy(FROZEN)), BandedStream(Strategy((1024, 512)), 6)
    for index in range(4):
        if index:
            reservation.participate([b"ab"[index % 2 : index % 2 + 1]])
        total = sum_of(plan, updates(plan, 3, seed=index))
        y = reference.encode(total.vector) + rounded_gaussian(plan.variance, 6, stream=stream)
        steps = reference.decode(y)
        mean = mechanism.release(total)
        expected = steps * (float(plan.clipping_norm) / (plan.grid * plan.denominator))
        assert np.array_equal(mean.vector, expected.astype(np.float32))
        assert mean.receipt.round == index
        assert ledger.released(index) == mean.vector.astype("<f4").tobytes()
    with pytest.raises(ReservationError, match="round 5 of a matrix of 4"):
        mechanism.release(sum_of(plan, []))
    assert ledger.spent == {plan.event: 1}


def test_banded_noise_is_as_large_as_planned_and_cancels(create: Callable[..., Ledger]) -> None:
    plan = plans.banded(rounds=8, dimension=20_000)
    reservation = participating(create(plan), 0, [])
    mechanism = BandedMechanism(plan, reservation, entropy=SeededEntropy(b"banded"))
    means = []
    for index in range(8):
        if index:
            reservation.participate([])
        means.append(mechanism.release(sum_of(plan, [])).vector)
    assert isinstance(plan.noise, BandedNoise)
    prefixes = np.cumsum(means, axis=0) * plan.denominator
    unit = 1.5 * 2**0.5  # the multiplier, and the root of the participations
    expected = plan.noise.strategy.expected_error(8) * unit
    assert np.sqrt((prefixes**2).mean()) == pytest.approx(expected, rel=0.02)


def test_a_matrix_is_reserved_sampled_and_of_one_process(create: Callable[..., Ledger]) -> None:
    plan = plans.banded()
    with pytest.raises(ReservationError, match="another plan"):
        BandedMechanism(plan, reserved(create(plans.client())))
    reservation = create(plan).reserve(0)
    mechanism = BandedMechanism(plan, reservation)
    with pytest.raises(ReservationError, match="cannot be used so"):  # nobody was recorded
        mechanism.release(sum_of(plan, []))
    reservation.participate([b"a"])
    for wrong, error in [(IntSum(np.zeros(6, np.int64), 5), NormError), (None, PlanError)]:
        with pytest.raises(error):
            mechanism.release(wrong)  # type: ignore[arg-type]
    child = os.fork()
    if child == 0:
        try:
            mechanism.release(sum_of(plan, []))
        except ReservationError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises((PrivacyError, TypeError)):
        copy.deepcopy(mechanism)
    mechanism.release(sum_of(plan, []))


def test_a_plan_of_the_lowest_rate_still_releases(create: Callable[..., Ledger]) -> None:
    plan = plans.client(sampling=Poisson(1))
    reservation = create(plan).reserve(0)
    assert reservation.select().size == 0
    CentralMechanism(plan).release(sum_of(plan, []), reservation)
