"""A session gets the counts that its terms promise, or a refusal that says which terms would do."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ParameterError
from fedcore.secagg.params import LARGEST_EXPONENT, Parameters, Profile, parameters, ring_parameters

TENTH = Fraction(1, 10)
PROFILES = st.sampled_from(Profile)
USUAL: dict[str, Any] = {
    "profile": Profile.MALICIOUS,
    "gamma": TENTH,
    "delta": TENTH,
    "sigma": 100,
    "eta": 30,
    "beacon": False,
}


def shares() -> st.SearchStrategy[Fraction]:
    return st.fractions(0, Fraction(999, 1000), max_denominator=1000)


# --- sessions -----------------------------------------------------------------------------------


@st.composite
def sessions(draw: st.DrawFn) -> tuple[Parameters, Fraction, Fraction]:
    n = draw(st.integers(5, 200))
    gamma = draw(shares()) / 2
    delta = draw(shares()) * (1 - gamma) / 3
    profile = draw(PROFILES)
    options = USUAL | {"gamma": gamma, "delta": delta, "profile": profile}
    return parameters(n, **options), gamma, delta


@given(sessions())
def test_two_quorums_share_an_honest_signer_and_the_survivors_make_one(
    session: tuple[Parameters, Fraction, Fraction],
) -> None:
    p, gamma, delta = session
    assert 2 * p.quorum - p.n > p.corrupt >= 1
    assert p.quorum <= p.minimum_survivors == p.n - p.dropouts
    assert p.corrupt <= max(gamma * p.n, 1) < p.corrupt + 1
    assert p.dropouts <= delta * p.n < p.dropouts + 1


@given(sessions())
def test_a_threshold_is_never_met_by_the_corrupt_neighbours_alone(
    session: tuple[Parameters, Fraction, Fraction],
) -> None:
    p, _, _ = session
    assert 1 <= p.threshold <= p.degree <= p.n - 1
    if p.complete:
        assert p.degree == p.n - 1
        assert p.corrupt < p.threshold <= p.n - 1 - p.dropouts
        assert 0 <= 2 * p.threshold - (p.corrupt + p.n - p.dropouts) <= 1
        assert p.window == 0
    else:
        assert p.n > 64
        assert p.degree < p.n - 1


@pytest.mark.parametrize(("n", "complete"), [(64, True), (65, False)])
def test_more_than_sixty_four_clients_make_a_ring_where_one_will_do(n: int, complete: bool) -> None:
    options = USUAL | {"delta": Fraction(1, 20), "gamma": Fraction(1, 20)}
    assert parameters(n, **options).complete == complete


def test_more_clients_are_complete_where_no_ring_will_do() -> None:
    options = USUAL | {"delta": Fraction(3, 10), "gamma": Fraction(3, 10)}
    p = parameters(100, **options)
    assert p == Parameters(100, 30, 30, 70, 66, 99, 0, 50, True)


def test_a_pair_has_nobody_who_colludes_and_shares_with_one_peer() -> None:
    assert parameters(2, **USUAL) == Parameters(2, 0, 0, 2, 2, 1, 0, 1, True)


def test_three_clients_never_assume_that_nobody_colludes() -> None:
    p = parameters(3, **USUAL | {"gamma": Fraction(0)})
    assert p == Parameters(3, 1, 0, 3, 3, 2, 0, 2, True)
    assert parameters(200, **USUAL | {"gamma": Fraction(0)}).corrupt == 1


def test_fractions_are_rounded_down_exactly_where_floats_are_not() -> None:
    assert int(0.29 * 100) == 28
    options = USUAL | {"gamma": Fraction(29, 100)}
    assert parameters(100, **options).corrupt == 29


@given(st.integers(2, 1024), st.integers(1, 99))
def test_a_weak_sigma_needs_a_beacon_against_a_malicious_server_only(n: int, sigma: int) -> None:
    weak = USUAL | {"sigma": sigma, "gamma": Fraction(1, 20), "delta": Fraction(1, 20)}
    with pytest.raises(ParameterError, match="sigma = 100, or name a beacon"):
        parameters(n, **weak)
    parameters(n, **weak | {"beacon": True})
    parameters(n, **weak | {"profile": Profile.SEMI_HONEST})


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "options", "fix"),
    [
        (0, {}, "from 2 to 1024"),
        (1, {}, "from 2 to 1024; .* two clients"),
        (-5, {}, "from 2 to 1024; .* two clients"),
        (1025, {}, "add the sums of several sessions"),
        (10**30, {}, "add the sums of several sessions"),
        (8.0, {}, "plain int from 2 to 1024$"),
        (np.int64(8), {}, "plain int from 2 to 1024$"),
        (True, {}, "plain int from 2 to 1024$"),
        (None, {}, "plain int from 2 to 1024$"),
        (8, {"gamma": 0.1}, r"gamma=Fraction\(1, 5\)"),
        (8, {"delta": 0.1}, r"delta=Fraction\(1, 5\)"),
        (8, {"gamma": Fraction(-1, 10)}, r"gamma=Fraction\(1, 5\)"),
        (8, {"gamma": Fraction(1)}, r"gamma=Fraction\(1, 5\)"),
        (8, {"delta": Fraction(-1, 10)}, r"delta=Fraction\(1, 5\)"),
        (8, {"delta": Fraction(2)}, r"delta=Fraction\(1, 5\)"),
        (8, {"delta": True}, r"delta=Fraction\(1, 5\)"),
        (8, {"delta": 1}, r"delta=Fraction\(1, 5\)"),
        (8, {"delta": Fraction(9, 20)}, r"less than Fraction\(9, 20\)"),
        (8, {"delta": Fraction(1, 2), "gamma": 0}, r"less than Fraction\(1, 2\)"),
        (8, {"sigma": 0}, f"from 1 to {LARGEST_EXPONENT}"),
        (8, {"sigma": LARGEST_EXPONENT + 1}, f"from 1 to {LARGEST_EXPONENT}"),
        (8, {"eta": -1}, f"from 1 to {LARGEST_EXPONENT}"),
        (8, {"eta": 30.0}, f"from 1 to {LARGEST_EXPONENT}"),
        (8, {"sigma": 99}, "name a beacon"),
        (8, {"profile": 1}, "Profile.MALICIOUS"),
        (8, {"profile": 7}, "Profile.MALICIOUS"),
        (3, {"delta": Fraction(2, 5)}, "lower delta to 0"),
        (4, {"gamma": Fraction(3, 4), "delta": 0}, r"lower gamma to Fraction\(1, 2\)"),
        (2, {"gamma": Fraction(1, 2), "delta": Fraction(0)}, "lower gamma to 0"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(n: Any, options: dict[str, Any], fix: str) -> None:
    with pytest.raises(ParameterError) as refusal:
        parameters(n, **USUAL | options)
    assert re.search(fix, refusal.value.fix)
    assert refusal.value.why


@given(st.integers(2, 100), shares(), shares(), PROFILES)
def test_who_follows_the_fixes_arrives_at_a_session(
    n: int, gamma: Fraction, delta: Fraction, profile: Profile
) -> None:
    options = USUAL | {"gamma": gamma, "delta": delta, "profile": profile}
    for _ in range(4):
        try:
            parameters(n, **options)
            return
        except ParameterError as refusal:
            found = re.fullmatch(r"lower (gamma|delta) to (less than )?(.+)", refusal.fix)
            assert found, refusal
            # As a user would: what stands there is an expression of Python.
            value = eval(found[3], {"Fraction": Fraction})
            options[found[1]] = value * Fraction(999, 1000) if found[2] else value
    pytest.fail(f"four fixes did not help: {options}")


@given(st.integers(3, 60), shares(), shares(), PROFILES)
def test_the_delta_of_a_fix_is_the_largest_that_works(
    n: int, gamma: Fraction, delta: Fraction, profile: Profile
) -> None:
    options = USUAL | {"gamma": gamma, "delta": delta, "profile": profile}
    try:
        parameters(n, **options)
    except ParameterError as refusal:
        if found := re.fullmatch(r"lower delta to (0|Fraction.*)", refusal.fix):
            options["delta"] = eval(found[1], {"Fraction": Fraction})
            parameters(n, **options)
            options["delta"] += Fraction(1, n)
            with pytest.raises(ParameterError):
                parameters(n, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"n": 1},
        {"n": 2**20 + 1},
        {"corrupt": -1},
        {"corrupt": 100},
        {"dropouts": 100},
        {"sigma": 0},
        {"eta": 0},
        {"profile": 0},
    ],
)
def test_a_ring_of_impossible_counts_is_refused(options: dict[str, Any]) -> None:
    counts = {"n": 100, "corrupt": 5, "dropouts": 5, "sigma": 40, "eta": 30} | options
    with pytest.raises(ParameterError):
        ring_parameters(**{"profile": Profile.MALICIOUS, **counts})
