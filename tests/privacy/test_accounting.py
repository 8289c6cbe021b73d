"""Two accountants and the published values; and what happens where one of them cannot be had."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping
from fractions import Fraction
from importlib import metadata
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import AccountantError, ArgumentError, InstallError
from fedcore.privacy import accounting, rdp
from fedcore.privacy.accounting import (
    account,
    pld_epsilon,
    reference_rdp_epsilon,
    why_no_pld,
)
from fedcore.privacy.analytic import analytic_gaussian_epsilon
from fedcore.privacy.events import (
    RATE_UNIT,
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.units import Adjacency

dp = pytest.importorskip("dp_accounting", reason="the extra 'dp' is not installed")

ADD, ZERO, REPLACE = Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE
ONE = GaussianEvent(Fraction(1))


def sampled(rate: float, noise_multiplier: Any) -> PoissonEvent:
    return PoissonEvent(round(rate * RATE_UNIT), GaussianEvent(Fraction(noise_multiplier)))


BASE = sampled(0.01, 1)
TRUNCATED = TruncatedPoissonEvent(BASE.rate, 20, 1000, ONE)
SHARES = SharesEvent(60, Fraction(2**40, 60), Fraction(2**40), 10**6)
SKELLAM = SkellamEvent(Fraction(10**6), Fraction(10**6), 10**6)

# PLD and dp-accounting's RDP at its default orders, delta 1e-5.
GOLDENS = [
    pytest.param({ONE: 1}, ADD, 4.37718, 4.72851, id="gaussian"),
    pytest.param({BASE: 1000}, ADD, 1.82824, 2.10137, id="base"),
    *(
        pytest.param(spend, adjacency, *expected, id=name, marks=pytest.mark.slow)
        for name, spend, adjacency, *expected in [
            ("q=.05", {sampled(0.05, 2): 500}, ADD, 2.5320, 2.7686),
            ("mnist-1.3", {sampled(256 / 60000, "1.3"): 3515}, ADD, 0.864459, 0.954430),
            ("writers", {sampled(120 / 3383, "1.2"): 100}, ADD, 1.7075, 1.9861),
            ("opacus", {sampled(0.04, "1.5"): 2250}, ADD, 6.76879, 7.32933),
            ("mnist-1.1", {sampled(256 / 60000, "1.1"): 14062}, ADD, 2.38169, 2.59656),
            ("mnist-0.7", {sampled(256 / 60000, "0.7"): 10546}, ADD, 5.63945, 6.31946),
            ("truncated", {TRUNCATED: 1000}, ZERO, 3.83397, None),
            ("banded", {sampled(0.1, 1): 200}, ADD, 9.97128, None),
            ("replaced", {BASE: 1000}, REPLACE, 2.84345, None),
        ]
    ),
]


@pytest.mark.parametrize(("spend", "adjacency", "by_pld", "by_rdp"), GOLDENS)
def test_golden_values(
    spend: Mapping[Event, int], adjacency: Adjacency, by_pld: float, by_rdp: float | None
) -> None:
    found = pld_epsilon(spend, adjacency=adjacency, delta=1e-5)
    assert found == pytest.approx(by_pld, rel=1e-4)
    if by_rdp is not None:
        found, _ = reference_rdp_epsilon(spend, adjacency=adjacency, delta=1e-5)
        assert found == pytest.approx(by_rdp, rel=1e-4)


def test_a_finer_grid_of_losses_is_never_looser() -> None:
    coarse = pld_epsilon({BASE: 1000}, adjacency=ADD, delta=1e-5, interval=1e-3)
    assert coarse == pytest.approx(1.82893, rel=1e-5)


def test_golden_values_of_jax_privacy() -> None:
    found = pld_epsilon({sampled(0.1, 3): 512}, adjacency=ADD, delta=1e-6, interval=1e-3)
    assert found == pytest.approx(3.77, abs=0.005)


@pytest.mark.parametrize(("noise_multiplier", "expected"), [(2, 3.57611), (4, 1.44530)])
def test_golden_values_without_replacement(noise_multiplier: int, expected: float) -> None:
    """Noise counts in clipping norms, of which neighbours lie two apart: events 1.0 and 2.0."""
    event = FixedSizeEvent(10, 1000, GaussianEvent(Fraction(noise_multiplier)))
    spend: Mapping[Event, int] = {event: 1000}
    few = [*range(2, 25)]
    found, _ = reference_rdp_epsilon(spend, adjacency=REPLACE, delta=1e-5, orders=few)
    ours = account(spend, adjacency=REPLACE, delta=1e-5)
    assert ours.value == pytest.approx(expected, rel=1e-5)
    assert found == pytest.approx(ours.value, rel=1e-6)
    assert ours.pld is None
    assert "fixed size" in ours.without_pld


def test_golden_values_of_mechanisms_that_only_dp_accounting_knows() -> None:
    from dp_accounting import rdp as reference

    def cost(event: Any, relation: Any, delta: float = 1e-5) -> float:
        accountant = reference.RdpAccountant(neighboring_relation=relation)
        return float(accountant.compose(event).get_epsilon(delta))

    special, either = dp.NeighboringRelation.REPLACE_SPECIAL, dp.NeighboringRelation
    tree = dp.dp_event.SingleEpochTreeAggregationDpEvent
    assert cost(tree(1.0, 1000), special) == pytest.approx(19.0536, rel=1e-5)
    assert cost(tree(5.0, 1600), special) == pytest.approx(2.96801, rel=1e-5)
    concentrated = dp.dp_event.ZCDpEvent(0.81)
    found = cost(concentrated, either.ADD_OR_REMOVE_ONE, 1e-10)
    assert found == pytest.approx(8.92226, rel=1e-5)
    # The same as a Gaussian mechanism: rho = 1/(2 z²).
    assert analytic_gaussian_epsilon(1.62**-0.5, 1e-10) == pytest.approx(8.54892, rel=1e-5)


@given(
    st.integers(RATE_UNIT // 10_000, RATE_UNIT),
    st.fractions(Fraction(2, 5), 20, max_denominator=100),
    st.integers(1, 20_000),
    st.sampled_from([1e-3, 1e-5, 1e-10]),
    st.sampled_from([ADD, ZERO]),
)
@settings(max_examples=4)
def test_our_filter_is_dp_accountings_at_integer_orders(
    rate: int, noise_multiplier: Fraction, count: int, delta: float, adjacency: Adjacency
) -> None:
    spend = {PoissonEvent(rate, GaussianEvent(noise_multiplier)): count}
    expected, _ = reference_rdp_epsilon(spend, adjacency=adjacency, delta=delta, orders=rdp.ORDERS)
    found, _ = rdp.epsilon(rdp.compose(spend, adjacency), delta)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("adjacency", [ADD, ZERO, REPLACE])
@pytest.mark.parametrize("noise_multiplier", [3, 8])
def test_one_gaussian_costs_the_same_by_whoever_is_asked(
    noise_multiplier: int, adjacency: Adjacency
) -> None:
    """dp-accounting's REPLACE_ONE reads noise in one unit for PLD and in another for RDP."""
    spend: Mapping[Event, int] = {GaussianEvent(Fraction(noise_multiplier)): 1}
    apart = adjacency.clipping_norms
    exact = analytic_gaussian_epsilon(Fraction(noise_multiplier, apart), 1e-5)
    found = account(spend, adjacency=adjacency, delta=1e-5)
    assert found.pld == pytest.approx(exact, rel=1e-5)
    reference, _ = reference_rdp_epsilon(spend, adjacency=adjacency, delta=1e-5, orders=rdp.ORDERS)
    assert found.rdp == pytest.approx(reference, rel=1e-8)
    assert found.value == found.pld < found.rdp


@pytest.mark.usefixtures("coarse_losses")
def test_a_repetition_costs_as_its_count() -> None:
    repeated = account({RepeatedEvent(10, sampled(0.05, 2)): 50}, adjacency=ADD, delta=1e-5)
    plain = account({sampled(0.05, 2): 500}, adjacency=ADD, delta=1e-5)
    assert repeated.value == pytest.approx(plain.value, rel=1e-6)
    assert repeated.cross_checked
    assert plain.cross_checked


@pytest.mark.usefixtures("coarse_losses")
def test_the_smaller_of_two_upper_bounds_is_reported_and_both_are_shown() -> None:
    found = account({ONE: 1}, adjacency=ADD, delta=1e-5)
    assert found.value == found.pld
    assert (found.accountant, found.version) == ("dp-accounting PLD", "0.6.0")
    assert found.cross_checked
    assert found.without_pld == ""
    alone = account({ONE: 1}, adjacency=ADD, delta=1e-5, accountant="rdp")
    assert alone.value == alone.rdp == found.rdp
    assert (alone.pld, alone.cross_checked) == (None, False)
    assert json.loads(json.dumps(found.to_json()))["adjacency"] == "ADD_REMOVE"


def test_nothing_spent_costs_nothing() -> None:
    assert account({}, adjacency=ADD, delta=1e-5).value == 0


@pytest.mark.parametrize("by_pld", [50.0, 0.1])
def test_accountants_that_contradict_each_other_are_not_believed(
    by_pld: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounting, "pld_epsilon", lambda *_, **__: by_pld)
    with pytest.raises(AccountantError, match="contradict"):
        account({BASE: 1000, ONE: 1}, adjacency=ADD, delta=1e-5)


@pytest.mark.parametrize(
    ("event", "adjacency"),
    [
        (sampled(0.01, 10), ADD),
        (sampled(0.0001, 1), ADD),
        (RepeatedEvent(10**6, sampled(0.01, 8)), ADD),
        (TRUNCATED, ZERO),
    ],
)
def test_where_the_distance_of_the_two_was_not_measured_they_are_not_held_to_it(
    event: Event, adjacency: Adjacency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounting, "pld_epsilon", lambda *_, **__: 1e6)
    found = account({event: 1}, adjacency=adjacency, delta=1e-5)
    assert not found.cross_checked
    assert found.value == found.rdp


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.001, 0.01, 1.0])
@pytest.mark.parametrize("noise_multiplier", ["0.6", "1", "8"])
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_the_two_keep_the_distance_that_a_report_asks_for(
    rate: float, noise_multiplier: str, count: int
) -> None:
    spend: Mapping[Event, int] = {sampled(rate, noise_multiplier): count}
    for delta in (1e-3, 1e-5, 1e-10):
        found = account(spend, adjacency=ADD, delta=delta)
        assert found.cross_checked or found.rdp > 200


@pytest.mark.parametrize(
    ("event", "adjacency", "reason"),
    [
        (SHARES, ADD, "not proven"),
        (PoissonEvent(BASE.rate, SHARES), ADD, "not proven"),
        (RepeatedEvent(3, SKELLAM), ADD, "Skellam"),
        (FixedSizeEvent(10, 1000, ONE), REPLACE, "fixed size"),
    ],
)
def test_a_report_says_why_it_has_no_distribution(
    event: Event, adjacency: Adjacency, reason: str
) -> None:
    found = account({event: 2}, adjacency=adjacency, delta=1e-5)
    assert found.pld is None
    assert found.value == found.rdp
    assert reason in found.without_pld == why_no_pld({event: 2}, adjacency)
    for ask in (
        lambda: account({event: 2}, adjacency=adjacency, delta=1e-5, accountant="pld"),
        lambda: pld_epsilon({event: 2}, adjacency=adjacency, delta=1e-5),
    ):
        with pytest.raises(AccountantError, match=reason):
            ask()


def test_a_delta_below_what_distributions_resolve_is_left_to_the_other_accountant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pld_epsilon({BASE: 10}, adjacency=ADD, delta=1e-30, interval=1e-3) == math.inf
    monkeypatch.setattr(accounting, "pld_epsilon", lambda *_, **__: math.inf)
    found = account({BASE: 10}, adjacency=ADD, delta=1e-30)
    assert found.pld is None
    assert "delta" in found.without_pld
    with pytest.raises(AccountantError, match="delta"):
        account({BASE: 10}, adjacency=ADD, delta=1e-30, accountant="pld")


@pytest.mark.parametrize(
    ("event", "adjacency"),
    [(BASE, REPLACE), (TRUNCATED, ADD), (FixedSizeEvent(1, 10, ONE), ADD)],
)
def test_what_nobody_has_proven_is_not_reported(event: Event, adjacency: Adjacency) -> None:
    with pytest.raises(AccountantError):
        account({event: 1}, adjacency=adjacency, delta=1e-5)


def test_an_order_that_dp_accounting_drops_is_an_error_and_no_noise(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    spend: Mapping[Event, int] = {sampled(0.05, "0.6162"): 1500}
    with pytest.raises(AccountantError, match="orders"):
        reference_rdp_epsilon(spend, adjacency=ADD, delta=1e-6)
    few = range(2, 12)
    found, _ = reference_rdp_epsilon(spend, adjacency=ADD, delta=1e-6, orders=few)
    assert found == pytest.approx(account(spend, adjacency=ADD, delta=1e-6, accountant="rdp").rdp)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    logging.getLogger("absl").warning("of somebody else")
    assert len(caplog.records) == 1


def test_what_dp_accountings_own_filter_refuses_is_an_error_of_ours() -> None:
    for event, adjacency in [(TRUNCATED, ZERO), (SHARES, ADD), (BASE, REPLACE)]:
        with pytest.raises(AccountantError):
            reference_rdp_epsilon({event: 1}, adjacency=adjacency, delta=1e-5)


def test_without_the_extra_a_report_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    found = account({BASE: 10}, adjacency=ADD, delta=1e-5)
    assert found.value == found.rdp
    assert "not installed" in found.without_pld
    for ask in (
        lambda: account({BASE: 10}, adjacency=ADD, delta=1e-5, accountant="pld"),
        lambda: pld_epsilon({BASE: 10}, adjacency=ADD, delta=1e-5),
        lambda: reference_rdp_epsilon({BASE: 10}, adjacency=ADD, delta=1e-5),
    ):
        with pytest.raises(InstallError, match=r"in a checkout pip install -e '\.\[dp\]'"):
            ask()


def test_a_version_that_was_not_checked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "0.7.1")
    with pytest.raises(InstallError, match=r"0\.7\.1"):
        pld_epsilon({BASE: 10}, adjacency=ADD, delta=1e-5)


def test_misuse_is_told_apart() -> None:
    with pytest.raises(ArgumentError):
        account({ONE: 1}, adjacency=ADD, delta=1e-5, accountant="prv")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        account({ONE: 1}, adjacency=ADD, delta=0.0)
    with pytest.raises(ArgumentError):
        account({ONE: -1}, adjacency=ADD, delta=1e-5)
    with pytest.raises(ArgumentError):
        pld_epsilon({ONE: -1}, adjacency=ADD, delta=1e-5)


def test_the_most_and_the_least_noise_are_accounted() -> None:
    huge, tiny = GaussianEvent(Fraction(2**40)), GaussianEvent(Fraction(1, 2**40))
    assert account({huge: 1}, adjacency=ADD, delta=1e-5).value == 0
    found = account({tiny: 1}, adjacency=ADD, delta=1e-5)
    assert found.value > 1e20
    assert "too wide" in found.without_pld
