"""How many clients to select, and when those that are not needed ask again."""

from __future__ import annotations

from dataclasses import replace
from math import floor

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError
from fedcore.rounds import (
    DropoutEstimate,
    Loss,
    Phase,
    RoundState,
    Seen,
    overselection,
    retry_window,
    seen_in,
)
from fedcore.rounds.state import SURPLUS
from tests.rounds.driving import DIGEST, clients

P = Phase
rates = st.floats(0, 0.85)


@given(st.integers(1, 1_000), st.floats(1, 8))
def test_a_first_guess_selects_its_factor(goal: int, factor: float) -> None:
    selected = DropoutEstimate.expecting(factor).selection(goal)
    assert goal * factor - 1e-6 <= selected < goal * factor + 1


@given(rates, rates, rates, st.integers(1, 1_000))
def test_a_selection_is_at_least_the_goal_and_at_most_ten_times_it(
    keys: float, shares: float, reports: float, goal: int
) -> None:
    estimate = DropoutEstimate({P.KEYS: keys, P.SHARES: shares, P.COLLECTING: reports})
    assert goal <= estimate.selection(goal) <= 10 * goal


def test_the_drop_outs_of_every_phase_before_the_report_add_up() -> None:
    halves = DropoutEstimate({P.KEYS: 0.5, P.COLLECTING: 0.5})
    assert halves.selection(3) == 12
    assert replace(halves, rates={**halves.rates, P.UNMASKING: 0.5}).selection(3) == 12


@given(rates | st.none(), st.floats(0.01, 1), st.integers(1, 100), st.data())
def test_an_estimate_is_the_exponential_mean_of_what_was_seen(
    first: float | None, smoothing: float, asked: int, data: st.DataObject
) -> None:
    """Of a phase of which nothing is known, as of one that loses nobody."""
    estimate = DropoutEstimate({} if first is None else {P.KEYS: first}, smoothing)
    mean = first or 0.0
    for _ in range(5):
        lost = data.draw(st.integers(0, asked))
        estimate = overselection(estimate, {P.KEYS: Seen(asked, lost)})
        mean = (1 - smoothing) * mean + smoothing * lost / asked
    assert estimate.rates == {P.KEYS: pytest.approx(mean)}
    assert estimate.smoothing == smoothing


def test_a_phase_that_nobody_reached_teaches_nothing() -> None:
    guess = DropoutEstimate.expecting(1.3)
    assert overselection(guess, {P.COLLECTING: Seen(0, 0)}) == guess


def test_each_phase_is_seen_with_those_who_reached_it() -> None:
    lost = {b"a": Loss(P.KEYS, "x"), b"b": Loss(P.COLLECTING, "x"), b"c": Loss(P.UNMASKING, "x")}
    lost |= {b"d": Loss(P.COLLECTING, SURPLUS), b"z": Loss(P.SELECTING, "x")}
    cohort = frozenset(clients(6))
    done = RoundState("t", 0, 1, P.SCRUBBED, 9, 0, cohort=cohort, lost=lost, digest=DIGEST)
    assert seen_in(done) == {
        P.KEYS: Seen(6, 1),
        P.SHARES: Seen(5, 0),
        P.COLLECTING: Seen(4, 1),
        P.CONFIRMING: Seen(3, 0),
        P.UNMASKING: Seen(3, 1),
    }
    abandoned = replace(done, phase=P.ABANDONED, digest=b"", lost={b"a": Loss(P.SHARES, "x")})
    assert seen_in(abandoned) == {P.KEYS: Seen(6, 0), P.SHARES: Seen(6, 1)}
    assert seen_in(replace(abandoned, lost={})) == {}


def test_the_bounds_of_an_estimate_belong_to_it() -> None:
    certain = DropoutEstimate({P.KEYS: 0.0, P.SHARES: 1.0}, smoothing=1.0)
    assert certain.reporting == 0 and certain.selection(3) == 30
    assert overselection(certain, {P.SHARES: Seen(4, 4)}).rates[P.SHARES] == 1.0
    assert overselection(certain, {P.SHARES: Seen(4, 0)}).rates[P.SHARES] == 0.0


def test_what_is_no_estimate_is_refused() -> None:
    for wrong in (
        lambda: DropoutEstimate({P.KEYS: 1.5}),
        lambda: DropoutEstimate({P.KEYS: -0.1}),
        lambda: DropoutEstimate(smoothing=0),
        lambda: DropoutEstimate(smoothing=1.1),
        lambda: DropoutEstimate.expecting(0.9),
        lambda: DropoutEstimate.expecting(float("nan")),
        lambda: overselection(DropoutEstimate(), {P.KEYS: Seen(1, 2)}),
    ):
        with pytest.raises(ArgumentError):
            wrong()


population = st.integers(0, 10**7)
rate = st.floats(0.1, 1_000)
moment = st.integers(0, 10**6)


@given(population, rate, moment, st.integers(1, 600_000), moment)
def test_a_window_is_one_and_lies_ahead(n: int, r: float, begins: int, lasts: int, at: int) -> None:
    shortest, longest = retry_window(n, r, begins, lasts, at)
    assert 0 <= shortest <= longest


@given(st.integers(10_001, 10**7), st.floats(1, 16))
def test_a_large_population_arrives_at_the_target_rate(n: int, r: float) -> None:
    shortest, longest = retry_window(n, r, next_selection_at=0, selection_ms=60_000, at=0)
    mean_s = (shortest + longest) / 2000
    assert n / mean_s == pytest.approx(r, rel=1e-2)  # delays are whole milliseconds
    assert longest - shortest == pytest.approx(mean_s * 1000, abs=2)


@given(rate, st.integers(1, 600_000))
def test_a_population_is_large_beyond_ten_times_what_a_selection_wants(r: float, ms: int) -> None:
    most = floor(10 * r * ms / 1000)
    _, longest = retry_window(most, r, next_selection_at=0, selection_ms=ms, at=0)
    assert longest == ms // 2
    shortest, longest = retry_window(most + 1, r, next_selection_at=0, selection_ms=ms, at=0)
    assert shortest + longest == pytest.approx(2000 * (most + 1) / r, abs=2)


@given(st.integers(0, 600), moment, moment)
def test_a_small_population_meets_in_the_first_half_of_the_next_selection(
    n: int, begins: int, at: int
) -> None:
    shortest, longest = retry_window(n, 1.0, begins, selection_ms=60_000, at=at)
    assert at + shortest == max(begins, at)
    assert longest - shortest == 30_000


@pytest.mark.parametrize(
    ("n", "r", "lasts"), [(-1, 1.0, 1), (1, 0.0, 1), (1, float("inf"), 1), (1, 1.0, 0)]
)
def test_what_gives_no_window_is_refused(n: int, r: float, lasts: int) -> None:
    with pytest.raises(ArgumentError):
        retry_window(n, r, next_selection_at=0, selection_ms=lasts, at=0)
