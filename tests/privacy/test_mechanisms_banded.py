"""Banded rounds are one matrix: one reservation, one stream, noise that cancels."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    NormError,
    PlanError,
    PrivacyError,
    ReservationError,
)
from fedcore.privacy.banded import BandedStream, Strategy
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Ledger, Reservation
from fedcore.privacy.mechanisms import (
    BandedMechanism,
)
from fedcore.privacy.noise import BandedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.values import IntSum
from tests.privacy import plans
from tests.privacy.releases import (
    FROZEN,
    ledgers_in,
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
