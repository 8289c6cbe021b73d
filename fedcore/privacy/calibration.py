"""How much noise an epsilon takes, and how many rounds it lasts: accountants read backwards.

What is answered was verified by the accountant that is named, and is at most a thousandth away from
the best answer: it searches on a coarse grid of privacy losses and confirms on the fine one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from fedcore.errors import AccountantError, ArgumentError, InstallError
from fedcore.privacy import rdp
from fedcore.privacy.accounting import (
    MOST_BY_PLD,
    TOO_WIDE,
    UNRESOLVED,
    Accountant,
    account,
    no_pld,
    pld_epsilon,
    require_accountant,
    why_no_pld,
)
from fedcore.privacy.events import Event
from fedcore.privacy.units import Adjacency

__all__ = ["NOISE_STEP", "noise_multiplier", "rounds_within"]

NOISE_STEP = Fraction(1, 2**12)
"""Noise multipliers are found as multiples of this."""

# 44 ms for 1000 equal rounds, against 330 at 1e-4; 1.8289 instead of 1.8282 there.
_COARSE = 1e-3
_MOST_STEPS = 2**40
_CLOSE = 1e-4
_LOOSE = 5e-4


def noise_multiplier(
    epsilon: float,
    make: Callable[[Fraction], Mapping[Event, int]],
    *,
    adjacency: Adjacency,
    delta: float,
    accountant: Accountant = "best",
) -> Fraction:
    """The noise multiplier for which what `make` says is spent costs at most `epsilon`.

    `make`: the events, and how often each, by the noise multiplier; more noise has to cost less.

    Raises: AccountantError if no noise is enough, or the accountant does not know the events;
    InstallError if "pld" is asked for without the extra `dp`.

    >>> from fedcore.privacy.events import GaussianEvent, PoissonEvent
    >>> def make(z: Fraction) -> Mapping[Event, int]:
    ...     return {PoissonEvent(rate=round(0.01 * 2**32), event=GaussianEvent(z)): 1000}
    >>> noise_multiplier(
    ...     2, make, adjacency=Adjacency.ADD_REMOVE, delta=1e-5, accountant="rdp"
    ... )
    Fraction(2095, 2048)
    """
    _require_budget(epsilon)
    require_accountant(accountant)

    def spend(steps: int) -> Mapping[Event, int]:
        return make(steps * NOISE_STEP)

    @functools.cache
    def by_rdp(steps: int) -> float:
        return rdp.epsilon(rdp.compose(spend(steps), adjacency), delta)[0]

    enough = round(1 / NOISE_STEP)
    while by_rdp(enough) > epsilon:
        enough *= 2
        if enough > _MOST_STEPS:
            raise AccountantError(
                f"no noise brings the cost down to epsilon = {epsilon!r}",
                why="the events cost more whatever their noise multiplier is",
                fix="look for an event in make() that does not depend on it",
            )
    while enough > 1 and by_rdp(enough // 2) <= epsilon:
        enough //= 2
    if enough > 1:
        enough = _nearest(by_rdp, enough, enough // 2, epsilon, 0)
    if not _has_pld(accountant, spend(enough), epsilon, adjacency=adjacency, delta=delta):
        return enough * NOISE_STEP

    @functools.cache
    def coarse(steps: int) -> float:
        return pld_epsilon(spend(steps), adjacency=adjacency, delta=delta, interval=_COARSE)

    @functools.cache
    def fine(steps: int) -> float:
        found = account(spend(steps), adjacency=adjacency, delta=delta, accountant=accountant)
        return found.value

    def lessened(cost: float) -> int:
        # Epsilon falls at least as fast as noise grows, so this much is too little, or just right.
        return max(enough // 2, min(enough - 1, math.floor(enough * (cost / epsilon))))

    if accountant == "best" and coarse(enough) > epsilon:
        return enough * NOISE_STEP
    while coarse(enough) > epsilon and enough <= _MOST_STEPS:
        enough *= 2
    less = lessened(coarse(enough))
    while less and coarse(less) <= epsilon:
        enough = less
        less = lessened(coarse(enough))
    if less:
        enough = _nearest(coarse, enough, less, epsilon)
    while fine(enough) > epsilon:
        enough += max(1, enough // 1000)
    if fine(enough) < epsilon * (1 - _LOOSE) and (less := lessened(fine(enough))):
        enough = less if fine(less) <= epsilon else _nearest(fine, enough, less, epsilon, _LOOSE)
    return enough * NOISE_STEP


def rounds_within(
    epsilon: float,
    event: Event,
    *,
    adjacency: Adjacency,
    delta: float,
    accountant: Accountant = "best",
) -> int:
    """How many rounds of `event`, fixed beforehand, `epsilon` pays for; at most 2^53.

    The filter of a ledger stops after `rdp.max_rounds`, which is what accountant "rdp" gives.

    Raises: as `noise_multiplier` does.
    """
    _require_budget(epsilon)
    require_accountant(accountant)
    filtered = rdp.max_rounds(event, adjacency=adjacency, epsilon=epsilon, delta=delta)
    if filtered == rdp.MOST_ROUNDS:
        return filtered
    if not _has_pld(accountant, {event: 1}, epsilon, adjacency=adjacency, delta=delta):
        return filtered

    @functools.cache
    def coarse(rounds: int) -> float:
        return pld_epsilon({event: rounds}, adjacency=adjacency, delta=delta, interval=_COARSE)

    @functools.cache
    def fine(rounds: int) -> float:
        found = account({event: rounds}, adjacency=adjacency, delta=delta, accountant=accountant)
        return found.value

    def increased(cost: float) -> int:
        # Epsilon grows at least as the root of the rounds does.
        ratio = min(2.0, (epsilon / cost) ** 2) if cost else 2.0
        return max(count + 1, math.ceil(count * ratio))

    if accountant == "best" and coarse(filtered) > epsilon:
        return filtered
    count = filtered
    while coarse(count) > epsilon:
        count //= 2
    more = increased(coarse(count))
    while coarse(more) <= epsilon:
        count = more
        more = increased(coarse(count))
    count = _nearest(coarse, count, more, epsilon)
    while count and fine(count) > epsilon:
        count -= max(1, count // 1000)
    more = increased(fine(count))
    if fine(more) <= epsilon:
        count = more
    elif fine(count) < epsilon * (1 - _LOOSE):
        count = _nearest(fine, count, more, epsilon, _LOOSE)
    return max(count, filtered) if accountant == "best" else count


def _nearest(
    cost: Callable[[int], float], fits: int, fails: int, budget: float, closeness: float = _CLOSE
) -> int:
    """A number from `fits` toward `fails` that costs `budget` but for `closeness`, or the last one.

    Costs are nearly powers: the line through two logarithms finds it in about five steps.
    """
    step = 0
    while abs(fits - fails) > 1 and cost(fits) < budget * (1 - closeness):
        low, high = min(fits, fails), max(fits, fails)
        middle, spent, over = (low + high) // 2, cost(fits), cost(fails)
        # Every third step halves, as the line may keep to one side.
        if step % 3 < 2 and low and 0 < spent < over < math.inf:
            share = math.log(budget * (1 - closeness / 2) / spent) / math.log(over / spent)
            middle = min(max(round(fits * (fails / fits) ** share), low + 1), high - 1)
        fits, fails = (middle, fails) if cost(middle) <= budget else (fits, middle)
        step += 1
    return fits


def _has_pld(
    accountant: Accountant,
    spend: Mapping[Event, int],
    epsilon: float,
    *,
    adjacency: Adjacency,
    delta: float,
) -> bool:
    if accountant == "rdp":
        return False
    reason = why_no_pld(spend, adjacency)
    if epsilon > MOST_BY_PLD:
        reason = TOO_WIDE
    if reason:
        if accountant == "pld":
            raise no_pld(reason)
        return False
    try:
        found = pld_epsilon(spend, adjacency=adjacency, delta=delta, interval=_COARSE)
    except InstallError:
        if accountant == "pld":
            raise
        return False
    if accountant == "pld" and not math.isfinite(found):
        raise no_pld(UNRESOLVED)
    return math.isfinite(found)


def _require_budget(epsilon: float) -> None:
    if not 0 < epsilon < math.inf:
        raise ArgumentError(
            f"epsilon = {epsilon!r}",
            why="a budget is a positive, finite number of nats",
            fix="pass epsilon > 0",
        )
