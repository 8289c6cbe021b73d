"""Who adds the noise, and how much of it: one integer variance, whoever draws it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from fedcore.errors import NoiseRoomError, PlanError
from fedcore.privacy.banded import Strategy
from fedcore.privacy.compact import SLOT_BITS, CompactTerms

__all__ = [
    "LARGEST_VARIANCE",
    "LEAST_LOCAL_VARIANCE",
    "LEAST_VARIANCE",
    "BandedNoise",
    "CentralNoise",
    "CompactShares",
    "Noise",
    "NoiseShares",
    "SimulatedNoise",
]

LEAST_VARIANCE, LARGEST_VARIANCE = Fraction(1, 4), Fraction(10**18)
"""What `fedcore.privacy.sampler` draws, in squared grid steps."""

LEAST_LOCAL_VARIANCE = 9
"""A share's standard deviation is at least 3 grid steps: its sum is then Gaussian to 1e-37."""

_TAILS = 12
"""Standard deviations of the noise that a slot has room for."""


@dataclass(frozen=True)
class CentralNoise:
    """Whoever holds the sum adds rounded Gaussian noise to it, and is trusted to."""

    def describe(self) -> str:
        """The trust assumption in words."""
        return "whoever adds up is trusted: it sees the exact sum and adds rounded Gaussian noise"


@dataclass(frozen=True)
class NoiseShares:
    """Every client adds a share of discrete Gaussian noise, so that the sum may be seen.

    `clients`: the most that a sum is over. `survivors`: the fewest that a sum is accepted from
    (`minimum_survivors` of secure aggregation). `corrupt`: of these, how many may have added
    nothing, or told others what. The shares suffice for survivors - corrupt clients; more only add
    noise. Unless the unit is a record, the server tops it up to `clients` shares, so that a release
    does not tell by its noise how many took part. `slot_bits`: of a slot of secure aggregation.
    `limit`: the largest magnitude of one coordinate of one client's sum, in grid steps; None: the
    norm of one contribution.

    Raises: PlanError.
    """

    clients: int
    survivors: int
    corrupt: int
    slot_bits: int = 32
    limit: int | None = None

    def __post_init__(self) -> None:
        _check_cohort(self, "clients", "survivors", "corrupt", "slot_bits")
        if not 2 <= self.slot_bits <= 64 or (
            self.limit is not None and (type(self.limit) is not int or self.limit < 1)
        ):
            raise PlanError(
                f"noise shares: slots of {self.slot_bits} bits, limit {self.limit!r}",
                why="a slot has 2 … 64 bits, and a limit is a positive int or None",
                fix="leave slot_bits at 32 and limit at None",
            )

    @property
    def counted(self) -> int:
        """How many shares the guarantee counts on."""
        return self.survivors - self.corrupt

    def local_variance(self, variance: Fraction) -> Fraction:
        """The variance of one share, if the counted ones are to have `variance` together."""
        return variance / self.counted

    def client_limit(self, norm: int) -> int:
        """The largest magnitude of one coordinate of what one client adds, before noise.

        `norm`: the bound on one contribution, in grid steps, as in `check`.
        """
        return norm if self.limit is None else self.limit

    def check(self, variance: Fraction, norm: int) -> None:
        """That the noise can be drawn, suits its accountant, and fits beside the signal.

        Raises: NoiseRoomError.
        """
        local = self.local_variance(variance)
        if local < LEAST_LOCAL_VARIANCE:
            raise NoiseRoomError(
                f"a share of noise has a standard deviation of {float(local) ** 0.5:.3g} grid "
                f"steps, less than 3",
                why="sums of so coarse shares are not near enough to a Gaussian",
                fix="take more grid_steps",
            )
        if local > LARGEST_VARIANCE:
            raise NoiseRoomError(
                f"a share of noise has a standard deviation of {float(local) ** 0.5:.3g} grid "
                f"steps, more than 10^9",
                why="the sampler draws no wider noise",
                fix="take fewer grid_steps",
            )
        room = 2 ** (self.slot_bits - 1) - self.clients * self.client_limit(norm)
        if room <= 0 or room * room <= _TAILS**2 * self.clients * local:
            raise NoiseRoomError(
                f"{self.clients} clients of up to {self.client_limit(norm)} grid steps and "
                f"their noise do not fit into {self.slot_bits} bits",
                why=f"signal and {_TAILS} standard deviations of noise have to fit",
                fix="take fewer grid_steps, a smaller limit, or wider slots",
            )

    def describe(self) -> str:
        """The trust assumption in words."""
        return (
            f"nobody is trusted with a sum: each of at least {self.survivors} clients adds its "
            f"share of discrete Gaussian noise before secure aggregation, and up to "
            f"{self.corrupt} of them may collude with the server"
        )


@dataclass(frozen=True)
class CompactShares:
    """Every client adds a share of Skellam noise to a rotated update in narrow slots.

    `clients`, `survivors`, `corrupt`: as of `NoiseShares`. `slot_bits`: 16 or 21; None: as the plan
    finds fitting, which fills it in. The server tops the noise up to `clients` shares, so that a
    release does not tell by its noise how many took part.

    Raises: PlanError.
    """

    clients: int
    survivors: int
    corrupt: int
    slot_bits: int | None = None

    def __post_init__(self) -> None:
        _check_cohort(self, "clients", "survivors", "corrupt")
        if self.slot_bits is not None and (
            type(self.slot_bits) is not int or self.slot_bits not in SLOT_BITS
        ):
            raise PlanError(
                f"compact shares: slots of {self.slot_bits!r} bits",
                why="three or four slots share a word, and in fewer bits noise crowds out the "
                "signal",
                fix="take 16 or 21, or leave it to the plan",
            )

    @property
    def counted(self) -> int:
        """How many shares the guarantee counts on."""
        return self.survivors - self.corrupt

    def terms(self, *, dimension: int, noise_multiplier: Fraction) -> CompactTerms:
        """What all clients of a round agree on, for updates of `dimension` coordinates.

        Raises: NoiseRoomError if signal and noise find no room in the slots.
        """
        if self.slot_bits is None:
            return CompactTerms.fitting(
                dimension=dimension,
                clients=self.clients,
                counted=self.counted,
                noise_multiplier=noise_multiplier,
            )
        return CompactTerms(
            dimension=dimension,
            clients=self.clients,
            counted=self.counted,
            noise_multiplier=noise_multiplier,
            slot_bits=self.slot_bits,
        )

    def fitted(self, terms: CompactTerms) -> CompactShares:
        """These shares in the slots of `terms`."""
        return replace(self, slot_bits=terms.slot_bits)

    def describe(self) -> str:
        """The trust assumption in words."""
        return (
            f"nobody is trusted with a sum: each of at least {self.survivors} clients adds its "
            f"share of Skellam noise before secure aggregation, and up to {self.corrupt} of them "
            f"may collude with the server"
        )


@dataclass(frozen=True)
class BandedNoise:
    """Whoever holds the sums adds noise that partly cancels between rounds, and is trusted to."""

    strategy: Strategy

    def __post_init__(self) -> None:
        if type(self.strategy) is not Strategy:
            raise PlanError(
                f"banded noise of a {type(self.strategy).__name__}",
                why="its coefficients belong to the plan",
                fix="pass Strategy.design(…)",
            )

    def describe(self) -> str:
        """The trust assumption in words."""
        return (
            f"whoever adds up is trusted: it keeps the last {self.strategy.bands - 1} exact sums "
            f"and adds rounded Gaussian noise to their banded combination"
        )


@dataclass(frozen=True)
class SimulatedNoise:
    """Floating-point noise from a seed, for studies of speed: NOT PRIVATE."""

    seed: int

    def __post_init__(self) -> None:
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise PlanError(
                f"simulated noise from the seed {self.seed!r:.80}",
                why="it names one stream of numbers, to everybody",
                fix="pass an int of 0 … 2^63 - 1",
            )

    def describe(self) -> str:
        """The trust assumption in words."""
        return "NOT PRIVATE: floating-point noise from a known seed"


Noise: TypeAlias = CentralNoise | NoiseShares | CompactShares | BandedNoise | SimulatedNoise


def _check_cohort(noise: NoiseShares | CompactShares, *counts: str) -> None:
    kind = "noise shares" if isinstance(noise, NoiseShares) else "compact shares"
    for name in counts:
        if type(value := getattr(noise, name)) is not int or value < 0:
            raise PlanError(
                f"{kind}: {name} = {value!r}",
                why="it counts clients, or bits",
                fix=f"pass a plain int as {name}",
            )
    if not 0 <= noise.corrupt < noise.survivors <= noise.clients:
        raise PlanError(
            f"{kind} of {noise.survivors} survivors of {noise.clients} clients, "
            f"{noise.corrupt} of them corrupt, do not add up",
            why="at least one honest client has to survive to add noise",
            fix="keep corrupt < survivors <= clients",
        )
