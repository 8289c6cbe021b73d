"""What is found fits the budget, and a little less noise, or a round more, would not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import AccountantError, ArgumentError, InstallError
from fedcore.privacy import calibration
from fedcore.privacy.accounting import account, pld_epsilon
from fedcore.privacy.analytic import analytic_noise_multiplier
from fedcore.privacy.calibration import NOISE_STEP, noise_multiplier, rounds_within
from fedcore.privacy.events import (
    RATE_UNIT,
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    SharesEvent,
)
from fedcore.privacy.units import Adjacency

pytest.importorskip("dp_accounting", reason="the extra 'dp' is not installed")

ADD, REPLACE = Adjacency.ADD_REMOVE, Adjacency.REPLACE_ONE


def training(rate: float, count: int) -> Callable[[Fraction], Mapping[Event, int]]:
    return lambda z: {PoissonEvent(round(rate * RATE_UNIT), GaussianEvent(z)): count}


def shares(z: Fraction) -> Mapping[Event, int]:
    return {SharesEvent(10, (z * 2**20) ** 2 / 10, Fraction(2**40), 1000): 5}


@given(
    st.floats(0.001, 1),
    st.integers(1, 10_000),
    st.floats(0.05, 20),
    st.sampled_from([1e-4, 1e-6]),
)
def test_noise_by_the_filter_is_the_least_multiple_that_fits(
    rate: float, count: int, epsilon: float, delta: float
) -> None:
    make = training(rate, count)
    found = noise_multiplier(epsilon, make, adjacency=ADD, delta=delta, accountant="rdp")

    def cost(z: Fraction) -> float:
        return account(make(z), adjacency=ADD, delta=delta, accountant="rdp").value

    assert (found / NOISE_STEP).denominator == 1
    assert cost(found) <= epsilon
    assert cost(found - NOISE_STEP) > epsilon


@pytest.mark.parametrize(
    ("rate", "count", "epsilon", "delta", "expected"),
    [
        pytest.param(0.01, 1000, 2, 1e-5, 0.95911, marks=pytest.mark.slow),
        (0.1, 512, 1, 1e-6, 9.66),
        # Found elsewhere, for MNIST at (3, 1e-5).
        pytest.param(4096 / 60000, 586, 3, 1e-5, 2.461, marks=pytest.mark.slow),
    ],
)
def test_golden_noise(
    rate: float, count: int, epsilon: float, delta: float, expected: float
) -> None:
    make = training(rate, count)
    found = noise_multiplier(epsilon, make, adjacency=ADD, delta=delta)
    assert float(found) == pytest.approx(expected, rel=1e-3)
    report = account(make(found), adjacency=ADD, delta=delta)
    assert epsilon * 0.998 < report.value <= epsilon


def test_one_gaussian_takes_what_its_formula_says() -> None:
    found = noise_multiplier(1, training(1, 1), adjacency=ADD, delta=1e-5, accountant="pld")
    assert float(found) == pytest.approx(analytic_noise_multiplier(1, 1e-5), rel=1e-3)
    replaced = noise_multiplier(
        1, lambda z: {GaussianEvent(z): 1}, adjacency=REPLACE, delta=1e-5, accountant="best"
    )
    assert float(replaced) == pytest.approx(2 * analytic_noise_multiplier(1, 1e-5), rel=1e-3)


@pytest.mark.slow
@given(st.floats(0.005, 1), st.integers(1, 3000), st.floats(0.2, 8))
@settings(max_examples=10)
def test_noise_by_distributions_fits_and_a_little_less_does_not(
    rate: float, count: int, epsilon: float
) -> None:
    make = training(rate, count)
    found = noise_multiplier(epsilon, make, adjacency=ADD, delta=1e-5)
    assert pld_epsilon(make(found), adjacency=ADD, delta=1e-5) <= epsilon
    less = found * Fraction(498, 500) - NOISE_STEP
    assert account(make(less), adjacency=ADD, delta=1e-5).value > epsilon


@pytest.mark.slow
def test_many_rounds_are_finished_on_the_fine_grid() -> None:
    """At 14,062 rounds the coarse grid of losses alone would cost 0.4 % more noise."""
    found = noise_multiplier(2.38169, training(256 / 60000, 14062), adjacency=ADD, delta=1e-5)
    assert float(found) == pytest.approx(1.1, rel=1e-3)


def test_rounds_by_the_filter_are_its_exact_stop() -> None:
    event = PoissonEvent(round(0.01 * RATE_UNIT), GaussianEvent(Fraction(1)))
    found = rounds_within(2, event, adjacency=ADD, delta=1e-5, accountant="rdp")
    assert found == 879


@pytest.mark.parametrize(
    ("rate", "noise", "epsilon"),
    [
        pytest.param(0.01, 1, 2, marks=pytest.mark.slow),
        (1.0, 30, 2),
        pytest.param(1.0, 4, 1, marks=pytest.mark.slow),
        (1.0, 4, 0.5),
    ],
)
def test_rounds_by_distributions_fit_and_a_few_more_do_not(
    rate: float, noise: int, epsilon: float
) -> None:
    event = PoissonEvent(round(rate * RATE_UNIT), GaussianEvent(Fraction(noise)))
    found = rounds_within(epsilon, event, adjacency=ADD, delta=1e-5)
    filtered = rounds_within(epsilon, event, adjacency=ADD, delta=1e-5, accountant="rdp")
    assert found >= filtered

    def cost(count: int) -> float:
        return account({event: count}, adjacency=ADD, delta=1e-5).value

    assert cost(found) <= epsilon
    assert cost(found + 1 + found // 300) > epsilon


def test_noise_in_shares_is_found_by_the_filter() -> None:
    found = noise_multiplier(2, shares, adjacency=ADD, delta=1e-5)
    alike = noise_multiplier(
        2, lambda z: {GaussianEvent(z): 5}, adjacency=ADD, delta=1e-5, accountant="rdp"
    )
    assert abs(found - alike) <= NOISE_STEP
    with pytest.raises(AccountantError, match="proven"):
        noise_multiplier(2, shares, adjacency=ADD, delta=1e-5, accountant="pld")


def test_samples_of_fixed_size_are_calibrated_too() -> None:
    def make(z: Fraction) -> Mapping[Event, int]:
        return {FixedSizeEvent(10, 1000, GaussianEvent(z)): 1000}

    found = noise_multiplier(1.4453, make, adjacency=REPLACE, delta=1e-5)
    assert float(found) == pytest.approx(4, rel=1e-3)


def test_a_delta_below_what_distributions_resolve_is_left_to_the_filter() -> None:
    make = training(0.01, 1000)
    found = noise_multiplier(2, make, adjacency=ADD, delta=1e-30)
    assert found == noise_multiplier(2, make, adjacency=ADD, delta=1e-30, accountant="rdp")
    with pytest.raises(AccountantError):
        noise_multiplier(2, make, adjacency=ADD, delta=1e-30, accountant="pld")


def test_what_no_noise_can_mend_is_refused() -> None:
    def make(z: Fraction) -> Mapping[Event, int]:
        return {GaussianEvent(z): 1, GaussianEvent(Fraction(1, 10)): 1}

    with pytest.raises(AccountantError, match="no noise"):
        noise_multiplier(1, make, adjacency=ADD, delta=1e-5)


def test_without_the_extra_only_distributions_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    make, event = training(0.01, 1000), GaussianEvent(Fraction(4))
    kwargs: dict[str, Any] = {"adjacency": ADD, "delta": 1e-5}
    by_rdp = noise_multiplier(2, make, accountant="rdp", **kwargs)
    assert noise_multiplier(2, make, **kwargs) == by_rdp
    assert rounds_within(2, event, **kwargs) == rounds_within(2, event, accountant="rdp", **kwargs)
    with pytest.raises(InstallError):
        noise_multiplier(2, make, accountant="pld", **kwargs)
    with pytest.raises(InstallError):
        rounds_within(2, event, accountant="pld", **kwargs)


def test_the_better_accountant_is_never_worse_than_the_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = calibration.pld_epsilon
    monkeypatch.setattr(calibration, "pld_epsilon", lambda *a, **k: 2 * real(*a, **k))
    make, event = training(0.01, 1000), GaussianEvent(Fraction(9))
    kwargs: dict[str, Any] = {"adjacency": ADD, "delta": 1e-5}
    assert noise_multiplier(2, make, **kwargs) == noise_multiplier(
        2, make, accountant="rdp", **kwargs
    )
    assert rounds_within(2, event, **kwargs) == rounds_within(2, event, accountant="rdp", **kwargs)
    # Asked for alone, it gives what it can bear.
    assert 0 < rounds_within(2, event, accountant="pld", **kwargs) < 20


def test_endless_rounds_are_said_to_be_endless() -> None:
    event = GaussianEvent(Fraction(2**40))
    assert rounds_within(1, event, adjacency=ADD, delta=1e-5) == 2**53


def test_misuse_is_told_apart() -> None:
    for epsilon in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ArgumentError):
            noise_multiplier(epsilon, shares, adjacency=ADD, delta=1e-5)
        with pytest.raises(ArgumentError):
            rounds_within(epsilon, GaussianEvent(Fraction(1)), adjacency=ADD, delta=1e-5)
    with pytest.raises(ArgumentError):
        noise_multiplier(1, shares, adjacency=ADD, delta=1e-5, accountant="prv")  # type: ignore[arg-type]
