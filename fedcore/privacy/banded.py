"""Rounds share their noise: a banded strategy as an exact Gaussian mechanism on a coded stream.

Where clients come when they want, no sampling amplifies privacy; noise that cancels between rounds
takes its place. Instead of a sum X_t, the stream releases y_t = Σ_j m_j X_(t−j) plus rounded
Gaussian noise, with integers m, and decodes by g_t = (y_t − Σ_(j≥1) m_j g_(t−j)) / m_0. All that
touches data is integers, so it *is* the Gaussian mechanism on the encoded stream, rounded; a sum
may depend on what was released before it, as the matrix is lower-triangular (Denisov et al.,
arXiv:2202.08312). Decoding is post-processing.

The noise is drawn by whoever owns the stream, with variance z² · S² · `Strategy.sensitivity2`.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DtypeError, PlanError, ReservationError, ShapeError
from fedcore.privacy.toeplitz import optimised_coefficients, prefix_error, square_root_coefficients

__all__ = ["FRACTION_BITS", "BandedStream", "Family", "Strategy"]

FRACTION_BITS: Final = 10
"""F: a coefficient of 1 becomes the integer 2^F. At 342 bands that costs 1e-5 of the error."""

Family: TypeAlias = Literal["square-root", "optimised"]
"""How coefficients are found: in closed form, or by an optimiser that needs SciPy."""

_MOST_BITS: Final = 62  # of an encoded sum, so that noise as large does not overflow either


@dataclass(frozen=True)
class Strategy:
    """The integers m_0 ≥ m_1 ≥ … ≥ m_(b−1) > 0 down the diagonals of the matrix; public.

    In this order no root of Σ m_j x^j lies inside the unit circle (Eneström and Kakeya), so that
    what a decoder carries from round to round does not grow without bound. The tuple is the
    strategy's only encoding. Raises: PlanError.

    >>> strategy = Strategy.design("square-root", rounds=200, bands=4)
    >>> strategy.coefficients
    (1024, 512, 384, 320)
    >>> strategy.sensitivity2(max_participations=10, minimum_separation=4)
    15605760
    """

    coefficients: tuple[int, ...]

    def __post_init__(self) -> None:
        m = self.coefficients
        if (
            type(m) is not tuple
            or not m
            or any(type(value) is not int for value in m)
            or min(m) <= 0
            or list(m) != sorted(m, reverse=True)
            or sum(m) >= 2**32
        ):
            raise PlanError(
                f"the coefficients {reprlib.repr(m)} are no strategy",
                why="a strategy is a tuple of positive integers that do not increase, below 2^32 "
                "in all",
                fix="take Strategy.design(…) or Strategy.rounded(…)",
            )

    @classmethod
    def design(cls, family: Family, *, rounds: int, bands: int) -> Strategy:
        """The strategy of a family for so many rounds; with one band the plain mechanism.

        Raises: InstallError if `family` is "optimised" and SciPy is not installed: it is not
        replaced silently, for the coefficients belong to the plan. PlanError.
        """
        if family == "square-root":
            return cls.rounded(square_root_coefficients(bands))
        if family == "optimised":
            return cls.rounded(optimised_coefficients(rounds, bands))
        raise PlanError(
            f"{family!r} is no family of strategies",
            why="coefficients come in closed form or from an optimiser",
            fix='take "square-root", or "optimised" if SciPy is installed',
        )

    @classmethod
    def rounded(cls, coefficients: NDArray[np.float64]) -> Strategy:
        """The strategy of m_j = round(c_j · 2^F) from c (b,); zeros at the end are no bands.

        Raises: PlanError.
        """
        c = np.asarray(coefficients, np.float64)
        if c.ndim != 1 or not (np.abs(c) < 2**32).all():
            raise PlanError(
                f"the coefficients {reprlib.repr(c.tolist())} are no strategy",
                why="they are the finite numbers c_0 = 1, c_1, … of an array of shape (b,)",
                fix="take square_root_coefficients or optimised_coefficients",
            )
        return cls(tuple(int(m) for m in np.trim_zeros(np.rint(c * 2**FRACTION_BITS), "b")))

    @property
    def bands(self) -> int:
        """b: a sum enters what is released in its own round and in the b − 1 after it."""
        return len(self.coefficients)

    @property
    def largest_sum(self) -> int:
        """The largest magnitude of a coordinate of a sum whose encoding cannot overflow."""
        return ((1 << _MOST_BITS) - 1) // sum(self.coefficients)

    def sensitivity2(self, max_participations: int, minimum_separation: int) -> int:
        """The squared L2 norm, exact, by which one client moves the encoded stream, where S = 1.

        The client takes part at most so often, with integer vectors of norm at most S, in rounds
        t and t' only if |t − t'| ≥ `minimum_separation`. Columns of the matrix that far apart have
        no row in common, hence participations · Σ m_j², reached as soon as the rounds hold them.
        Raises: PlanError if the bands are wider than that and the client comes again.
        Source: Choquette-Choo et al., arXiv:2306.08153.
        """
        if min(max_participations, minimum_separation) < 1:
            raise PlanError(
                f"{max_participations} participations, {minimum_separation} rounds apart",
                why="a client takes part at least once, and once a round",
                fix="take both from 1",
            )
        if max_participations > 1 and self.bands > minimum_separation:
            raise PlanError(
                f"a strategy of {self.bands} bands for participations {minimum_separation} apart",
                why="a client would come again while its last sum still enters the stream, and its "
                "contributions would add up",
                fix=f"take at most {minimum_separation} bands, or let a client wait "
                f"{self.bands} rounds",
            )
        return max_participations * sum(m * m for m in self.coefficients)

    def expected_error(self, rounds: int) -> float:
        """Root mean squared error of the prefix sums of `rounds` rounds, a coordinate.

        In units of z · S · √(participations), z the noise multiplier.
        """
        return prefix_error(np.array(self.coefficients, np.float64), rounds)


class BandedStream:
    """One block of the matrix at work: encodes sums, and decodes what was released of them.

    In each round `encode`, then the noise, then `decode`. It holds 16 · (b − 1) · D bytes. Half of
    them are the last b − 1 raw sums, which are secret: a stream cannot be printed, pickled or
    copied. Once they are lost, as in a crash, a new stream begins a new block, whose privacy is
    charged anew. A band takes about 1 ns a coordinate to encode, and half of that to decode.

    Raises: ArgumentError.

    >>> stream = BandedStream(Strategy((2, 1)), dimension=1)
    >>> for total, noise in [(10, 4), (20, 0), (30, -3)]:
    ...     y = stream.encode(np.array([total])) + noise
    ...     print(y, stream.decode(y))
    [24] [12.]
    [50] [19.]
    [77] [29.]
    """

    def __init__(self, strategy: Strategy, dimension: int) -> None:
        if dimension < 1:
            raise ArgumentError(
                f"a stream of vectors of {dimension} coordinates",
                why="a vector has at least one",
                fix="pass the length of the sums",
            )
        self.strategy, self.dimension, self.steps = strategy, dimension, 0
        self._tail = np.array(strategy.coefficients[1:], np.int64)
        # Round t stands in row t mod (b − 1) until t + b − 1 takes its place.
        self._sums = np.zeros((strategy.bands - 1, dimension), np.int64)
        self._decoded = np.zeros((strategy.bands - 1, dimension), np.float64)
        self._encoded_only = False

    def __repr__(self) -> str:
        bands, dimension, steps = self.strategy.bands, self.dimension, self.steps
        return f"BandedStream({bands=}, {dimension=}, {steps=})"

    def __reduce__(self) -> NoReturn:
        raise PlanError(
            "a banded stream can be neither pickled nor copied",
            why="it holds raw sums, and a second one would release them with other noise",
            fix="begin a new stream, and charge for a new block",
        )

    def encode(self, total: NDArray[np.int64]) -> NDArray[np.int64]:
        """Σ_j m_j X_(t−j) for the round's sum X_t = `total`: (D,), int64; still without noise.

        Raises: ReservationError if the last round is not decoded; DtypeError, ShapeError; and
        ArgumentError for a coordinate beyond `Strategy.largest_sum`. Then the stream is unchanged.
        """
        if self._encoded_only:
            raise _out_of_turn("encoded", "decode what was released of the last round first")
        self._check(total)
        if max(int(total.max()), -int(total.min())) > self.strategy.largest_sum:
            raise ArgumentError(
                "a coordinate of a sum is too large to be encoded",
                why=f"beyond {self.strategy.largest_sum} the coded stream could overflow",
                fix="take a coarser grid, so that clients · S stays below it",
            )
        encoded = self.strategy.coefficients[0] * total
        if len(self._sums):
            # By einsum 0.44 ms a band for 10^6 coordinates, by products and additions 0.75.
            encoded += np.einsum("j,jd->d", self._weights(self.steps), self._sums)
            self._sums[self.steps % len(self._sums)] = total
        self.steps += 1
        self._encoded_only = True
        return encoded

    def decode(self, released: NDArray[np.int64]) -> NDArray[np.float64]:
        """The round's sum, in grid steps, from its encoding with noise: (D,), int64 to float64.

        Raises: ReservationError unless it follows `encode`; DtypeError, ShapeError.
        """
        if not self._encoded_only:
            raise _out_of_turn("decoded", "encode the round's sum first, and release it once")
        self._check(released)
        decoded = released.astype(np.float64)
        if len(self._decoded):
            decoded -= self._weights(self.steps - 1) @ self._decoded
        decoded /= self.strategy.coefficients[0]
        if len(self._decoded):
            self._decoded[(self.steps - 1) % len(self._decoded)] = decoded
        self._encoded_only = False
        return decoded

    def _weights(self, step: int) -> NDArray[np.int64]:
        """m_1 … m_(b−1) in the order in which the rounds before `step` stand in the rows."""
        rows = len(self._sums)
        return self._tail[(step - 1 - np.arange(rows)) % rows]

    def _check(self, vector: NDArray[Any]) -> None:
        if vector.dtype != np.int64:
            raise DtypeError(
                f"a vector of a banded stream has dtype {vector.dtype}",
                why="the stream is exact in integers of 64 bits",
                fix="pass an array of int64",
            )
        if vector.shape != (self.dimension,):
            raise ShapeError(
                f"a vector of a banded stream has shape {vector.shape}",
                why=f"this stream's vectors have {self.dimension} coordinates",
                fix=f"pass an array of shape ({self.dimension},)",
            )


def _out_of_turn(done: str, fix: str) -> ReservationError:
    return ReservationError(
        f"a round of a banded stream was to be {done} out of turn",
        why="each round is encoded, released and decoded once, in this order",
        fix=fix,
    )
