"""A ring is that of the tables and of the conditions as they are written, and simulation agrees."""

from __future__ import annotations

from math import comb, lgamma, log

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from fedcore.secagg.params import (
    LARGEST_SESSION,
    Profile,
    RingParameters,
    parameters,
    ring_parameters,
)
from tests.secagg.tables import ETA, cells
from tests.variants import mostly_slow

Rings = NDArray[np.int8]

CELLS = cells()


# --- the tables ---------------------------------------------------------------------------------


def test_the_tables_hold_every_cell_once() -> None:
    assert len({cell[:5] for cell in CELLS}) == len(CELLS) == 14 * 8 + 7 * 8


def test_a_ring_is_that_of_its_cell() -> None:
    for cell in CELLS:
        ring = ring_parameters(
            cell.n,
            corrupt=int(cell.gamma * cell.n),
            dropouts=int(cell.delta * cell.n),
            sigma=cell.sigma,
            eta=ETA,
            profile=cell.profile,
        )
        assert ring == cell.ring, cell


def test_a_session_takes_its_cell_and_the_middle_of_the_thresholds() -> None:
    for cell in CELLS:
        if cell.ring is None or cell.n > LARGEST_SESSION or 2 * cell.delta >= 1 - cell.gamma:
            continue
        session = parameters(
            cell.n,
            profile=cell.profile,
            gamma=cell.gamma,
            delta=cell.delta,
            sigma=cell.sigma,
            eta=ETA,
            beacon=True,
        )
        below, above = session.threshold - cell.ring.t_min, cell.ring.t_max - session.threshold
        assert (session.degree, session.window) == cell.ring[:2], cell
        assert 0 <= below - above <= 1, cell
        assert not session.complete, cell


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


@given(
    st.data(), st.integers(2, 40), st.integers(1, 25), st.integers(1, 25), st.sampled_from(Profile)
)
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


@given(
    st.data(),
    st.integers(65, 300),
    st.integers(5, 100),
    st.integers(5, 40),
    st.sampled_from(Profile),
)
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


@pytest.mark.parametrize(("n", "c", "d"), mostly_slow([(100, 10, 10), (128, 6, 25), (90, 18, 9)]))
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


@pytest.mark.parametrize(("n", "c", "d"), mostly_slow([(100, 10, 10), (128, 6, 25), (90, 18, 9)]))
def test_dropouts_stop_a_session_less_often_than_eta_says(n: int, c: int, d: int) -> None:
    ring = ring_parameters(n, corrupt=c, dropouts=d, sigma=10, eta=10, profile=Profile.MALICIOUS)
    assert ring is not None
    alive = (1 - draw_rings(2, n, d)).astype(np.int8)
    check_fails = (in_windows(alive, ring.degree // 2) < ring.window).any(axis=1)
    secret_gone = (among_neighbours(alive, ring.degree) < ring.t_max).any(axis=1)
    assert (check_fails | secret_gone).sum() <= most_failures(2**-10)


@pytest.mark.parametrize(("n", "c", "d"), mostly_slow([(100, 10, 10), (128, 6, 25)]))
def test_a_semi_honest_server_succeeds_less_often_than_sigma_says(n: int, c: int, d: int) -> None:
    ring = ring_parameters(n, corrupt=c, dropouts=d, sigma=10, eta=10, profile=Profile.SEMI_HONEST)
    assert ring is not None
    missing = draw_rings(3, n, c + d)
    half = ring.degree // 2
    assert (in_windows(missing, half) == half).any(axis=1).sum() <= most_failures(2**-11)
    # So that this could fail: windows of half the width break the bound.
    assert (in_windows(missing, half // 2) == half // 2).any(axis=1).sum() > most_failures(2**-11)


@pytest.mark.parametrize(("n", "marked", "degree"), mostly_slow([(100, 10, 30), (128, 25, 44)]))
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
