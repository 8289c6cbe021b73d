"""Small rounds under an attacker's eyes, and what chance allows an honest round to look like.

Grids, denominators and clipping norms are powers of two here: a release is then exactly the integer
that it was decoded from, and nothing of it is hidden by a rounding to float32.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedcore.entropy import Entropy
from fedcore.privacy.audit.tails import chi_square_tail
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import CentralMechanism, PrivateMean
from fedcore.privacy.noise import CentralNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import quantise
from fedcore.privacy.sampling import Uncontrolled
from fedcore.privacy.units import Adjacency
from fedcore.privacy.values import IntSum, IntUpdate
from tests.privacy import plans

__all__ = [
    "GRID",
    "KEY",
    "UNLIKELY",
    "admit",
    "first_coordinate",
    "gaussian_delta",
    "has_variance",
    "integers_of",
    "is_uniform",
    "release",
    "sum_of",
    "update_of",
    "watched",
]

UNLIKELY = 1e-6
"""What a statistical test takes for impossible: one false alarm in a million runs."""

GRID = 2**16
KEY = bytes(range(32))


def watched(**changes: Any) -> PrivacyPlan:
    """Clients who may come as they like, in many coordinates: noise of one clipping norm in each.

    The budget is lavish, for an attack is to fail by the noise and not by a refusal.
    """
    terms: dict[str, Any] = {
        "noise_multiplier": Fraction(1),
        "sampling": Uncontrolled(minimum_separation=1, maximum_participations=20),
        "adjacency": Adjacency.ZERO_OUT,
        "noise": CentralNoise(),
        "grid_steps": GRID,
        "denominator": 16,
        "dimension": 20_000,
        "rounds": 20,
        "epsilon": 1000.0,
    }
    return plans.client(**terms | changes)


def update_of(plan: PrivacyPlan, update: NDArray[Any], weight: Fraction | int = 1) -> IntUpdate:
    """What an honest client makes of its update (D,)."""
    clipping: Any = plan.clipping
    return quantise(update, clipping=clipping, grid_steps=plan.grid, weight=weight)


def first_coordinate(plan: PrivacyPlan, length: float) -> NDArray[np.float64]:
    """An update (D,) of this length in the first coordinate."""
    update = np.zeros(plan.dimension)
    update[0] = length
    return update


def sum_of(plan: PrivacyPlan, updates: list[IntUpdate]) -> IntSum:
    """The exact sum on the plan's grid."""
    return IntSum.of(updates, dimension=plan.dimension, grid_steps=plan.contribution_norm)


def admit(reservation: Any) -> None:
    """Three clients take part, as their names go; or a cohort is drawn, if the plan draws one."""
    if isinstance(reservation.plan.sampling, Uncontrolled):
        reservation.participate([b"one", b"two", b"three"])
    else:
        reservation.select()


def release(
    plan: PrivacyPlan, folder: Path, updates: list[IntUpdate], *, entropy: Entropy | None = None
) -> PrivateMean:
    """One round of central noise in a new ledger."""
    with Ledger.create(folder, plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        admit(reservation)
        mechanism = CentralMechanism(plan, entropy=entropy)
        return mechanism.release(sum_of(plan, updates), reservation)


def integers_of(plan: PrivacyPlan, vector: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The noisy sum (D,) that was decoded to `vector`, as an attacker reads it back; it is exact.

    A coordinate that is no multiple of C / (S m) fails here.
    """
    scale = plan.grid * plan.denominator / plan.clipping_norm
    assert math.log2(scale).is_integer()
    found = vector.astype(np.float64) * float(scale)
    whole = found.astype(np.int64)
    assert np.array_equal(whole, found)
    return whole


def has_variance(noise: ArrayLike, variance: Fraction | float, *, looks: int = 1) -> bool:
    """Whether independent noise of mean 0 may have this variance: chi-square, on both sides.

    `looks`: how many such questions a test asks, which together are wrong once in a million.
    """
    values = np.asarray(noise, np.float64)
    statistic = float(values @ values) / float(variance)
    above = chi_square_tail(statistic, values.size)
    return min(above, 1 - above) > UNLIKELY / (2 * looks)


def is_uniform(values: NDArray[np.integer[Any]], cells: int) -> bool:
    """Whether integers of 0 … cells - 1 may be uniform."""
    counts = np.bincount(values, minlength=cells)
    expected = values.size / cells
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return chi_square_tail(statistic, cells - 1) > UNLIKELY


def gaussian_delta(noise_multiplier: float, epsilon: float) -> float:
    """The exact delta of one Gaussian mechanism: Balle and Wang 2018, theorem 8."""

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    half = 1 / (2 * noise_multiplier)
    moved = epsilon * noise_multiplier
    return normal(half - moved) - math.exp(epsilon) * normal(-half - moved)
