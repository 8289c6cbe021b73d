"""Plans that stand, one for each kind of noise, for tests to change a field of."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from fedcore.privacy.adaptive import Adaptive
from fedcore.privacy.banded import Strategy
from fedcore.privacy.clipping import Flat
from fedcore.privacy.noise import BandedNoise, CentralNoise, CompactShares, NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampling import Poisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from fedcore.secagg.packing import Block, Layout

__all__ = [
    "MAKERS",
    "OPENLY",
    "adaptive",
    "banded",
    "client",
    "compact",
    "layout_of",
    "record",
    "sampled",
    "shared",
]

OPENLY: dict[str, Any] = {
    "sampling": Uncontrolled(minimum_separation=1, maximum_participations=3),
    "adjacency": Adjacency.ZERO_OUT,
}
"""What shares of noise ask for where few clients take part."""


def client(**changes: Any) -> PrivacyPlan:
    """Three rounds of a Poisson sample of clients and central noise, a lavish budget."""
    terms: dict[str, Any] = {
        "unit": Unit.CLIENT,
        "adjacency": Adjacency.ADD_REMOVE,
        "population": 100,
        "sampling": Poisson(2**31),
        "clipping": Flat(1),
        "noise": CentralNoise(),
        "noise_multiplier": Fraction(3, 2),
        "denominator": 50,
        "dimension": 6,
        "rounds": 3,
        "epsilon": 100.0,
    }
    return PrivacyPlan(**terms | changes)


def record(**changes: Any) -> PrivacyPlan:
    """Noisy steps over records, two in a round."""
    return client(**{"unit": Unit.RECORD, "steps": 2} | changes)


def shared(**changes: Any) -> PrivacyPlan:
    """Clients that each add a share of the noise, openly."""
    return client(**OPENLY | {"noise": NoiseShares(clients=5, survivors=4, corrupt=1)} | changes)


def compact(**changes: Any) -> PrivacyPlan:
    """Clients that each add a share of Skellam noise, in narrow slots, openly."""
    return client(**OPENLY | {"noise": CompactShares(clients=5, survivors=4, corrupt=1)} | changes)


def sampled(**changes: Any) -> PrivacyPlan:
    """Clients that each add a share of the noise, of a sample that may differ much in size."""
    terms = {"noise": NoiseShares(clients=100, survivors=5, corrupt=1), "epsilon": 4.0}
    return client(**terms | changes)


def adaptive(**changes: Any) -> PrivacyPlan:
    """A norm that follows the median; the last coordinate counts."""
    return client(**{"clipping": Adaptive(1, 50), "dimension": 7} | changes)


def banded(**changes: Any) -> PrivacyPlan:
    """Three rounds of one matrix."""
    terms = {
        "noise": BandedNoise(Strategy((1024, 512))),
        "sampling": Uncontrolled(minimum_separation=2, maximum_participations=2),
        "adjacency": Adjacency.ZERO_OUT,
    }
    return client(**terms | changes)


MAKERS: dict[str, Callable[..., PrivacyPlan]] = {
    "client": client,
    "record": record,
    "shared": shared,
    "sampled": sampled,
    "adaptive": adaptive,
    "banded": banded,
    "compact": compact,
}


def layout_of(plan: PrivacyPlan, bits: int) -> Layout:
    """What a client of the plan uploads, in slots of so many bits that wrap round."""
    return Layout((Block(plan.wire_dimension, bits, 2 ** (bits - 1) - 1, wraps=True),))
