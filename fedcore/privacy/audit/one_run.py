"""One run suffices to refute a claim: many canaries, each in or out by a coin of its own.

Whoever guesses the coins from the outcome better than (epsilon, delta)-DP lets anybody guess has
refuted the claim. The bound assumes nothing of the mechanism, which makes it a tripwire and no
calibration: with 300 canaries, noise half as large as it should be goes unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy.audit.arguments import require_claim, require_finite, require_share
from fedcore.privacy.audit.tails import binomial_probabilities
from fedcore.privacy.audit.verdict import Finding, Outcome, Verdict

__all__ = ["OneRun", "epsilon_lower_bound", "guessing_p_value", "one_run"]

SHARES = (0.02, 0.05, 0.1, 0.2)

_BISECTIONS = 40
_LARGEST_EPSILON = 64.0
_UNFAIR = 1e-9


@dataclass(frozen=True, kw_only=True)
class OneRun(Finding):
    """What the guesses of one run say; see `one_run`.

    `share`, `guesses`, `correct`: those of the bound that is the largest, of `shares` tried.
    `epsilon_lower`: epsilon is at least this, with `confidence`. `highest_possible`: the bound if
    every guess had been right.
    """

    title: ClassVar[str] = "One-run lower bound"

    canaries: int
    guesses: int
    correct: int
    share: float
    shares: tuple[float, ...]
    epsilon: float
    delta: float
    confidence: float
    epsilon_lower: float
    highest_possible: float


def one_run(
    scores: npt.ArrayLike,
    included: npt.NDArray[np.bool_],
    *,
    epsilon: float,
    delta: float,
    confidence: float = 0.95,
    shares: Sequence[float] = SHARES,
) -> OneRun:
    """The largest epsilon that the guesses refute, against the claimed one.

    `scores`: shape (m,), the higher, the more likely is the canary in. `included`: shape (m,),
    bool, the coins that decided; each must be fair and independent of everything else. For each
    share k, the m k canaries of the highest scores are guessed to be in, the m k of the lowest to
    be out; the shares are corrected for by Bonferroni. Equal scores are ordered at random.

    Raises: ArgumentError, DtypeError, ShapeError.
    Source: Steinke, Nasr and Jagielski, arXiv 2305.08846, theorem 5.2 and its appendix D.

    >>> random = np.random.default_rng(5)
    >>> included = random.integers(2, size=1000).astype(bool)
    >>> noisy = included + random.normal(scale=3.73, size=1000)  # (1, 1e-5)-DP
    >>> one_run(noisy, included, epsilon=1, delta=1e-5).verdict.outcome.value
    'passed'
    >>> one_run(noisy / 100 + included, included, epsilon=1, delta=1e-5).verdict.outcome.value
    'failed'
    """
    require_claim(epsilon, delta)
    require_share("confidence", confidence)
    values = require_finite("scores", scores, dimensions=1, least=2)
    _check_coins(included, len(values))
    _check_shares(shares)
    # An order that depends on the place would tell equal scores apart, and coins are often sorted.
    ties = np.random.default_rng(0).permutation(len(values))
    order = np.lexsort((ties, values))
    risk = (1 - confidence) / len(shares)
    best, best_share, best_correct, best_guesses, possible = -1.0, 0.0, 0, 0, 0.0
    for share in shares:
        side = max(1, round(share * len(values)))
        correct = int(included[order[-side:]].sum() + (~included[order[:side]]).sum())
        bound, ideal = (
            epsilon_lower_bound(
                canaries=len(values), guesses=2 * side, correct=right, delta=delta, risk=risk
            )
            for right in (correct, 2 * side)
        )
        possible = max(possible, ideal)
        if bound > best:
            best, best_share, best_correct, best_guesses = bound, share, correct, 2 * side
    return OneRun(
        verdict=_judge(best, possible, len(values), epsilon, delta, confidence),
        canaries=len(values),
        guesses=best_guesses,
        correct=best_correct,
        share=best_share,
        shares=tuple(shares),
        epsilon=float(epsilon),
        delta=float(delta),
        confidence=confidence,
        epsilon_lower=best,
        highest_possible=possible,
    )


def guessing_p_value(
    *, canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """The chance of so many correct guesses at most, whatever the (epsilon, delta)-DP mechanism.

    Raises: ArgumentError. Source: arXiv 2305.08846, theorem 5.2: the tail of the binomial
    distribution with chance 1 / (1 + e^-epsilon), plus 2 m delta max_i P(v - i <= X < v) / i.

    >>> p = guessing_p_value(canaries=1000, guesses=100, correct=80, epsilon=1.0, delta=1e-5)
    >>> round(p, 11)
    0.07300911595
    """
    require_claim(epsilon, delta)
    if not 0 <= correct <= guesses <= canaries or guesses < 1:
        raise ArgumentError(
            f"one run: {correct} of {guesses} guesses are correct, of {canaries} canaries",
            why="each canary is guessed at most once, and each guess is right at most once",
            fix="pass 0 <= correct <= guesses <= canaries",
        )
    if correct == 0:
        return 1.0
    chance = 1 / (1 + math.exp(-epsilon))
    if chance == 1:
        return 1.0
    probabilities = binomial_probabilities(guesses, chance)
    below = np.cumsum(probabilities[correct - 1 :: -1])
    slack = float((below / np.arange(1, correct + 1)).max())
    tail = float(probabilities[correct:].sum())
    return min(1.0, tail + 2 * canaries * delta * slack)


def epsilon_lower_bound(
    *, canaries: int, guesses: int, correct: int, delta: float, risk: float
) -> float:
    """The largest epsilon, at most 64, whose p-value is below `risk`; 0 if there is none.

    A p-value below `risk` at one epsilon refutes every smaller epsilon too, since a mechanism of
    the smaller is one of the larger: hence the bound holds whether or not the p-value is monotone.
    Raises: ArgumentError.

    >>> bound = epsilon_lower_bound(canaries=1000, guesses=100, correct=80, delta=1e-5, risk=0.05)
    >>> round(bound, 6)
    0.955319
    """
    require_share("risk", risk)

    def refuted(epsilon: float) -> bool:
        found = guessing_p_value(
            canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
        )
        return found < risk

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        if high >= _LARGEST_EPSILON:
            return high
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _judge(
    bound: float, possible: float, canaries: int, epsilon: float, delta: float, confidence: float
) -> Verdict:
    claim = f"the claimed {epsilon:g} at delta {delta:g}"
    if bound > epsilon:
        return Verdict(
            Outcome.FAILED,
            f"epsilon is at least {bound:.3g} with confidence {confidence:g}, above {claim}",
        )
    if possible <= epsilon:
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"even if every guess were right, {canaries} canaries would show no more than epsilon "
            f"{possible:.3g}, and not exceed {claim}; take more canaries",
        )
    return Verdict(
        Outcome.PASSED,
        f"the guesses show an epsilon of at least {bound:.3g} with confidence {confidence:g}, which"
        f" does not exceed {claim}; only a gross violation would",
    )


def _check_coins(included: npt.NDArray[np.bool_], count: int) -> None:
    if not isinstance(included, np.ndarray) or included.dtype != np.bool_:
        raise DtypeError(
            "one run: `included` is no array of bool",
            why="it says of each canary whether it was in",
            fix="pass included.astype(bool)",
        )
    if included.shape != (count,):
        raise ShapeError(
            f"one run: {count} scores and coins of shape {included.shape}",
            why="each canary has one score and one coin",
            fix=f"pass `included` of shape ({count},)",
        )
    heads = int(included.sum())
    extreme = max(heads, count - heads)
    if binomial_probabilities(count, 0.5)[extreme:].sum() < _UNFAIR:
        raise ArgumentError(
            f"one run: {heads} of {count} canaries are in",
            why="the bound holds for fair and independent coins, and these are not",
            fix="toss a coin for each canary before the run",
        )


def _check_shares(shares: Sequence[float]) -> None:
    if not shares or not all(0 < share <= 0.5 for share in shares):
        raise ArgumentError(
            f"one run: shares = {tuple(shares)}",
            why="a share of the canaries is guessed on either side",
            fix="pass shares above 0 and at most 0.5",
        )
