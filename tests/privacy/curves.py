"""Names, noises and rates that tests of Rényi curves share."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedcore.privacy.events import (
    RATE_UNIT,
    GaussianEvent,
    PoissonEvent,
)
from fedcore.privacy.units import Adjacency

__all__ = [
    "ADD",
    "NOISE",
    "QUIET",
    "RATES",
    "REPLACE",
    "ZERO",
    "log_sum",
    "parts",
    "sampled",
]

ADD, ZERO, REPLACE = Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE

NOISE = st.fractions(Fraction(3, 10), 20, max_denominator=1000)
RATES = st.integers(1, RATE_UNIT) | st.integers(RATE_UNIT // 1000, RATE_UNIT // 2)
QUIET = st.sampled_from([Fraction(1, 2), Fraction(4, 5), Fraction(1), Fraction(2), Fraction(5)])


def parts(rate: float) -> int:
    return round(rate * RATE_UNIT)


def sampled(rate: float, noise_multiplier: Any) -> PoissonEvent:
    return PoissonEvent(parts(rate), GaussianEvent(Fraction(noise_multiplier)))


def log_sum(logs: NDArray[np.float64]) -> float:
    return float(np.logaddexp.reduce(logs))
