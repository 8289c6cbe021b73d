"""Differential privacy: exact integer noise, honest accounting, and a ledger that fails closed.

A `PrivacyPlan` states what is protected and how; a `Ledger` pays for each round before it begins;
a mechanism turns a sum of clipped integers into a mean that may be looked at. Nothing here knows
models or sockets. `docs/privacy.md` says what is promised to whom, and shows each way to train.

>>> import numpy as np
>>> from fractions import Fraction
>>> from tempfile import TemporaryDirectory
>>> plan = PrivacyPlan(
...     unit=Unit.CLIENT,
...     adjacency=Adjacency.ADD_REMOVE,
...     population=1000,
...     sampling=Poisson(rate_of(0.1)),
...     clipping=Flat(1.0),
...     noise=CentralNoise(),
...     noise_multiplier=Fraction(1),
...     denominator=100,
...     dimension=3,
...     rounds=20,
...     epsilon=4.0,
... ).calibrated()
>>> mechanism = CentralMechanism(plan)
>>> with TemporaryDirectory() as folder, Ledger.create(folder, plan) as ledger:
...     reservation = ledger.reserve(0)
...     cohort = reservation.select()
...     updates = [
...         quantise(np.ones(3), clipping=plan.clipping, grid_steps=plan.grid) for _ in cohort
...     ]
...     total = IntSum.of(updates, dimension=3, grid_steps=plan.grid)
...     mean = mechanism.release(total, reservation)
...     print(mean.vector.shape, round(float(plan.noise_multiplier), 2), f"{ledger.epsilon():.2f}")
(3,) 0.87 1.78
"""

from fedcore.privacy.accounting import Epsilon, account
from fedcore.privacy.adaptive import Adaptive, QuantileState
from fedcore.privacy.banded import BandedStream, Strategy
from fedcore.privacy.calibration import noise_multiplier, rounds_within
from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.compact import CompactTerms, compress, expand
from fedcore.privacy.compact_mechanism import CompactAdder, CompactMechanism
from fedcore.privacy.csprng import Stream
from fedcore.privacy.dpsgd import NoisySteps, RecordSum, draw_records
from fedcore.privacy.events import (
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.grade import Grade
from fedcore.privacy.ledger import Head, Ledger, Receipt, Reservation, Verification, verify
from fedcore.privacy.mechanisms import (
    BandedMechanism,
    CentralMechanism,
    PrivateMean,
    ShareAdder,
    SharedMechanism,
    read_release,
    released_mean,
)
from fedcore.privacy.noise import (
    BandedNoise,
    CentralNoise,
    CompactShares,
    NoiseShares,
    SimulatedNoise,
)
from fedcore.privacy.plan import PrivacyPlan, default_delta
from fedcore.privacy.quantise import quantise, quantise_rows
from fedcore.privacy.rotation import Rotation
from fedcore.privacy.sampler import discrete_gaussian, rounded_gaussian
from fedcore.privacy.sampling import FixedSize, Poisson, TruncatedPoisson, Uncontrolled, rate_of
from fedcore.privacy.simulated import SimulatedMean, SimulatedMechanism
from fedcore.privacy.skellam import skellam
from fedcore.privacy.units import Adjacency, Unit
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum

__all__ = [
    "Adaptive",
    "Adjacency",
    "BandedMechanism",
    "BandedNoise",
    "BandedStream",
    "CentralMechanism",
    "CentralNoise",
    "CompactAdder",
    "CompactMechanism",
    "CompactShares",
    "CompactTerms",
    "Epsilon",
    "Event",
    "FixedSize",
    "FixedSizeEvent",
    "Flat",
    "GaussianEvent",
    "Grade",
    "Head",
    "IntSum",
    "IntUpdate",
    "Ledger",
    "NoiseShares",
    "NoisySteps",
    "NoisySum",
    "PerLayer",
    "Poisson",
    "PoissonEvent",
    "PrivacyPlan",
    "PrivateMean",
    "QuantileState",
    "Receipt",
    "RecordSum",
    "RepeatedEvent",
    "Reservation",
    "Rotation",
    "ShareAdder",
    "SharedMechanism",
    "SharesEvent",
    "SimulatedMean",
    "SimulatedMechanism",
    "SimulatedNoise",
    "SkellamEvent",
    "Strategy",
    "Stream",
    "TruncatedPoisson",
    "TruncatedPoissonEvent",
    "Uncontrolled",
    "Unit",
    "Verification",
    "account",
    "certificate",
    "compress",
    "default_delta",
    "discrete_gaussian",
    "draw_records",
    "expand",
    "format_certificate",
    "noise_multiplier",
    "quantise",
    "quantise_rows",
    "rate_of",
    "read_release",
    "released_mean",
    "rounded_gaussian",
    "rounds_within",
    "skellam",
    "verify",
]
