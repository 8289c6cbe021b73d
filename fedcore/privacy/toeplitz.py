"""Noise that cancels from round to round: which banded matrix makes prefix sums most accurate.

Training adds the rounds up, so what counts is the error of the prefix sums A x, A the lower
triangle of ones. A strategy C releases C x with noise and decodes by A C^-1; here C is Toeplitz,
with coefficients c_0 … c_(b-1) down its first b diagonals. With participations at least b rounds
apart, a client's columns of C have no row in common, and its share of the release has the norm
of c for each of them. All errors are therefore in units of the noise multiplier, the clipping
norm, and the square root of the number of participations.

Source: Choquette-Choo et al., "(Amplified) Banded Matrix Factorization", arXiv:2306.08153; the
square root of A is that of Fichtenberger, Henzinger, Upadhyay, arXiv:2202.11205.
"""

from __future__ import annotations

from math import sqrt
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import InstallError, PlanError

__all__ = [
    "log_squared_error",
    "optimised_coefficients",
    "prefix_error",
    "square_root_coefficients",
]

_MOST_BANDS: Final = 2**16


def square_root_coefficients(bands: int) -> NDArray[np.float64]:
    """The first coefficients of the square root of A: (bands,), 1, 1/2, 3/8, …, C(2j, j) / 4^j.

    Raises: PlanError.

    >>> square_root_coefficients(4)
    array([1.    , 0.5   , 0.375 , 0.3125])
    """
    _require_bands(bands, _MOST_BANDS)
    j = np.arange(1, bands)
    return np.cumprod(np.concatenate([[1.0], (2 * j - 1) / (2 * j)]))


def optimised_coefficients(rounds: int, bands: int) -> NDArray[np.float64]:
    """The coefficients with the least root mean squared error over `rounds`: (bands,), c_0 = 1.

    Non-negative, non-increasing, and never worse than `square_root_coefficients`, from which
    L-BFGS-B sets out. Raises: InstallError without SciPy; PlanError if there are more bands than
    rounds.
    """
    _require_bands(bands, min(rounds, _MOST_BANDS))
    optimize, _ = _scipy()
    closed = square_root_coefficients(bands)
    if bands == 1:
        return closed
    found = optimize.minimize(
        lambda tail: _with_gradient_of_tail(tail, rounds),
        closed[1:],
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, 1)] * (bands - 1),
        options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8},
    )
    ordered = np.minimum.accumulate(np.concatenate([[1.0], found.x]))
    return min(closed, ordered, key=lambda c: prefix_error(c, rounds))


def prefix_error(coefficients: NDArray[np.float64], rounds: int) -> float:
    """Root mean squared error of the prefix sums of `rounds` rounds, a coordinate.

    In units of the noise multiplier, the clipping norm and the square root of the participations.

    >>> round(prefix_error(np.ones(1), 199), 9)  # independent noise: the square root of 100
    10.0
    """
    # B = A C^-1 is Toeplitz as well, and c * b = (1, 1, 1, …) gives its coefficients in turn.
    reversed_tail = coefficients[:0:-1]
    bands = len(coefficients)
    b = np.zeros(bands - 1 + rounds)  # zeros stand before the first
    for t in range(rounds):
        b[bands - 1 + t] = (1 - reversed_tail @ b[t : t + bands - 1]) / coefficients[0]
    mean = float(b[bands - 1 :] ** 2 @ _weights(rounds))
    return sqrt(mean * float(coefficients @ coefficients))


def log_squared_error(
    coefficients: NDArray[np.float64], rounds: int
) -> tuple[float, NDArray[np.float64]]:
    """Twice the logarithm of `prefix_error`, and its gradient: (b,) to a number and (b,).

    With L the inverse filter, b = L 1 and d(b) = -L (b shifted by j) d(c_j), so that one pass of
    the adjoint filter, backwards in time, serves all j. Raises: InstallError without SciPy.
    """
    _, signal = _scipy()
    b = signal.lfilter([1.0], coefficients, np.ones(rounds))
    weighted = b * _weights(rounds)
    mean, norm2 = weighted @ b, coefficients @ coefficients
    adjoint = signal.lfilter([1.0], coefficients, (2 / mean) * weighted[::-1])[::-1]
    lags = range(min(len(coefficients), rounds))  # a diagonal beyond the matrix changes nothing
    gradient = 2 / norm2 * coefficients
    gradient[: len(lags)] -= [adjoint[j:] @ b[: rounds - j] for j in lags]
    return float(np.log(mean) + np.log(norm2)), gradient


def _with_gradient_of_tail(
    tail: NDArray[np.float64], rounds: int
) -> tuple[float, NDArray[np.float64]]:
    value, gradient = log_squared_error(np.concatenate([[1.0], tail]), rounds)
    return value, gradient[1:]


def _weights(rounds: int) -> NDArray[np.float64]:
    """How often each b_s^2 counts: in the prefix sums from s on, a mean over all."""
    return np.arange(rounds, 0, -1) / rounds


def _scipy() -> tuple[ModuleType, ModuleType]:
    """SciPy's modules `optimize` and `signal`."""
    try:
        from scipy import optimize, signal
    except ImportError as error:
        raise InstallError(
            "optimised coefficients: SciPy is not installed",
            why="they are found by its L-BFGS-B",
            fix="in a checkout: pip install -e '.[dp]', or take square_root_coefficients",
        ) from error
    return optimize, signal


def _require_bands(bands: int, most: int) -> None:
    if not 1 <= bands <= most:
        raise PlanError(
            f"a strategy of {bands} bands cannot be made",
            why="every band is a diagonal of a matrix with a row for each round",
            fix=f"take 1 … {most} bands",
        )
