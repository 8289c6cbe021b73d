"""The parameters against the tables, the conditions as they are written, and simulated rings."""

from __future__ import annotations

import re
from fractions import Fraction
from math import comb, lgamma, log
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from fedcore.errors import ParameterError
from fedcore.secagg.params import (
    LARGEST_EXPONENT,
    LARGEST_SESSION,
    Parameters,
    Profile,
    RingParameters,
    parameters,
    ring_parameters,
)
from tests.secagg.tables import ETA, Cell, cells

Rings = NDArray[np.int8]

CELLS = cells()
PROFILES = st.sampled_from(Profile)
TENTH = Fraction(1, 10)
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


# --- the tables ---------------------------------------------------------------------------------


def test_the_tables_hold_every_cell_once() -> None:
    assert len({cell[:5] for cell in CELLS}) == len(CELLS) == 14 * 8 + 7 * 8


def name(cell: Cell) -> str:
    return f"{cell.profile.name}-{cell.delta}-{cell.gamma}-{cell.sigma}-{cell.n}"


@pytest.mark.parametrize("cell", CELLS, ids=name)
def test_a_ring_is_that_of_its_cell(cell: Cell) -> None:
    ring = ring_parameters(
        cell.n,
        corrupt=int(cell.gamma * cell.n),
        dropouts=int(cell.delta * cell.n),
        sigma=cell.sigma,
        eta=ETA,
        profile=cell.profile,
    )
    assert ring == cell.ring


@pytest.mark.parametrize(
    "cell",
    [c for c in CELLS if c.ring and c.n <= LARGEST_SESSION and 2 * c.delta < 1 - c.gamma],
    ids=name,
)
def test_a_session_takes_its_cell_and_the_middle_of_the_thresholds(cell: Cell) -> None:
    session = parameters(
        cell.n,
        profile=cell.profile,
        gamma=cell.gamma,
        delta=cell.delta,
        sigma=cell.sigma,
        eta=ETA,
        beacon=True,
    )
    assert cell.ring is not None
    below, above = session.threshold - cell.ring.t_min, cell.ring.t_max - session.threshold
    assert (session.degree, session.window) == cell.ring[:2]
    assert 0 <= below - above <= 1
    assert not session.complete


# --- the conditions -----------------------------------------------------------------------------


def tail(population: int, marked: int, drawn: int, least: int) -> int:
    """H(N, K, m, a) = Σ_{i ≥ a} C(K, i) · C(N − K, m − i)."""
    return sum(
        comb(marked, i) * comb(population - marked, drawn - i) for i in range(least, drawn + 1)
    )


def ring_as_written(
    n: int, c: int, d: int, sigma: int, eta: int, profile: Profile
) -> RingParameters | None:
    """Conditions (A) to (D), each once for each k, v and t."""
    malicious = profile is Profile.MALICIOUS
    private, available = 2 ** (sigma + 1) * n, 2 ** (eta + malicious) * n
    for k in range(2, n - 1, 2):
        w = k // 2
        if malicious:
            good = (v for v in range(1, w + 1) if private * tail(n, c, w, v) <= comb(n, w))
            v = next(good, 0)
            if v == 0 or available * tail(n, d, w, w - v + 1) > comb(n, w):
                continue
        elif private * (c + d) ** w <= n**w:
            v = 0
        else:
            continue
        choices = comb(n - 1, k)
        ts = [
            t
            for t in range(1, k + 1)
            if private * tail(n - 1, c, k, t) <= choices
            and available * tail(n - 1, d, k, k - t + 1) <= choices
        ]
        if ts:
            return RingParameters(k, v, ts[0], ts[-1])
    return None


@given(st.data(), st.integers(2, 40), st.integers(1, 25), st.integers(1, 25), PROFILES)
def test_a_ring_is_the_first_to_meet_the_conditions_as_written(
    data: st.DataObject, n: int, sigma: int, eta: int, profile: Profile
) -> None:
    c, d = (data.draw(st.integers(0, n - 1)) for _ in range(2))
    found = ring_parameters(n, corrupt=c, dropouts=d, sigma=sigma, eta=eta, profile=profile)
    assert found == ring_as_written(n, c, d, sigma, eta, profile)


@pytest.mark.parametrize(
    ("n", "c", "d", "bits", "profile", "ring"),
    [
        (17, 3, 2, 1, Profile.MALICIOUS, (10, 3, 4, 8)),
        (9, 0, 2, 1, Profile.MALICIOUS, (4, 1, 1, 2)),
        (8, 1, 1, 2, Profile.SEMI_HONEST, (6, 0, 2, 5)),
    ],
)
def test_a_condition_that_holds_with_equality_holds(
    n: int, c: int, d: int, bits: int, profile: Profile, ring: tuple[int, ...]
) -> None:
    found = ring_parameters(n, corrupt=c, dropouts=d, sigma=bits, eta=bits, profile=profile)
    assert found == ring == ring_as_written(n, c, d, bits, bits, profile)


def log_binomials(top: int) -> NDArray[np.float64]:
    logs = np.array([lgamma(i + 1) for i in range(top + 1)])
    return logs[top] - logs - logs[::-1]


def least_rare(population: int, marked: int, drawn: int, log_bound: float) -> int:
    """The least a with ln P[a or more] ≤ the bound, by floating-point log-gamma."""
    low, high = max(0, drawn + marked - population), min(marked, drawn)
    i = np.arange(low, high + 1)
    logs = log_binomials(marked)[i] + log_binomials(population - marked)[drawn - i]
    tails = np.logaddexp.accumulate(logs[::-1])[::-1] - log_binomials(population)[drawn]
    return low + int(np.sum(tails > log_bound + 1e-9))


@given(st.data(), st.integers(65, 300), st.integers(5, 100), st.integers(5, 40), PROFILES)
def test_a_ring_is_that_of_a_version_in_floating_point(
    data: st.DataObject, n: int, sigma: int, eta: int, profile: Profile
) -> None:
    c, d = (data.draw(st.integers(0, n // 3)) for _ in range(2))
    malicious = profile is Profile.MALICIOUS
    private = -(sigma + 1) * log(2) - log(n)
    available = -(eta + malicious) * log(2) - log(n)
    expected = None
    for k in range(2, n - 1, 2):
        w = k // 2
        if malicious:
            v = least_rare(n, c, w, private)
            fits = v <= w - least_rare(n, d, w, available) + 1
        else:
            v, fits = 0, c + d == 0 or w * log((c + d) / n) <= private + 1e-9
        t_min = least_rare(n - 1, c, k, private)
        t_max = k - least_rare(n - 1, d, k, available) + 1
        if fits and t_min <= t_max:
            expected = RingParameters(k, v, t_min, t_max)
            break
    assert expected == ring_parameters(
        n, corrupt=c, dropouts=d, sigma=sigma, eta=eta, profile=profile
    )


# --- simulated rings ----------------------------------------------------------------------------

TRIALS = 50_000


def draw_rings(seed: int, n: int, marked: int) -> Rings:
    """TRIALS rings of n positions with `marked` ones each, at random."""
    ring = (np.arange(n) < marked).astype(np.int8)
    return np.random.default_rng(seed).permuted(np.tile(ring, (TRIALS, 1)), axis=1)


def in_windows(rings: Rings, width: int) -> NDArray[np.int16]:
    """The ones among the `width` positions from each position on."""
    wrapped = np.concatenate([rings, rings[:, :width]], axis=1)
    before = np.cumsum(wrapped, axis=1, dtype=np.int16)
    before = np.pad(before, ((0, 0), (1, 0)))
    return before[:, width:-1] - before[:, : -width - 1]


def among_neighbours(rings: Rings, degree: int) -> NDArray[np.int16]:
    """The ones among the neighbours of each position."""
    around = in_windows(rings, degree + 1)
    return np.roll(around, degree // 2, axis=1) - rings


def most_failures(probability: float) -> float:
    """A binomial count of TRIALS exceeds this in less than one of 10⁵ tests."""
    mean = TRIALS * probability
    return mean + 5 * mean**0.5


@pytest.mark.parametrize(("n", "c", "d"), [(100, 10, 10), (128, 6, 25), (90, 18, 9)])
def test_a_malicious_server_succeeds_less_often_than_sigma_says(n: int, c: int, d: int) -> None:
    ring = ring_parameters(n, corrupt=c, dropouts=d, sigma=10, eta=10, profile=Profile.MALICIOUS)
    assert ring is not None
    corrupt = draw_rings(1, n, c)
    window_lost = (in_windows(corrupt, ring.degree // 2) >= ring.window).any(axis=1)
    neighbours = np.where(corrupt == 0, among_neighbours(corrupt, ring.degree), 0)
    secret_lost = (neighbours >= ring.t_min).any(axis=1)
    assert (window_lost | secret_lost).sum() <= most_failures(2**-10)
    # So that this could fail: either number lowered by two breaks the bound.
    window_lost = (in_windows(corrupt, ring.degree // 2) >= ring.window - 2).any(axis=1)
    secret_lost = (neighbours >= ring.t_min - 2).any(axis=1)
    assert min(window_lost.sum(), secret_lost.sum()) > most_failures(2**-11)


@pytest.mark.parametrize(("n", "c", "d"), [(100, 10, 10), (128, 6, 25), (90, 18, 9)])
def test_dropouts_stop_a_session_less_often_than_eta_says(n: int, c: int, d: int) -> None:
    ring = ring_parameters(n, corrupt=c, dropouts=d, sigma=10, eta=10, profile=Profile.MALICIOUS)
    assert ring is not None
    alive = (1 - draw_rings(2, n, d)).astype(np.int8)
    check_fails = (in_windows(alive, ring.degree // 2) < ring.window).any(axis=1)
    secret_gone = (among_neighbours(alive, ring.degree) < ring.t_max).any(axis=1)
    assert (check_fails | secret_gone).sum() <= most_failures(2**-10)


@pytest.mark.parametrize(("n", "c", "d"), [(100, 10, 10), (128, 6, 25)])
def test_a_semi_honest_server_succeeds_less_often_than_sigma_says(n: int, c: int, d: int) -> None:
    ring = ring_parameters(n, corrupt=c, dropouts=d, sigma=10, eta=10, profile=Profile.SEMI_HONEST)
    assert ring is not None
    missing = draw_rings(3, n, c + d)
    half = ring.degree // 2
    assert (in_windows(missing, half) == half).any(axis=1).sum() <= most_failures(2**-11)
    # So that this could fail: windows of half the width break the bound.
    assert (in_windows(missing, half // 2) == half // 2).any(axis=1).sum() > most_failures(2**-11)


@pytest.mark.parametrize(("n", "marked", "degree"), [(100, 10, 30), (128, 25, 44)])
def test_the_tails_are_the_frequencies_on_random_rings(n: int, marked: int, degree: int) -> None:
    rings = draw_rings(4, n, marked)
    half = degree // 2
    counts = in_windows(rings, half)
    near = np.where(rings == 0, among_neighbours(rings, degree), -1)
    compared = 0
    for least in range(1, marked):
        for observed, expected in (
            (counts >= least, n * tail(n, marked, half, least) / comb(n, half)),
            (
                near >= least,
                (n - marked) * tail(n - 1, marked, degree, least) / comb(n - 1, degree),
            ),
        ):
            if TRIALS * expected < 1000:
                continue
            each = observed.sum(axis=1)
            error = each.std() / TRIALS**0.5
            assert abs(each.mean() - expected) <= 5 * error + 1e-9
            compared += 1
    assert compared > 10


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
