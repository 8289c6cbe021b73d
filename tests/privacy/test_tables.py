"""Tables against a reference of more digits, and each cell of them against its boundaries."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from scipy import stats

from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError
from fedcore.privacy.blocks import BlockTable, block_table
from fedcore.privacy.csprng import Stream
from fedcore.privacy.masses import (
    Blocks,
    discrete_blocks,
    discrete_cells,
    exp_interval,
    rounded_blocks,
    rounded_cells,
    running,
)
from fedcore.privacy.tables import CellTable, cell_table
from tests.variants import mostly_slow

mpmath = pytest.importorskip("mpmath")

ONE = 2**192
NARROW = [Fraction(1, 4), Fraction(1), Fraction(7, 3), Fraction(64), Fraction(5 * 10**9 + 1, 10**6)]
WIDE = [
    (Fraction(20_000), 1),
    pytest.param(Fraction(10**20 + 1, 10**12), 7, marks=pytest.mark.slow),
    (Fraction(10**18), 23),
]
CELLS = [cache(discrete_cells), cache(rounded_cells)]
MAKERS = [cache(discrete_blocks), cache(rounded_blocks)]


@pytest.fixture(autouse=True)
def _digits() -> Any:
    with mpmath.workprec(400):
        yield


def real(value: Fraction) -> Any:
    return mpmath.mpf(value.numerator) / value.denominator


def weight(y: Fraction, sigma2: Fraction) -> Any:
    return mpmath.exp(-real(y * y / (2 * sigma2)))


def masses(boundaries: tuple[int, ...]) -> list[int]:
    return [high - low for low, high in pairwise((0, *boundaries))]


def stream(seed: bytes = b"tables") -> Stream:
    return Stream(SeededEntropy(seed))


@given(st.fractions(0, 200), st.sampled_from([1, 20, 64, 128, 192, 320, 700]))
@example(Fraction(0), 64)
@example(Fraction(161), 320)
@example(Fraction(999_999, 5000), 700)
@example(Fraction(65_535), 320)
def test_an_exponential_lies_in_its_interval(exponent: Fraction, bits: int) -> None:
    with mpmath.workprec(900):
        low, high = exp_interval(exponent, bits)
        assert low <= mpmath.exp(-real(exponent)) * mpmath.mpf(2) ** bits <= high
        assert high - low <= 3


@pytest.mark.parametrize("sigma2", NARROW, ids=str)
def test_discrete_boundaries_are_a_reference_s_to_two_units_of_2_to_minus_192(
    sigma2: Fraction,
) -> None:
    first, boundaries = discrete_cells(sigma2)
    reach = int(mpmath.sqrt(real(sigma2)) * 30) + 3
    side = [weight(Fraction(k), sigma2) for k in range(reach)]
    total = 2 * mpmath.fsum(side) - 1
    below = mpmath.fsum(side[1 - first :])
    for k, boundary in enumerate(boundaries[:-1], first):
        below += side[abs(k)]
        assert abs(below / total * ONE - boundary) < 2
    assert boundaries[-1] == ONE


@pytest.mark.parametrize("sigma2", NARROW, ids=str)
def test_rounded_boundaries_are_a_reference_s_to_two_units_of_2_to_minus_192(
    sigma2: Fraction,
) -> None:
    first, boundaries = rounded_cells(sigma2)
    scale = mpmath.sqrt(2 * real(sigma2))
    step = 1 if len(boundaries) < 500 else 37
    for i in range(0, len(boundaries) - 1, step):
        k = mpmath.mpf(2 * (first + i) + 1) / 2
        assert abs(mpmath.erfc(-k / scale) / 2 * ONE - boundaries[i]) < 2
    assert boundaries[-1] == ONE


def test_masses_are_the_published_ones() -> None:
    def mass(cells: tuple[int, tuple[int, ...]], k: int) -> float:
        first, boundaries = cells
        return masses(boundaries)[k - first] / ONE

    def variance(cells: tuple[int, tuple[int, ...]]) -> float:
        first, boundaries = cells
        return sum(k * k * m for k, m in enumerate(masses(boundaries), first)) / ONE

    one, half = discrete_cells(Fraction(1)), discrete_cells(Fraction(1, 4))
    rounded, ten = rounded_cells(Fraction(1)), rounded_cells(Fraction(100))
    found = [
        *(mass(one, 0), mass(one, 1), variance(one)),
        *(mass(half, 0), mass(half, 1), 4 * variance(half)),
        *(mass(rounded, 0), mass(rounded, 1), mass(ten, 0)),
    ]
    assert found == pytest.approx(
        [
            *(0.398942278266862, 0.241970723224461, 0.999999788767728),
            *(0.786570707041948, 0.106450769423145, 0.860050700352554),
            *(0.382924922548026, 0.241730337457129, 0.0398776116767449),
        ],
        rel=5e-15,
        abs=0,
    )


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("sigma2", NARROW, ids=str)
def test_tables_reach_17_9_standard_deviations(cells: Any, sigma2: Fraction) -> None:
    first, boundaries = cells(sigma2)
    assert first**2 >= 322 * sigma2 and len(boundaries) == 1 - 2 * first <= 4700


def assert_sound(table: CellTable, boundaries: tuple[int, ...]) -> None:
    """Every one of the 65,536 cells, and every fine cell, belongs where the table says."""
    within = table.guide[: table.sure].astype(int) - table.first
    counts = np.bincount(within, minlength=len(boundaries)).tolist()
    assert counts == list(table.whole) and sum(counts) == table.sure < 65_536
    assert not table.guide[table.sure :].any()
    ends = (table.sure << 176, *table.boundaries)
    left = [high - low for low, high in pairwise(ends)]
    assert min(left) >= 0 and ends[-1] == ONE
    assert [(count << 176) + rest for count, rest in zip(counts, left, strict=True)] == masses(
        boundaries
    )
    width = 1 << 192 - table.fine_bits
    assert len(table.fine) * width == ONE - (table.sure << 176)
    begins = np.array(range(table.sure << 176, ONE, width), object)
    ascending = np.array(table.boundaries, object)
    first = np.searchsorted(ascending, begins, side="right")
    last = np.searchsorted(ascending, begins + (width - 1), side="right")
    assert np.array_equal(table.fine, np.where(first == last, first, -1))
    for boundary, leading in zip(table.boundaries, table.leading.tolist(), strict=True):
        assert leading == min(boundary >> 128, 2**64 - 1)


@pytest.mark.parametrize("guide_bits", [16, 5])
@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("sigma2", NARROW, ids=str)
def test_every_cell_of_a_table_lies_within_its_outcome(
    cells: Any, sigma2: Fraction, guide_bits: int
) -> None:
    first, boundaries = cells(sigma2)
    assert_sound(cell_table(boundaries, first=first, guide_bits=guide_bits), boundaries)


@pytest.mark.parametrize("end", [-(2**15), 2**15 - 1])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_table_holds_outcomes_on_both_sides_of_what_16_bits_do(end: int, beyond: int) -> None:
    """The outcomes of a law that is not about zero are as its cells say too."""
    boundaries = tuple(ONE * part // 4 for part in (1, 2, 3, 4))
    for first in (end + beyond, end + beyond - 3):
        table = cell_table(boundaries, first=first)
        assert_sound(table, boundaries)
        within = first >= -(2**15) and first + 3 < 2**15
        assert table.guide.itemsize == (2 if within else 4)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("sigma2", "shift"), WIDE, ids=str)
def test_every_cell_of_a_table_of_blocks_lies_within_its_block(
    maker: Any, sigma2: Fraction, shift: int
) -> None:
    blocks = maker(sigma2, shift)
    table = cell_table(blocks.boundaries, first=blocks.first, kept=blocks.kept)
    assert_sound(table, blocks.boundaries)
    assert all(count << 176 <= mass for count, mass in zip(table.whole, blocks.kept, strict=True))


@given(
    st.lists(st.sampled_from([0, 1, 7, 2**100, 2**180, 2**191]), min_size=1, max_size=40),
    st.integers(-(2**17), 2**17),
    st.integers(4, 16),
)
def test_any_law_becomes_a_sound_table(weights: list[int], first: int, guide_bits: int) -> None:
    weights[len(weights) // 2] += 1
    boundaries = running(weights)
    table = cell_table(boundaries, first=first, guide_bits=guide_bits)
    assert_sound(table, boundaries)
    drawn = np.zeros(300, np.int64)
    table.add(drawn, stream=stream())
    possible = [k for k, mass in enumerate(masses(boundaries), first) if mass]
    assert np.isin(drawn, possible).all()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_a_point_is_located_where_the_boundaries_say(points: list[int]) -> None:
    first, boundaries = discrete_cells(Fraction(1))
    table = cell_table(boundaries, first=first, guide_bits=4)
    found = table.locate(np.array(points, np.uint64), stream=stream())
    for point, outcome in zip(points, found.tolist(), strict=True):
        least = bisect_right(table.boundaries, point << 128)
        assert least <= outcome <= bisect_right(table.boundaries, (point + 1 << 128) - 1)


@pytest.mark.parametrize("outcome", [14, 17, 18, 19, 20])
def test_a_point_that_ties_with_a_boundary_falls_to_either_side_as_often_as_it_should(
    outcome: int,
) -> None:
    first, boundaries = discrete_cells(Fraction(1))
    table = cell_table(boundaries, first=first)
    boundary = table.boundaries[outcome]
    points = np.full(4000, boundary >> 128, np.uint64)
    found = table.locate(points, stream=stream())
    assert set(found.tolist()) <= {outcome, outcome + 1}
    below = (boundary % 2**128) / 2**128
    assert stats.binomtest(int((found == outcome).sum()), len(found), below).pvalue > 1e-6


@pytest.mark.parametrize("number", [0, 7, 100, -2, -1])
def test_a_word_beyond_the_whole_cells_is_settled_by_the_masses_within_its_own_cell(
    number: int,
) -> None:
    first, boundaries = discrete_cells(Fraction(10_000))
    table = cell_table(boundaries, first=first)
    word = range(table.sure, 65_536)[number]
    ends = np.array([min(max(end - (word << 176), 0), 1 << 176) for end in table.boundaries])
    shares = np.diff(ends / 2**176, prepend=0).astype(float)
    found = table.settle(np.full(40_000, word, np.uint16), stream=stream())
    counts = np.bincount(found, minlength=len(shares))
    assert not counts[shares == 0].any()
    common = shares > 1e-3
    wanted = np.append(shares[common], shares[~common].sum()) * len(found)
    seen = np.append(counts[common], counts[~common].sum())
    assert stats.chisquare(seen + 1e-9, wanted + 1e-9).pvalue > 1e-6


def test_the_law_on_one_integer_is_a_table() -> None:
    drawn = np.zeros(70_000, np.int64)
    cell_table([ONE], first=-3).add(drawn, stream=stream())
    assert (drawn == -3).all()


@pytest.mark.parametrize("boundaries", [[], [1], [ONE - 1], [5, 4, ONE], [-1, ONE], [ONE, ONE + 1]])
def test_what_is_no_running_sum_is_refused(boundaries: list[int]) -> None:
    with pytest.raises(ArgumentError):
        cell_table(boundaries, first=0)


def members(blocks: Blocks, j: int) -> tuple[Fraction, Fraction]:
    """The least and the greatest y of block j, the latter perhaps just not reached."""
    half = Fraction(blocks.jitter, 2)
    begin = (blocks.first + j) << blocks.shift
    return begin - half, begin + 2**blocks.shift - 1 + half


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("sigma2", "shift"), WIDE, ids=str)
def test_edges_are_the_points_of_blocks_nearest_to_zero(
    maker: Any, sigma2: Fraction, shift: int
) -> None:
    blocks = maker(sigma2, shift)
    for j, edge in enumerate(blocks.edges):
        low, high = members(blocks, j)
        assert edge == (0 if low <= 0 <= high else min(abs(low), abs(high)))
    assert members(blocks, 0)[0] ** 2 >= 322 * sigma2
    assert members(blocks, len(blocks.edges) - 1)[1] ** 2 >= 322 * sigma2
    assert len(blocks.boundaries) == len(blocks.edges) == len(blocks.kept) <= 4700


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("sigma2", "shift"), WIDE, ids=str)
def test_boundaries_of_blocks_are_a_reference_s_to_two_units_of_2_to_minus_192(
    maker: Any, sigma2: Fraction, shift: int
) -> None:
    blocks = maker(sigma2, shift)
    weights = [weight(edge, sigma2) for edge in blocks.edges]
    total, below = mpmath.fsum(weights), mpmath.mpf(0)
    for one, boundary in zip(weights, blocks.boundaries, strict=True):
        below += one
        assert abs(below / total * ONE - boundary) < 2
    assert blocks.boundaries[-1] == ONE


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("sigma2", "shift"), [*WIDE, (Fraction(40_000), 6)], ids=str)
def test_no_member_of_a_block_is_accepted_less_often_than_is_kept_for_sure(
    maker: Any, sigma2: Fraction, shift: int
) -> None:
    blocks = maker(sigma2, shift)
    kept = 0
    for j, mass in enumerate(masses(blocks.boundaries)):
        far = max(map(abs, members(blocks, j)))
        least, _ = exp_interval((far**2 - blocks.edges[j] ** 2) / (2 * sigma2), 512)
        assert 0 <= blocks.kept[j] << 512 <= mass * least
        kept += blocks.kept[j]
    assert kept > 0.98 * ONE or shift == 6


def random_at(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def table_of(maker: Any) -> BlockTable:
    return block_table(maker(Fraction(20_000), 1), guide_bits=12)


@pytest.mark.parametrize("guide_bits", [4, 16])
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("sigma2", "shift"), [*WIDE, (Fraction(40_000), 6)], ids=str)
def test_floats_are_right_within_a_thirtieth_of_the_margin_and_integers_agree(
    maker: Any, sigma2: Fraction, shift: int, guide_bits: int
) -> None:
    table, random = block_table(maker(sigma2, shift), guide_bits=guide_bits), random_at(3)
    blocks, source = table.blocks, stream()
    count, parts = len(blocks.edges), masses(blocks.boundaries)
    for block in [0, 1, count // 2 - 1, count // 2, *random.integers(0, count, 60).tolist()]:
        if (mass := parts[block]) == 0:
            continue
        x = (blocks.first + block << shift) + int(random.integers(2**shift))
        jitter, chance = (int(n) for n in random.integers(0, 2**64, 2, np.uint64))
        y = x + blocks.jitter * (Fraction(jitter, 2**64) - Fraction(1, 2))
        least, _ = exp_interval((y * y - blocks.edges[block] ** 2) / (2 * sigma2), 128)
        whole = table.cells.whole[block] << 176
        asked = Fraction(whole, mass) + Fraction(chance, 2**64) * (1 - Fraction(whole, mass))
        surplus = float(Fraction(least, 2**128) - asked)
        words = np.array([jitter]).astype(np.uint64), np.array([chance]).astype(np.uint64)
        found = table.surplus(np.array([x]), np.array([block]), *words)
        assert abs(float(found[0]) - surplus) < 2.0**-41
        if abs(surplus) > 2.0**-41:
            assert table.accepts(x, block, jitter, chance, stream=source) == (surplus > 0)


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_accepted_beyond_the_whole_cells_fits_what_is_left_of_the_law(maker: Any) -> None:
    """The law of x given one unsure word: its block's members, by what is left of each."""
    sigma2, shift = Fraction(40_000), 4
    table = block_table(maker(sigma2, shift))
    word = table.cells.sure + 3
    blocks, parts = table.blocks, masses(table.blocks.boundaries)
    found, accepted = table._propose(np.full(300_000, word, np.uint16), stream())
    wanted: dict[int, float] = {}
    for block, (low, high) in enumerate(
        pairwise((table.cells.sure << 176, *table.cells.boundaries))
    ):
        share = max(0, min(high, word + 1 << 176) - max(low, word << 176)) / 2**176
        if not share:
            continue
        whole = float(Fraction(table.cells.whole[block] << 176, parts[block]))
        for x in range(blocks.first + block << shift, blocks.first + block + 1 << shift):
            points = x + blocks.jitter * ((np.arange(512) + 0.5) / 512 - 0.5)
            chance = np.exp((float(blocks.edges[block]) ** 2 - points**2) / 80_000).mean()
            wanted[x] = share * float(chance - whole) / (1 - whole) / 2**shift
    counts = [int((found[accepted] == x).sum()) for x in wanted]
    assert sum(counts) == accepted.sum()
    expected = np.array([*wanted.values(), 1 - sum(wanted.values())]) * len(found)
    seen = np.array([*counts, len(found) - sum(counts)])
    assert (
        stats.chisquare(seen[expected > 5], expected[expected > 5], sum_check=False).pvalue > 1e-6
    )


@pytest.mark.parametrize("x", mostly_slow([3, -300, -2, 89, 301], quick=2))
def test_a_chance_that_64_bits_leave_open_is_decided_by_further_bits(x: int) -> None:
    table = table_of(discrete_blocks)
    blocks, block = table.blocks, (x >> 1) - table.blocks.first
    mass, whole = masses(blocks.boundaries)[block], table.cells.whole[block] << 176
    assert whole
    exponent = (x * x - blocks.edges[block] ** 2) / (2 * blocks.sigma2)
    threshold = (mass * mpmath.exp(-real(exponent)) - whole) / (mass - whole) * 2**64
    chance = int(mpmath.floor(threshold))
    source = stream()
    accepted = sum(table.accepts(x, block, 0, chance, stream=source) for _ in range(1500))
    assert stats.binomtest(accepted, 1500, float(threshold - chance)).pvalue > 1e-6


@pytest.mark.parametrize("x", mostly_slow([-2, 300, -301, 0, 89], quick=2))
def test_a_point_that_64_bits_leave_open_is_decided_by_further_bits(x: int) -> None:
    """The point is known to 2^-64: what is asked lies between what its two ends would accept."""
    table = table_of(rounded_blocks)
    blocks, block, jitter = table.blocks, (x >> 1) - table.blocks.first, 3 << 62
    mass, whole = masses(blocks.boundaries)[block], table.cells.whole[block] << 176
    y = Fraction(x) + Fraction(1, 4)
    exponent = (y * y - blocks.edges[block] ** 2) / (2 * blocks.sigma2)
    accepted = mass * mpmath.exp(-real(exponent))
    chance = int(mpmath.floor((accepted - whole) / (mass - whole) * 2**64))
    source = stream()
    found = sum(table.accepts(x, block, jitter, chance, stream=source) for _ in range(1500))
    # Within 2^-64, what is accepted is linear in the point, and what is asked in the chance.
    slope = float(-accepted * real(y / blocks.sigma2) / (mass - whole))
    gap = float((accepted - whole) / (mass - whole) * 2**64 - chance)
    sample = random_at(2).random((200_000, 2))
    expected = float((sample[:, 0] < gap + slope * sample[:, 1]).mean())
    assert stats.binomtest(found, 1500, expected).pvalue > 1e-6
    for far in (chance - 2**40, chance + 2**40):
        assert table.accepts(x, block, jitter, far, stream=source) == (far < chance)
