"""Small rounds through a mechanism: their ledgers, their sums, and what a release decodes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import SeededEntropy
from fedcore.privacy.adaptive import QuantileState
from fedcore.privacy.clipping import Flat
from fedcore.privacy.compact_mechanism import CompactMechanism
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Ledger, Reservation
from fedcore.privacy.mechanisms import PrivateMean, SharedMechanism
from fedcore.privacy.noise import CompactShares, NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import quantise
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.sampling import Uncontrolled
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum

__all__ = [
    "FROZEN",
    "KEY",
    "central_noise",
    "decoded",
    "ledgers_in",
    "opened",
    "reserved",
    "sum_of",
    "updates",
]

KEY = bytes(range(32))
FROZEN = b"frozen noise"


@contextmanager
def ledgers_in(folder: Path) -> Iterator[Callable[[PrivacyPlan], Ledger]]:
    """A function that makes ledgers there, each in a folder of its own; closed in the end."""
    made: list[Ledger] = []

    def new(plan: PrivacyPlan) -> Ledger:
        key = KEY if isinstance(plan.sampling, Uncontrolled) else None
        made.append(Ledger.create(folder / str(len(made)), plan, participation_key=key))
        return made[-1]

    yield new
    for ledger in made:
        ledger.close()


def reserved(ledger: Ledger, round_: int = 0) -> Reservation:
    """A round that is paid for, with a cohort drawn or recorded."""
    reservation = ledger.reserve(round_)
    if isinstance(ledger.plan.sampling, Uncontrolled):
        reservation.participate([b"one", b"two"])
    else:
        reservation.select(entropy=SeededEntropy(b"cohort"))
    return reservation


def opened(
    server: SharedMechanism | CompactMechanism,
    total: NoisySum,
    reservation: Reservation,
    *,
    clipping: QuantileState | None = None,
) -> PrivateMean:
    """The release of a session that completes by the plan's own bounds, and gives `total`."""
    terms = server.plan.noise
    assert isinstance(terms, NoiseShares | CompactShares)
    server.begin(reservation, minimum_survivors=terms.survivors, corrupt=terms.corrupt)
    if isinstance(server, CompactMechanism):
        return server.release(total, reservation)
    return server.release(total, reservation, clipping=clipping)


def updates(plan: PrivacyPlan, count: int, seed: int = 0) -> list[IntUpdate]:
    """Random updates, quantised by the plan's rule."""
    source = np.random.default_rng(seed)
    rule = plan.clipping
    assert isinstance(rule, Flat)
    return [
        quantise(source.normal(size=plan.dimension), clipping=rule, grid_steps=plan.grid)
        for _ in range(count)
    ]


def sum_of(plan: PrivacyPlan, found: list[IntUpdate]) -> IntSum:
    """The exact sum on the plan's grid."""
    return IntSum.of(found, dimension=plan.dimension, grid_steps=plan.contribution_norm)


def central_noise(plan: PrivacyPlan) -> NDArray[np.int64]:
    """What `CentralMechanism` draws first under the frozen entropy."""
    stream = Stream(SeededEntropy(FROZEN))
    return rounded_gaussian(plan.variance, plan.dimension, stream=stream)


def decoded(plan: PrivacyPlan, noisy: Any) -> NDArray[np.float32]:
    """By Python's fractions and one rounding to each float."""
    step = float(plan.clipping_norm / (plan.grid * plan.denominator))
    return np.array([np.float32(float(int(value)) * step) for value in noisy], np.float32)
