"""Membership: an over-fitted model betrays its members; noise that is accounted for hides them."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy.audit import Membership, Outcome, lira_scores, membership
from fedcore.privacy.audit.membership import _possible

POOL, FEATURES, STEPS = 400, 300, 60
# Labels are coins: whatever a model knows of them, it knows from having been told.
RANDOM = np.random.default_rng(0)
EXAMPLES = RANDOM.normal(size=(POOL, FEATURES)) / math.sqrt(FEATURES)
LABELS = RANDOM.integers(2, size=POOL) * 2.0 - 1


def losses(weights: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -LABELS * (EXAMPLES @ weights))


def trained(included: np.ndarray, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Logistic regression by steps of the whole batch; each example weighs 1 in each at most."""
    random = np.random.default_rng([1, seed])
    weights, chosen, signs = np.zeros(FEATURES), EXAMPLES[included], LABELS[included]
    scale = 1 / np.maximum(1, np.linalg.norm(chosen, axis=1))
    for _ in range(STEPS):
        slopes = signs * scale / (1 + np.exp(signs * (chosen @ weights)))
        weights += slopes @ chosen + noise * random.normal(size=FEATURES)
    return weights


def halves(seed: int) -> np.ndarray:
    return np.random.default_rng([2, seed]).permutation(POOL) < POOL // 2


@functools.cache
def attacked(noise: float, epsilon: float) -> Membership:
    included = halves(0)
    scores = -losses(trained(included, noise=noise))
    return membership(scores[included], scores[~included], epsilon=epsilon, delta=1e-5)


# (1, 1e-5) over 60 steps: the analytic multiplier of a single one, times sqrt(60).
SOUND = 3.7306316 * math.sqrt(STEPS)


def test_an_over_fitted_model_betrays_its_members() -> None:
    found = attacked(0.0, 1.0)
    assert found.auc > 0.7
    assert found.verdict.failed and found.epsilon_lower > 1


def test_accounted_noise_keeps_the_attack_below_the_line() -> None:
    found = attacked(SOUND, 1.0)
    assert found.verdict.passed, found
    assert found.worst_excess < 0 and found.auc < 0.6


@pytest.mark.slow
def test_a_sound_mechanism_on_the_line_itself_does_not_fail() -> None:
    # Randomised response is as exposed as its epsilon allows.
    truth = 1 / (1 + math.exp(-1))
    outcomes = []
    for seed in range(30):
        members, strangers = np.random.default_rng(seed).uniform(size=(2, 500))
        found = membership(
            (members < truth) * 1.0, (strangers < 1 - truth) * 1.0, epsilon=1, delta=0
        )
        outcomes.append(found.verdict.outcome)
        assert found.epsilon_lower < 1
    assert outcomes.count(Outcome.PASSED) >= 26


def test_the_line_is_drawn_for_strangers_who_betray_themselves_too() -> None:
    # A tenth of the strangers, and no member, has a low score: no high score tells a member.
    random = np.random.default_rng(3)
    members, strangers = random.uniform(size=(2, 1000))
    found = membership(members, strangers - (strangers < 0.1), epsilon=1, delta=1e-5)
    assert found.verdict.failed and found.epsilon_lower > 2


def test_so_few_examples_that_no_attack_would_do_say_so() -> None:
    found = membership(np.ones(30), np.zeros(30), epsilon=4, delta=1e-5)
    assert found.verdict.outcome is Outcome.INCONCLUSIVE
    assert found.auc == 1 and found.epsilon_lower < 4


@pytest.mark.parametrize(("n", "k"), [(20, 20), (30, 500), (500, 30)])
def test_what_an_attack_may_show_at_most_is_what_one_without_errors_shows(n: int, k: int) -> None:
    found = membership(np.ones(n), np.zeros(k), epsilon=1, delta=1e-5, confidence=0.95)
    possible = _possible(n, k, 1e-5, 0.95)
    assert found.epsilon_lower == pytest.approx(possible, rel=1e-6) and possible > 0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_curve_is_what_counting_gives(n: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    members, strangers = random.integers(6, size=n), random.integers(6, size=k)
    found = membership(members, strangers, epsilon=1, delta=0)
    counted = {(float((strangers >= t).mean()), float((members >= t).mean())) for t in range(7)}
    assert counted <= set(found.roc) and found.roc[0] == (0, 0) and found.roc[-1] == (1, 1)
    above = (members[:, None] > strangers).mean() + (members[:, None] == strangers).mean() / 2
    assert found.auc == pytest.approx(above)
    assert found.advantage == pytest.approx(max(t - f for f, t in found.roc))


@settings(max_examples=15)
@given(st.floats(0, 5), st.integers(0, 2**32 - 1))
def test_only_the_order_of_the_scores_counts(shift: float, seed: int) -> None:
    members, strangers = np.random.default_rng(seed).normal(size=(2, 50))
    plain = membership(members + shift, strangers, epsilon=1, delta=1e-5)
    bent = membership(np.arctan(members + shift), np.arctan(strangers), epsilon=1, delta=1e-5)
    assert bent == plain


@functools.cache
def shadows(count: int) -> tuple[np.ndarray, np.ndarray]:
    included = np.stack([halves(seed) for seed in range(1, count + 1)])
    return np.stack(
        [losses(trained(mask, seed=seed)) for seed, mask in enumerate(included)]
    ), included


def test_a_likelihood_ratio_attacks_better_than_a_threshold() -> None:
    # Features of different weight, so that examples differ in how hard they are.
    included = halves(0)
    found = losses(trained(included, noise=0.5))
    shadow, masks = shadows(16)
    lira = lira_scores(found, shadow, masks)
    by_lira = membership(lira[included], lira[~included], epsilon=1, delta=1e-5)
    by_loss = membership(-found[included], -found[~included], epsilon=1, delta=1e-5)
    assert by_lira.auc > by_loss.auc > 0.7


def test_a_likelihood_ratio_is_the_difference_of_two_gaussians() -> None:
    norm = pytest.importorskip("scipy.stats").norm
    shadow, masks = shadows(16)
    found = losses(trained(halves(0)))

    def logit(loss: np.ndarray) -> np.ndarray:
        return np.log(np.exp(-loss) / (1 - np.exp(-loss)))

    logs = []
    for group in (masks, ~masks):
        values = np.where(group, logit(shadow), np.nan)
        means = np.nanmean(values, axis=0)
        freedom = (group.sum(axis=0) - 1).sum()
        deviation = np.sqrt(np.nansum((values - means) ** 2) / freedom)
        logs.append(norm.logpdf(logit(found), means, deviation))
    np.testing.assert_allclose(lira_scores(found, shadow, masks), logs[0] - logs[1], rtol=1e-9)


def test_losses_at_their_ends_leave_a_score_finite() -> None:
    found = np.array([0.0, 1e-300, 800.0, 1.7e308])
    shadow, masks = np.stack([found, found[::-1]]), np.array([[True] * 4, [False] * 4])
    assert np.isfinite(lira_scores(found, shadow, masks)).all()


def test_what_is_no_attack_is_refused() -> None:
    ones, masks = np.ones(3), np.array([[True] * 3, [False] * 3])
    with pytest.raises(ShapeError):
        membership(np.ones((2, 2)), ones, epsilon=1, delta=0)
    with pytest.raises(ShapeError):
        membership(np.array([]), ones, epsilon=1, delta=0)
    with pytest.raises(ArgumentError):
        membership(ones * np.inf, ones, epsilon=1, delta=0)
    with pytest.raises(ArgumentError):
        membership(ones, ones, epsilon=1, delta=0, confidence=1)
    with pytest.raises(ArgumentError):
        membership(ones, ones, epsilon=True, delta=0)
    with pytest.raises(DtypeError):
        lira_scores(ones, np.ones((2, 3)), masks.astype(int))  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        lira_scores(ones, np.ones((2, 4)), masks)
    with pytest.raises(ArgumentError):
        lira_scores(ones, np.ones((2, 3)), np.ones((2, 3), bool))
    with pytest.raises(ArgumentError):
        lira_scores(-ones, np.ones((2, 3)), masks)
