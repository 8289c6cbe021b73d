"""Two bytes a coordinate: updates rotated, rounded at random, and noised by Skellam shares.

A client clips its update, rotates it, scales it to `CompactTerms.grid_steps` and rounds each
coordinate up or down at random, without bias. That may lengthen the vector, by √D at worst; so it
is rounded again until the integers lie within `radius`, little above what rounding does on average.
The guarantee counts with the radius. Sums are taken modulo 2^`slot_bits`: to reduce a private sum
is post-processing, and a coordinate that wraps round costs accuracy alone. Not constant time: how
often a client rounds depends on its update, so nobody may time it.

Source: Kairouz, Liu, Steinke, arXiv:2102.06387, Proposition 22, for the conditional rounding;
Agarwal, Kairouz, Liu, arXiv:2110.04995, for Skellam noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DtypeError, NoiseRoomError, PlanError, ShapeError
from fedcore.privacy.clipping import Clipping, exact_norm
from fedcore.privacy.csprng import Stream
from fedcore.privacy.events import SkellamEvent
from fedcore.privacy.rotation import Rotation, padded_length
from fedcore.privacy.skellam import LARGEST_VARIANCE, SMALLEST_VARIANCE
from fedcore.privacy.values import IntUpdate, squared_norm

__all__ = ["SLOT_BITS", "CompactTerms", "centred", "compress", "expand"]

SLOT_BITS: Final = (16, 21)
"""Widths of a slot: four or three share a word of 64 bits."""

_WELCOME_INFLATION, _LARGEST_INFLATION = Fraction(21, 20), Fraction(2)
_DEVIATIONS: Final = 4  # a coordinate of a sum wraps beyond so many, one of 16,000
_ATTEMPTS: Final = 64


@dataclass(frozen=True)
class CompactTerms:
    """What all clients of a round agree on; public.

    `dimension`: coordinates of an update. `clients`: the most that a sum is over. `counted`: of how
    many the guarantee counts the noise, the least accepted survivors less the corrupt.
    `noise_multiplier`: standard deviation of the counted noise in units of the sensitivity, exact.
    Raises: PlanError, also if signal and noise find no room in the slots.

    >>> terms = CompactTerms(
    ...     dimension=2**20, clients=100, counted=95, noise_multiplier=Fraction(1), slot_bits=16
    ... )
    >>> terms.grid_steps, terms.radius, round(float(terms.local_variance) ** 0.5)
    (7930, 7948, 815)
    """

    dimension: int
    clients: int
    counted: int
    noise_multiplier: Fraction
    slot_bits: int

    def __post_init__(self) -> None:
        for name in ("dimension", "clients", "counted"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise _refused(name, value, "it is a count", f"pass a positive int as {name}")
        if self.counted > self.clients:
            raise _refused(
                "counted",
                self.counted,
                f"no more than {self.clients} clients add noise",
                "take the least number of survivors less the corrupt",
            )
        if type(self.noise_multiplier) is not Fraction or self.noise_multiplier <= 0:
            raise _refused(
                "noise_multiplier",
                self.noise_multiplier,
                "noise that was rounded, or none, guarantees nothing",
                "pass a positive Fraction",
            )
        if self.slot_bits not in SLOT_BITS:
            raise _refused(
                "slot_bits",
                self.slot_bits,
                "three or four slots share a word, and in fewer bits noise crowds out the signal",
                "take 16 or 21",
            )
        if not self.grid_steps or self.inflation > _LARGEST_INFLATION:
            raise _refused(
                "noise_multiplier",
                self.noise_multiplier,
                f"{self.slot_bits} bits leave so little room beside the noise that rounding would "
                f"more than double it",
                "take 21 bits, or shares of noise in 32 bits, which need no rotation",
                error=NoiseRoomError,
            )
        if self.local_variance < SMALLEST_VARIANCE:
            raise _refused(
                "noise_multiplier",
                self.noise_multiplier,
                "a share of the noise would be less than half a grid step",
                "take more noise, or fewer clients a sum",
                error=NoiseRoomError,
            )

    @classmethod
    def fitting(
        cls, *, dimension: int, clients: int, counted: int, noise_multiplier: Fraction
    ) -> CompactTerms:
        """Terms in slots of 16 bits if rounding then costs at most 5 % of variance, else of 21.

        Raises: PlanError.
        """
        try:
            narrow = cls(dimension, clients, counted, noise_multiplier, min(SLOT_BITS))
        except PlanError:
            narrow = None
        if narrow is not None and narrow.inflation <= _WELCOME_INFLATION:
            return narrow
        return cls(dimension, clients, counted, noise_multiplier, max(SLOT_BITS))

    @property
    def padded(self) -> int:
        """Coordinates of what is sent: those of a rotated update."""
        return padded_length(self.dimension)

    @cached_property
    def grid_steps(self) -> int:
        """S: integer steps in a clipping norm, as many below 2^b as find room; 0 if none do."""
        low, high = 0, 2**self.slot_bits
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._has_room(middle) else (low, middle)
        return low

    @property
    def radius(self) -> int:
        """The largest L2 norm of a rounded update, in grid steps: the sensitivity."""
        return _radius(self.grid_steps, self.padded)

    @property
    def inflation(self) -> Fraction:
        """By what rounding multiplies the variance of the noise, for the same privacy."""
        return Fraction(self.radius, self.grid_steps) ** 2

    @property
    def variance(self) -> Fraction:
        """Of the counted noise in a coordinate of the sum, in squared grid steps."""
        return self.noise_multiplier**2 * self.radius**2

    @property
    def local_variance(self) -> Fraction:
        """Of one client's share of the noise, in squared grid steps."""
        return self.variance / self.counted

    @property
    def event(self) -> SkellamEvent:
        """What a sum costs a client that is known to be in it."""
        return SkellamEvent(
            variance=self.variance,
            squared_sensitivity=Fraction(self.radius**2),
            dimension=self.padded,
        )

    def _has_room(self, grid_steps: int) -> bool:
        """Whether four standard deviations of a coordinate fit into half of the slot's range.

        Of the sum of all clients, whose updates agree at worst, the coordinate of a random rotation
        has the variance n² S² / D; rounding adds at most n / 4.
        """
        share = self.noise_multiplier**2 * _radius(grid_steps, self.padded) ** 2 / self.counted
        signal = Fraction((self.clients * grid_steps) ** 2, self.padded)
        spread = signal + self.clients * (share + Fraction(1, 4))
        room = Fraction(2 ** (self.slot_bits - 1), _DEVIATIONS) ** 2
        return spread <= room and share <= LARGEST_VARIANCE


def compress(
    update: NDArray[np.floating[Any]],
    *,
    clipping: Clipping,
    terms: CompactTerms,
    rotation: Rotation,
    stream: Stream,
) -> IntUpdate:
    """The update (D,) clipped, rotated and rounded: (padded,) integers within `terms.radius`.

    Every float vector of every dtype has a result; of one that is not finite, zeros. The client
    adds `skellam(terms.local_variance, terms.padded, …)` before anything leaves it. Of 10^6
    coordinates this takes 29 ms of one core, half of it the rotation.
    Raises: DtypeError, ShapeError for no vector of D floats; PlanError for another rotation.
    """
    _check_rotation(rotation, terms)
    if update.shape != (terms.dimension,):
        raise ShapeError(
            f"an update of shape {update.shape} is to be compressed",
            why=f"the terms are for {terms.dimension} coordinates",
            fix="send the update of the model that the round started from",
        )
    rotated = rotation.forward(clipping.clip(update))
    rotated *= float(terms.grid_steps / clipping.norm)
    return IntUpdate(_rounded(rotated, terms.radius, stream), terms.radius)


def centred(total: NDArray[np.integer[Any]], *, slot_bits: int) -> NDArray[np.int64]:
    """The integers −2^(b−1) … 2^(b−1) − 1 congruent to `total` modulo 2^b, b = `slot_bits` ≤ 64.

    Raises: DtypeError.

    >>> centred(np.array([65535, 32768, 32767, -1]), slot_bits=16)
    array([    -1, -32768,  32767,     -1])
    """
    if total.dtype.kind not in "iu":
        raise DtypeError(
            f"a sum of {total.dtype} is to be reduced",
            why="sums of slots are integers",
            fix="pass what secure aggregation returned",
        )
    unused = 64 - slot_bits
    return total.astype(np.int64) << unused >> unused


def expand(
    total: NDArray[np.int64],
    *,
    clipping_norm: Fraction | float,
    terms: CompactTerms,
    rotation: Rotation,
    denominator: int,
) -> NDArray[np.float32]:
    """The mean that a sum with its noise, (padded,) modulo 2^slot_bits, stands for: float32 (D,).

    Raises: DtypeError, ShapeError, PlanError.
    """
    _check_rotation(rotation, terms)
    if type(denominator) is not int or denominator < 1:
        raise PlanError(
            f"a sum divided by {denominator!r} is no mean",
            why="the denominator is a public number, chosen before anybody replied",
            fix="pass the plan's denominator, a positive int",
        )
    values = centred(total, slot_bits=terms.slot_bits).astype(np.float64)
    step = float(exact_norm(clipping_norm) / (terms.grid_steps * denominator))
    return (rotation.backward(values) * step).astype(np.float32)


def _radius(grid_steps: int, dimension: int) -> int:
    """The least integer whose square is not below that of Proposition 22, for β = exp(−1/2).

    Vectors of norm S round to squared norms of at most (S + √D)², and with probability 1 − β to at
    most S² + D / 4 + √(2 ln 1/β) (S + √D / 2), where the root is 1.
    """
    squared = grid_steps * grid_steps
    always = squared + dimension + math.isqrt(4 * squared * dimension)
    often = squared + grid_steps + (dimension + math.isqrt(4 * dimension)) // 4
    bound = min(always, often)
    root = math.isqrt(bound)
    return root + (root * root < bound)


def _rounded(
    vector: NDArray[np.float64], radius: int, stream: Stream, attempts: int = _ATTEMPTS
) -> NDArray[np.int64]:
    """`vector` rounded at random to norm `radius`, or cut toward zero should that never succeed.

    An attempt fails with probability exp(−1/2) at most, so all do once in 10^13 vectors.
    """
    below = np.floor(vector)
    chance = (vector - below) * 2.0**32
    whole = below.astype(np.int64)
    bits = np.empty(vector.size, np.uint32)
    for _ in range(attempts):
        stream.fill(bits)
        found = whole + (bits < chance)
        if squared_norm(found) <= radius * radius:
            return found
    return np.trunc(vector).astype(np.int64)


def _check_rotation(rotation: Rotation, terms: CompactTerms) -> None:
    if rotation.dimension != terms.dimension:
        raise PlanError(
            f"a rotation of {rotation.dimension} coordinates for terms of {terms.dimension}",
            why="updates could not be told from what is padded",
            fix="make the round's rotation with terms.dimension",
        )


def _refused(
    name: str, value: object, why: str, fix: str, *, error: type[PlanError] = PlanError
) -> PlanError:
    return error(f"compact terms with {name} = {value!r:.80}", why=why, fix=fix)
