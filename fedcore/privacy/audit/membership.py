"""Whoever can tell a member from a stranger contradicts the claim, if he does so too often.

At every threshold of a score, (epsilon, delta)-DP keeps the true positive rate at or below
e^epsilon times the false positive rate, plus delta. The rates are known up to chance; so the claim
is contradicted only where their Clopper-Pearson bounds contradict it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy.audit.arguments import require_claim, require_finite, require_share
from fedcore.privacy.audit.tails import clopper_pearson_lower, clopper_pearson_upper
from fedcore.privacy.audit.verdict import Finding, Outcome, Verdict

__all__ = ["Membership", "lira_scores", "membership"]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# A float64 probability does not come closer to 1 than this.
_LEAST_LOSS = 2.0**-53
_LARGEST_LOSS = 1e6  # far beyond any that a probability in floats has


@dataclass(frozen=True, kw_only=True)
class Membership(Finding):
    """How well scores tell members from strangers; see `membership`.

    `auc`: the chance that a member's score is above a stranger's. `advantage`: the largest true
    minus false positive rate. `roc`: all pairs of (false, true) positive rates, increasing.
    `worst_excess`: how far the bounds lie above the line where they do most, negative if below
    everywhere. `epsilon_lower`: epsilon is at least this, with `confidence` over all thresholds.
    """

    title: ClassVar[str] = "Membership inference"

    members: int
    strangers: int
    auc: float
    advantage: float
    roc: tuple[tuple[float, float], ...]
    worst_excess: float
    epsilon_lower: float
    epsilon: float
    delta: float
    confidence: float


def membership(
    members: npt.ArrayLike,
    strangers: npt.ArrayLike,
    *,
    epsilon: float,
    delta: float,
    confidence: float = 0.99,
) -> Membership:
    """Whether an attack by scores stays below the line that (epsilon, delta) draws.

    `members`: shape (n,), scores of examples that were trained on; `strangers`: shape (k,), of as
    good examples that were not. A higher score stands for a member: minus the loss, or what
    `lira_scores` gives. Both errors are held to the line, also those of who guesses strangers.

    The verdict is `PASSED` if the bounds, each at `confidence`, respect the line at every
    threshold; `FAILED` if they break it even when corrected for the number of thresholds tried,
    which are those at 0, 1, 2, 4, 8, ... strangers above or below; else `INCONCLUSIVE`.

    Raises: ArgumentError, DtypeError, ShapeError. Source: Yeom et al., arXiv 1709.01604, for the
    threshold on the loss; Kairouz, Oh and Viswanath, arXiv 1311.0776, theorem 2.1, for the line.

    >>> random = np.random.default_rng(1)
    >>> members, strangers = random.normal(size=(2, 1000))
    >>> print(membership(members + 3, strangers, epsilon=1, delta=1e-5).verdict)
    failed: ...
    """
    require_claim(epsilon, delta)
    require_share("confidence", confidence)
    inside = require_finite("members", members, dimensions=1)
    outside = require_finite("strangers", strangers, dimensions=1)
    n, k = len(inside), len(outside)
    false, true = _positives(inside, outside)
    worst = -math.inf
    for curve, catchable, spared in (
        ((true, false), n, k),
        ((k - false[::-1], n - true[::-1]), k, n),
    ):
        caught, wrong = _corners(*curve)
        low = clopper_pearson_lower(caught, catchable, confidence=confidence)
        high = clopper_pearson_upper(wrong, spared, confidence=confidence)
        worst = max(worst, float((low - _line(high, epsilon, delta)).max()))
    lower = _epsilon_lower(inside, outside, delta=delta, confidence=confidence)
    rates = false / k, true / n
    return Membership(
        verdict=_judge(lower, worst, _possible(n, k, delta, confidence), epsilon, delta),
        members=n,
        strangers=k,
        auc=float(np.trapezoid(rates[1], rates[0])),
        advantage=float((rates[1] - rates[0]).max()),
        roc=tuple(zip(rates[0].tolist(), rates[1].tolist(), strict=True)),
        worst_excess=worst,
        epsilon_lower=lower,
        epsilon=float(epsilon),
        delta=float(delta),
        confidence=confidence,
    )


def lira_scores(
    losses: npt.ArrayLike, shadow_losses: npt.ArrayLike, included: npt.NDArray[np.bool_]
) -> Floats:
    """The log-likelihood ratio of being a member, by models trained with and without each example.

    `losses`: shape (n,), cross-entropies of the examples under the audited model, in nats.
    `shadow_losses`: shape (models, n), under models that the auditor trained the same way.
    `included`: shape (models, n), bool, whether the model was trained on the example; each example
    is both in and out of some. Returns shape (n,), for `membership`.

    The light variant: one deviation for all examples in and one for all out, which few shadow
    models suffice for. Raises: ArgumentError, DtypeError, ShapeError.
    Source: Carlini et al., arXiv 2112.03570, algorithm 1 and section VI.C.
    """
    target = _logit(require_finite("losses", losses, dimensions=1))
    shadow = _logit(require_finite("shadow_losses", shadow_losses, dimensions=2))
    if not isinstance(included, np.ndarray) or included.dtype != np.bool_:
        raise DtypeError(
            "lira: `included` is no array of bool",
            why="it says which model was trained on which example",
            fix="pass included.astype(bool)",
        )
    if shadow.shape != included.shape or shadow.shape[1] != len(target):
        raise ShapeError(
            f"lira: losses {target.shape}, shadow losses {shadow.shape}, included {included.shape}",
            why="each shadow model has a loss and a membership for each example",
            fix="pass shapes (n,), (models, n) and (models, n)",
        )
    if included.all(axis=0).any() or not included.any(axis=0).all():
        raise ArgumentError(
            "lira: an example is in all shadow models or in none",
            why="its losses with and without it are compared",
            fix="draw the members of each shadow model anew, or train more of them",
        )
    log_densities = []
    for group in (included, ~included):
        counts = group.sum(axis=0)
        means = np.where(group, shadow, 0).sum(axis=0) / counts
        residuals = np.where(group, shadow - means, 0)
        # A group of one has no residual of its own.
        freedom = max(1, int((counts - 1).sum()))
        # Without residuals the nearer mean decides, for which any common variance will do.
        variance = float((residuals**2).sum()) / freedom or 1.0
        log_densities.append(-((target - means) ** 2) / (2 * variance) - math.log(variance) / 2)
    ratio: Floats = log_densities[0] - log_densities[1]
    return ratio


def _logit(losses: Floats) -> Floats:
    """log(p / (1 - p)) of p = e^-loss: closer to a Gaussian than the loss is."""
    if (losses < 0).any():
        raise ArgumentError(
            "lira: a loss is negative",
            why="the loss is read as minus the logarithm of a probability",
            fix="pass cross-entropies",
        )
    clipped = np.clip(losses, _LEAST_LOSS, _LARGEST_LOSS)
    logits: Floats = -clipped - np.log(-np.expm1(-clipped))
    return logits


def _positives(inside: Floats, outside: Floats) -> tuple[Counts, Counts]:
    """False and true positives at each threshold, from none to all: scores at or above it."""
    thresholds = np.unique(np.concatenate([inside, outside]))
    counts = [
        len(scores) - np.searchsorted(np.sort(scores), thresholds[::-1])
        for scores in (outside, inside)
    ]
    false, true = (np.concatenate([[0], found]).astype(np.int64) for found in counts)
    return false, true


def _corners(caught: Counts, wrong: Counts) -> tuple[Counts, Counts]:
    """The points of a curve, increasing in both, that lie above the line if any does.

    Of those with as many wrong the one with the most caught, of those with as many caught the one
    with the fewest wrong.
    """
    highest = np.append(np.diff(wrong) > 0, True)
    caught, wrong = caught[highest], wrong[highest]
    leftmost = np.append(True, np.diff(caught) > 0)
    return caught[leftmost], wrong[leftmost]


def _line(false_rate: Floats, epsilon: float, delta: float) -> Floats:
    # Beyond e^700 the line lies above 1 for any rate that a sample can bound.
    line: Floats = np.minimum(1.0, math.exp(min(epsilon, 700.0)) * false_rate + delta)
    return line


def _epsilon_lower(inside: Floats, outside: Floats, *, delta: float, confidence: float) -> float:
    """The largest epsilon that some threshold refutes, all thresholds counted.

    Each is the score of one of those to spare, of a rank fixed beforehand. With j of k strictly
    above the threshold that is the score of the next one, the bound of Clopper and Pearson holds as
    it does for a fixed threshold: the rate above that score is distributed as Beta(j + 1, k - j),
    whose quantile the bound is.
    """
    best = 0.0
    # As for `_positives`: who catches members by high scores, and strangers by low ones.
    for catchable, spared in ((inside, outside), (-outside, -inside)):
        ranks = _ranks(len(spared))
        # Two directions, two bounds for each rank.
        level = 1 - (1 - confidence) / (4 * len(ranks))
        thresholds = np.sort(spared)[::-1][ranks]
        caught = len(catchable) - np.searchsorted(np.sort(catchable), thresholds, side="right")
        low = clopper_pearson_lower(caught, len(catchable), confidence=level)
        high = clopper_pearson_upper(ranks, len(spared), confidence=level)
        signal = np.maximum(low - delta, 1e-300)
        best = max(best, float(np.log(signal / high).max()))
    return best


def _ranks(count: int) -> Counts:
    return np.array([0, *(2**power for power in range(count.bit_length()) if 2**power < count)])


def _possible(n: int, k: int, delta: float, confidence: float) -> float:
    """The `epsilon_lower` of an attack that makes no error, by the closed form of such bounds."""
    best = 0.0
    for catchable, spared in ((n, k), (k, n)):
        risk = (1 - confidence) / (4 * len(_ranks(spared)))
        signal = risk ** (1 / catchable) - delta
        if signal > 0:
            best = max(best, math.log(signal / -math.expm1(math.log(risk) / spared)))
    return best


def _judge(lower: float, worst: float, possible: float, epsilon: float, delta: float) -> Verdict:
    claim = f"the claimed {epsilon:g} at delta {delta:g}"
    if lower > epsilon:
        return Verdict(
            Outcome.FAILED,
            f"members are told from strangers so well that epsilon is at least {lower:.3g}, above "
            f"{claim}",
        )
    if worst > 0:
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"at one threshold the attack is {worst:.3g} above the line of {claim}, which may be "
            "chance among so many thresholds; take more examples",
        )
    if possible <= epsilon:
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"even an attack without error would show no more than epsilon {possible:.3g} with so "
            f"few examples, and not exceed {claim}",
        )
    return Verdict(Outcome.PASSED, f"the attack stays below the line of {claim} at every threshold")
