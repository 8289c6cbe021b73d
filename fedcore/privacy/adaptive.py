"""The clipping norm follows a quantile of the updates' lengths, which is counted under noise too.

Each client sends one coordinate more: a step up if its update was not clipped, a step down if it
was. Update and count are one vector under one noise, hence one event, and the noise on the update
grows just so much that the event costs what it would without the count.

Source: Andrew et al. 1905.03871, algorithm 1 and theorem 1; here on integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import PlanError, ShapeError
from fedcore.privacy.clipping import (
    LARGEST_NORM,
    SMALLEST_NORM,
    Flat,
    exact_norm,
    require_update,
)
from fedcore.privacy.quantise import decode, grid_vector
from fedcore.privacy.values import IntUpdate

__all__ = ["Adaptive", "QuantileState"]

_PLACES = 40  # binary places to which a noise multiplier is rounded up


@dataclass(frozen=True, init=False)
class Adaptive:
    """The clipping norm starts at `initial_norm` and moves to a quantile of the updates' lengths.

    `denominator`: the plan's; clients in a round, declared and not counted. `count_noise`: standard
    deviation of the noise on the number of clipped updates, in clients (default: a twentieth of the
    denominator). `target_quantile`: the share of updates that shall not be clipped.
    `learning_rate`: the norm is multiplied by exp(-learning_rate) at most in a round, or divided.
    Numbers are read exactly. Raises: PlanError.
    """

    initial_norm: Fraction
    denominator: int
    count_noise: Fraction
    target_quantile: Fraction
    learning_rate: Fraction

    def __init__(
        self,
        initial_norm: Fraction | float,
        denominator: int,
        count_noise: Fraction | float | None = None,
        target_quantile: Fraction | float = Fraction(1, 2),
        learning_rate: Fraction | float = Fraction(1, 5),
    ) -> None:
        if type(denominator) is not int or denominator < 1:
            raise _refused("denominator", denominator, "a positive int, the plan's denominator")
        if count_noise is None:
            count_noise = Fraction(denominator, 20)
        quantile = _positive("target_quantile", target_quantile)
        rate = _positive("learning_rate", learning_rate)
        if quantile >= 1:
            raise _refused("target_quantile", target_quantile, "a share above 0 and below 1")
        if rate > 1:
            raise _refused("learning_rate", learning_rate, "at most 1, to stay near the quantile")
        object.__setattr__(self, "initial_norm", exact_norm(initial_norm))
        object.__setattr__(self, "denominator", denominator)
        object.__setattr__(self, "count_noise", _positive("count_noise", count_noise))
        object.__setattr__(self, "target_quantile", quantile)
        object.__setattr__(self, "learning_rate", rate)

    @property
    def norm(self) -> Fraction:
        """The clipping norm of the first round."""
        return self.initial_norm

    def start(self, *, noise_multiplier: Fraction, grid_steps: int) -> QuantileState:
        """What the first round is clipped by. Raises: PlanError, as `count_step`."""
        return QuantileState(self, noise_multiplier, grid_steps, self.initial_norm)

    def update_noise(self, noise_multiplier: Fraction) -> Fraction:
        """The noise multiplier that the update alone gets, rounded up to a multiple of 2^-40.

        (z^-2 - (2 count_noise)^-2)^-1/2: together with the count it costs what z does.
        Raises: PlanError unless z < 2 count_noise.

        >>> float(round(Adaptive(0.1, 100).update_noise(Fraction(1)), 5))
        1.00504
        """
        noise_multiplier = _positive("noise_multiplier", noise_multiplier)
        share = (noise_multiplier / (2 * self.count_noise)) ** 2
        if share >= 1:
            raise PlanError(
                f"a count with noise of {float(self.count_noise):.3g} clients takes the whole "
                f"budget",
                why=f"alone it costs what the noise multiplier {float(noise_multiplier):.4g} "
                f"allows for everything",
                fix=f"take count_noise well above {float(noise_multiplier) / 2:.3g}, or larger "
                f"rounds",
            )
        square = math.ceil(noise_multiplier**2 / (1 - share) * 4**_PLACES)
        return Fraction(math.isqrt(square - 1) + 1, 2**_PLACES)

    def count_step(self, noise_multiplier: Fraction, grid_steps: int) -> int:
        """By how many grid steps the extra coordinate goes up or down.

        Squared, it adds to grid_steps² to what one client can change, for which the noise of
        `update_noise` has the multiplier asked for. Raises: PlanError as `update_noise`, and if the
        grid is too coarse to count on.

        >>> Adaptive(0.1, 100).count_step(Fraction(1), 2**24)
        1686173
        """
        noise = self.update_noise(noise_multiplier)
        step = math.floor(noise * grid_steps / (2 * self.count_noise))
        if step < 1:
            raise PlanError(
                f"{grid_steps} grid steps are too coarse to count clients",
                why="an update that was clipped would count as one that was not",
                fix="take a finer grid or less count_noise",
            )
        assert noise_multiplier**2 * (grid_steps**2 + step**2) <= (noise * grid_steps) ** 2
        return step

    def describe(self) -> str:
        """The rule in words."""
        return (
            f"each contribution is cut to a length that starts at {float(self.initial_norm):.6g} "
            f"and follows the {float(self.target_quantile):.3g} quantile of lengths, counted with "
            f"noise of {float(self.count_noise):.3g} clients in the same release"
        )


@dataclass(frozen=True)
class QuantileState:
    """The clipping norm of one round: what is sent, clipped by and decoded with.

    A count only ever makes the state of the next round.
    """

    rule: Adaptive
    noise_multiplier: Fraction
    grid_steps: int
    norm: Fraction

    def __post_init__(self) -> None:
        exact_norm(self.norm)
        self.count_step  # noqa: B018  (terms under which the joint bound fails raise here)

    @cached_property
    def count_step(self) -> int:
        """By how many grid steps the extra coordinate goes up or down."""
        return self.rule.count_step(self.noise_multiplier, self.grid_steps)

    @cached_property
    def joint_grid_steps(self) -> int:
        """The least whole bound on the norm of an update with its count."""
        return math.isqrt(self.grid_steps**2 + self.count_step**2 - 1) + 1

    def quantise(
        self, update: NDArray[np.floating[Any]], *, weight: Fraction | int = 1
    ) -> IntUpdate:
        """The update (D,) on the grid, and in coordinate D its step: int64 (D + 1,).

        Zeros, the step included, if its length is not finite. Raises: as `quantise.quantise`.

        >>> state = Adaptive(5.0, 100).start(noise_multiplier=Fraction(1), grid_steps=1000)
        >>> state.quantise(np.array([3.0, 0.0])).vector
        array([600,   0, 100])
        >>> state.quantise(np.array([30.0, 40.0])).vector
        array([ 600,  800, -100])
        """
        update = require_update(update, axes=1)
        vector = np.zeros(update.size + 1, np.int64)
        found = grid_vector(
            update,
            vector[:-1],
            clipping=Flat(self.norm),
            grid_steps=self.grid_steps,
            weight=weight,
        )
        if found is not None:
            vector[-1] = self.count_step if found[0].within(self.norm) else -self.count_step
        return IntUpdate(vector, self.joint_grid_steps)

    def mean(self, total: NDArray[np.int64]) -> NDArray[np.float32]:
        """The mean update (D,) of a noisy sum (D + 1,), by the norm that was sent."""
        return decode(
            _joint(total)[:-1],
            clipping_norm=self.norm,
            grid_steps=self.grid_steps,
            denominator=self.rule.denominator,
        )

    def unclipped(self, count: int) -> float:
        """The share of updates that were not clipped, by a noisy sum of steps; in 0 … 1.

        Clients that did not reply count by halves to either side, as the denominator is fixed.
        """
        share = Fraction(int(count), 2 * self.count_step * self.rule.denominator) + Fraction(1, 2)
        return float(min(max(share, Fraction(0)), Fraction(1)))

    def next(self, count: int) -> QuantileState:
        """The state of the next round, by the last coordinate of this round's noisy sum.

        The norm grows where fewer updates than wanted were left whole, and stays in 2^-100 … 2^100.
        """
        surplus = self.unclipped(count) - float(self.rule.target_quantile)
        moved = Fraction(float(self.norm) * math.exp(-float(self.rule.learning_rate) * surplus))
        norm = min(max(moved, SMALLEST_NORM), LARGEST_NORM)
        return QuantileState(self.rule, self.noise_multiplier, self.grid_steps, norm)


def _joint(total: NDArray[np.int64]) -> NDArray[np.int64]:
    if total.ndim != 1 or total.size < 1:
        raise ShapeError(
            f"a sum of updates and counts has shape {total.shape}",
            why="it is one vector whose last coordinate is the count",
            fix="pass the whole noisy sum, count included",
        )
    return total


def _positive(name: str, value: Fraction | float) -> Fraction:
    known = isinstance(value, Fraction | float | int) and not isinstance(value, bool)
    if not known or not 0 < value < math.inf:
        raise _refused(name, value, "a positive Fraction or float")
    return Fraction(value)


def _refused(name: str, value: object, wanted: str) -> PlanError:
    return PlanError(
        f"adaptive clipping with {name} = {value!r}",
        why="its terms are public numbers, fixed before the first round",
        fix=f"pass {name} as {wanted}",
    )
