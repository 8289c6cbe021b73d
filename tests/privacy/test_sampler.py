"""Draws against their laws, computed apart from the tables, on the fast paths and the slow ones."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies as st
from scipy import special, stats

from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy import sampler
from fedcore.privacy.blocks import BlockTable
from fedcore.privacy.csprng import Stream
from fedcore.privacy.sampler import (
    add_discrete_gaussian,
    add_rounded_gaussian,
    discrete_gaussian,
    rounded_gaussian,
)
from fedcore.privacy.tables import CHUNK
from tests.variants import mostly_slow

Vector: TypeAlias = npt.NDArray[np.int64]
Draw: TypeAlias = Callable[[int], Vector]

FIRST = [0.5, 8, 128, 1000, 1e9]  # both ends, integers and blocks
REST = [0.8, 1, 3, 64, 100, 2**16, 2**20 + 0.5]
SIGMAS = sorted(FIRST + REST)
KINDS = ["rounded", "discrete"]
DRAWS: dict[str, Any] = {"rounded": rounded_gaussian, "discrete": discrete_gaussian}
ADDS: dict[str, Any] = {"rounded": add_rounded_gaussian, "discrete": add_discrete_gaussian}
LAWS: dict[str, Any] = {"rounded": sampler._rounded, "discrete": sampler._discrete}

SLOW = sampler._Tuning(ratio=4, guide_bits=4, margin_bits=7)
"""One draw in three is unsure and, with blocks, one in a hundred of these left to integers."""


def seeded(seed: bytes = b"sampler") -> Stream:
    return Stream(SeededEntropy(seed))


def variance(sigma: float) -> Fraction:
    return Fraction(sigma) ** 2


def fast(kind: str, sigma: float, stream: Stream) -> Draw:
    return lambda size: DRAWS[kind](variance(sigma), size, stream=stream)


def slow(kind: str, sigma: float, stream: Stream) -> Draw:
    law = LAWS[kind].__wrapped__(variance(sigma), SLOW)

    def draw(size: int) -> Vector:
        drawn = np.zeros(size, np.int64)
        law.add(drawn, stream=stream)
        return drawn

    return draw


def bins(sigma: float) -> tuple[int, npt.NDArray[np.int64]]:
    """The width of a bin, about s / 50, and the numbers of the bins within 9 s."""
    width = max(1, int(sigma / 50))
    most = int(9 * sigma / width) + 1
    return width, np.arange(-most, most + 1)


def expected(kind: str, sigma: float) -> npt.NDArray[np.float64]:
    """The probability of each bin, from float64 and formulas that the package does not use."""
    width, numbers = bins(sigma)
    first = numbers * width
    if kind == "discrete" and sigma < 5000:
        x = np.arange(first[0], first[-1] + width)
        weights = np.exp(-(x.astype(np.float64) ** 2) / (2 * sigma**2))
        return np.asarray(weights.reshape(-1, width).sum(1) / weights.sum())
    # Above s = 5000 the two laws differ by less than 2e-9 of a probability.
    low, high = (first - 0.5) / sigma, (first + width - 0.5) / sigma
    tail = np.where(low > 0, special.ndtr(-low), special.ndtr(low))
    end = np.where(low > 0, special.ndtr(-high), special.ndtr(high))
    return np.asarray(np.abs(tail - end))


def fit(kind: str, sigma: float, draw: Draw, n: int, *, at_once: int = 10**7) -> float:
    """The p-value of a chi-square test of n draws, bins of few draws put together."""
    width, numbers = bins(sigma)
    counts = np.zeros(len(numbers), np.int64)
    for start in range(0, n, at_once):
        drawn = draw(min(at_once, n - start)) // width - numbers[0]
        counts += np.bincount(np.clip(drawn, 0, len(numbers) - 1), minlength=len(numbers))
    probabilities = expected(kind, sigma)
    wanted = probabilities * (n / probabilities.sum())
    common = wanted >= 20
    rest, found = wanted[~common].sum(), counts[~common].sum()
    if rest >= 20:
        wanted, counts = np.append(wanted[common], rest), np.append(counts[common], found)
    else:
        at = int(wanted.argmax())
        wanted[at] += rest
        counts[at] += found
        wanted, counts = wanted[common], counts[common]
    return float(stats.chisquare(counts, wanted).pvalue)


def low_bits(drawn: Vector, bits: int) -> float:
    return float(stats.chisquare(np.bincount(drawn & (2**bits - 1), minlength=2**bits)).pvalue)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", mostly_slow(FIRST + REST, quick=len(FIRST)))
def test_draws_fit_their_law(kind: str, sigma: float) -> None:
    assert fit(kind, sigma, fast(kind, sigma, seeded()), 300_000) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", mostly_slow([0.5, 8, 60, 2**20, 1, 7, 1000, 1e9], quick=4))
def test_draws_that_take_the_slow_paths_fit_their_law(kind: str, sigma: float) -> None:
    assert fit(kind, sigma, slow(kind, sigma, seeded()), 30_000) > 1e-6


@pytest.mark.parametrize("sigma", [60, 2**20])
def test_the_slow_paths_are_taken(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    law = LAWS["rounded"].__wrapped__(variance(sigma), SLOW)
    calls: list[bool] = []
    accepts = BlockTable.accepts

    def counted(*arguments: Any, stream: Stream) -> bool:
        calls.append(accepts(*arguments, stream=stream))
        return calls[-1]

    monkeypatch.setattr(BlockTable, "accepts", counted)
    law.add(np.zeros(10_000, np.int64), stream=seeded())
    assert law.cells.sure < 0.8 * 2**16
    assert (law.cells.fine < 0).mean() > 0.3
    assert 20 < sum(calls) < len(calls) - 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [1024, 2**16, 2**20, 1e9])
def test_low_bits_are_uniform(kind: str, sigma: float) -> None:
    assert low_bits(fast(kind, sigma, seeded())(300_000), 8) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [1, 64, 1000, 2**20])
def test_draws_are_independent_of_their_neighbours_and_of_their_place(
    kind: str, sigma: float
) -> None:
    drawn = fast(kind, sigma, seeded())(2**18).astype(np.float64)
    scale = drawn.std()
    for lag in (1, 2, CHUNK):
        assert abs((drawn[lag:] * drawn[:-lag]).mean()) < 6 * scale**2 / math.sqrt(2**18 - CHUNK)
    places = drawn.reshape(-1, 64)
    assert (np.abs(places.mean(0)) < 6 * scale / 64).all()
    sides = stats.chi2_contingency(np.histogram2d(drawn[1:] > 0, drawn[:-1] > 0, bins=2)[0])
    assert sides.pvalue > 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.5, 100, 1000, 2**24])
@pytest.mark.parametrize("size", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_noise_is_added_as_it_is_drawn(kind: str, sigma: float, size: int) -> None:
    drawn = fast(kind, sigma, seeded())(size)
    assert drawn.shape == (size,) and drawn.dtype == np.int64
    x = np.arange(size, dtype=np.int64) * 2**40
    ADDS[kind](x, variance(sigma), stream=seeded())
    assert (x - drawn == np.arange(size) * 2**40).all()
    strided = np.full(2 * size, 5, np.int64)
    ADDS[kind](strided[::2], variance(sigma), stream=seeded())
    assert (strided[::2] - 5 == drawn).all() and (strided[1::2] == 5).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [3, 100, 1000, 2**24])
@pytest.mark.parametrize("size", [1, 2, CHUNK, CHUNK + 1])
def test_no_coordinate_is_ever_left_without_noise(kind: str, sigma: float, size: int) -> None:
    """Neither the first nor the last of a chunk: that all of 12 draws are 0 happens to none."""
    stream = seeded()
    assert np.any([fast(kind, sigma, stream)(size) for _ in range(12)], axis=0).all()


@given(st.integers(1, 2**34), st.integers(1, 2**34), st.sampled_from(KINDS))
def test_any_variance_in_range_has_its_second_moment(
    numerator: int, denominator: int, kind: str
) -> None:
    sigma2 = min(max(Fraction(numerator, denominator) ** 2, Fraction(4)), Fraction(10**18))
    drawn = DRAWS[kind](sigma2, 2000, stream=seeded()).astype(np.float64)
    expected = float(sigma2) + (1 / 12 if kind == "rounded" else 0)
    assert abs(np.mean(drawn**2) / expected - 1) < 6 * math.sqrt(2 / 2000)
    assert abs(np.mean(drawn)) < 6 * math.sqrt(expected / 2000)


def test_a_whole_variance_is_the_same_as_its_fraction() -> None:
    for draw in DRAWS.values():
        one, other = (draw(s, 99, stream=seeded()) for s in (9, Fraction(9)))
        assert (one == other).all()


def test_a_seed_repeats_noise_under_test_and_is_refused_elsewhere() -> None:
    for kind in KINDS:
        one, same, other = (fast(kind, 1000, seeded(s))(CHUNK + 9) for s in (b"a", b"a", b"b"))
        assert (one == same).all() and (one != other).mean() > 0.9
    script = """
        from fedcore.entropy import SeededEntropy
        from fedcore.privacy.csprng import Stream
        from fedcore.privacy.sampler import rounded_gaussian
        rounded_gaussian(4, 3, stream=Stream(SeededEntropy(b"a")))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 1 and b"FED-1411" in done.stderr


def test_tables_are_kept_for_a_few_variances_only() -> None:
    for law in LAWS.values():
        assert law(Fraction(9)) is law(Fraction(9))
        for number in range(40):
            law(Fraction(1 + number, 3))
        assert law.cache_info().currsize <= 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sigma2", [0.25, 1.0, True, "1", None, 0, -1, Fraction(6, 25), 10**18 + 1, 10**400, -(10**400)]
)
def test_a_variance_that_is_no_fraction_or_out_of_range_is_refused(kind: str, sigma2: Any) -> None:
    with pytest.raises(ArgumentError):
        DRAWS[kind](sigma2, 3, stream=seeded())


@pytest.mark.parametrize("kind", KINDS)
def test_what_noise_cannot_be_added_to_is_refused(kind: str) -> None:
    fixed = np.frombuffer(bytes(16), np.int64)
    cases: list[tuple[Any, Any]] = [
        (np.zeros(3), DtypeError),
        (np.zeros(3, np.int32), DtypeError),
        (np.zeros((3, 3), np.int64), ShapeError),
        (np.array(0, np.int64), ShapeError),
        (fixed, ArgumentError),
    ]
    for x, error in cases:
        with pytest.raises(error):
            ADDS[kind](x, 9, stream=seeded())
    for size in (-1, 2.0, None):
        with pytest.raises(ArgumentError):
            DRAWS[kind](9, size, stream=seeded())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_twenty_million_fresh_draws_fit_their_law(kind: str, sigma: float) -> None:
    draw = fast(kind, sigma, Stream())
    report(kind, sigma, "fit", fit(kind, sigma, draw, 20_000_000))
    if sigma >= 1000:
        bits = 10 if sigma > 60_000 else 8
        report(kind, sigma, "low bits", low_bits(draw(20_000_000), bits))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [64, 1000])
def test_a_hundred_million_fresh_draws_fit_their_law(kind: str, sigma: float) -> None:
    report(kind, sigma, "fit of 1e8", fit(kind, sigma, fast(kind, sigma, Stream()), 100_000_000))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [1, 8, 60, 1000, 2**20, 1e9])
def test_a_million_fresh_draws_on_the_slow_paths_fit_their_law(kind: str, sigma: float) -> None:
    report(kind, sigma, "slow paths", fit(kind, sigma, slow(kind, sigma, Stream()), 1_000_000))


def report(kind: str, sigma: float, what: str, p: float) -> None:
    """Prints the p-value for `pytest -s`: of many, the small ones want to be seen together."""
    print(f"{kind} {sigma:g}, {what}: p = {p:.3f}")
    assert p > 1e-6
