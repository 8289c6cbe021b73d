"""Robust rules against plain loops, cases of their papers, and rows that are wrong in any way."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, DtypeError, ShapeError, TaskError
from fedsim.robust import ROBUST, Grouped, RobustChoice, rule as module
from fedsim.robust.bulyan import Bulyan
from fedsim.robust.distances import squared_distances
from fedsim.robust.geometric_median import GeometricMedian
from fedsim.robust.krum import Krum, MultiKrum
from fedsim.robust.median import Median
from fedsim.robust.trimmed_mean import TrimmedMean

N, D, F = 15, 7, 3
RULES = [
    Median(),
    TrimmedMean(beta=0.2),
    Krum(f=F),
    MultiKrum(f=F),
    MultiKrum(f=F, m=4),
    Bulyan(f=F),
    GeometricMedian(),
]
seeds = st.integers(0, 2**32 - 1)


def rows(seed: int, count: int = N, dimension: int = D) -> Any:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


# Plain loops


def plain_distance(a: Any, b: Any) -> float:
    return float(np.sum((a.astype(np.float64) - b.astype(np.float64)) ** 2))


def plain_scores(updates: Any, f: int) -> list[float]:
    scores = []
    for i, one in enumerate(updates):
        others = [plain_distance(one, b) for j, b in enumerate(updates) if j != i]
        scores.append(sum(sorted(others)[: min(max(len(updates) - f - 2, 1), len(others))]))
    return scores


def plain(rule: Any, updates: Any) -> Any:
    if isinstance(rule, Median):
        return [statistics.median(map(float, column)) for column in updates.T]
    if isinstance(rule, TrimmedMean):
        k = rule.cut(len(updates))
        return [statistics.fmean(sorted(map(float, c))[k : len(c) - k]) for c in updates.T]
    if isinstance(rule, Krum):
        return updates[int(np.argmin(plain_scores(updates, rule.f)))]
    if isinstance(rule, MultiKrum):
        best = np.argsort(plain_scores(updates, rule.f))[: rule.m or len(updates) - rule.f - 2]
        return updates[best].mean(axis=0, dtype=np.float64)
    assert isinstance(rule, Bulyan)
    left, chosen = list(updates), []
    while len(chosen) < len(updates) - 2 * rule.f:
        chosen.append(left.pop(int(np.argmin(plain_scores(left, rule.f)))))
    means = []
    for column in np.float64(chosen).T:
        middle = statistics.median(column)
        nearest = sorted(column, key=lambda value: abs(value - middle))
        means.append(statistics.fmean(nearest[: len(chosen) - 2 * rule.f]))
    return means


@given(st.sampled_from(RULES[:-1]), seeds, st.integers(N, N + 4))
def test_a_rule_is_its_papers_plain_loop(rule: Any, seed: int, count: int) -> None:
    updates = rows(seed, count)
    np.testing.assert_allclose(rule(updates), plain(rule, updates), rtol=1e-5, atol=1e-6)


@given(seeds, st.integers(2, 20), st.booleans())
def test_at_the_geometric_median_the_pulls_of_the_rows_cancel(
    seed: int, count: int, weighted: bool
) -> None:
    updates = rows(seed, count)
    weights = np.random.default_rng(seed).uniform(0.1, 1, count) if weighted else np.ones(count)
    # Between two rows of nearly one weight the steps are short, and there are thousands of them.
    z = GeometricMedian(tolerance=1e-4, iterations=100_000)(updates, weights)
    away = z - updates.astype(np.float64)
    far = np.linalg.norm(away, axis=1)
    # A row that z lies at pulls with any force up to its weight.
    apart = far > 1e-5
    pull = (weights[apart, None] * away[apart] / far[apart, None]).sum(axis=0) / weights.sum()
    assert np.linalg.norm(pull) <= 2e-4 + weights[~apart].sum() / weights.sum()


def test_the_geometric_median_of_a_square_is_where_its_diagonals_cross() -> None:
    corners = np.float32([[0, 0], [4, 0], [3, 3], [0, 4]])  # they cross at (2, 2)
    np.testing.assert_allclose(GeometricMedian(tolerance=1e-6)(corners), [2, 2], atol=1e-4)


def test_the_geometric_median_of_a_triangle_with_a_wide_angle_is_its_corner() -> None:
    wide = np.float32([[-10, 1], [10, 1], [0, 0]])
    np.testing.assert_allclose(GeometricMedian()(wide), [0, 0], atol=1e-4)


def test_the_geometric_median_lies_where_more_than_half_of_the_weight_does() -> None:
    updates, weights = rows(1, 3), np.array([1.0, 1.0, 2.5])
    np.testing.assert_allclose(GeometricMedian()(updates, weights), updates[2], atol=1e-4)


def test_each_step_of_the_geometric_median_lowers_the_sum_of_distances() -> None:
    updates = rows(4) ** 3
    totals = [
        np.linalg.norm(updates - GeometricMedian(iterations=count, tolerance=1e-7)(updates), axis=1)
        .astype(np.float64)
        .sum()
        for count in (1, 2, 4, 8, 16)
    ]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]


def test_the_geometric_median_leaves_rows_out_that_are_no_numbers_whatever_their_weight() -> None:
    updates, weights = rows(7), np.arange(1.0, N + 1)
    spoiled = np.append(updates, np.full((1, D), np.nan, np.float32), axis=0)
    found = GeometricMedian()(spoiled, np.append(weights, 1e6))
    np.testing.assert_allclose(found, GeometricMedian()(updates, weights), atol=1e-3)


@pytest.mark.parametrize(
    "weights", [np.ones(N - 1), np.full(N, -1.0), np.zeros(N), np.full(N, np.nan)]
)
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(ArgumentError):
        GeometricMedian()(rows(0), weights)


def test_multi_krum_of_one_row_is_krum() -> None:
    assert np.array_equal(MultiKrum(f=F, m=1)(rows(2)), Krum(f=F)(rows(2)))


@pytest.mark.parametrize("rule", [*RULES[:2], MultiKrum(f=0), Bulyan(f=0)], ids=repr)
def test_rows_that_all_agree_are_the_result(rule: Any) -> None:
    updates = np.tile(rows(3)[:1], (N, 1))
    np.testing.assert_allclose(rule(updates), updates[0], rtol=1e-6)


# Symmetries


@given(st.sampled_from(RULES), seeds)
def test_the_order_of_the_clients_does_not_matter(rule: Any, seed: int) -> None:
    updates = rows(seed)
    shuffled = updates[np.random.default_rng(seed).permutation(N)]
    np.testing.assert_allclose(rule(shuffled), rule(updates), rtol=1e-4, atol=1e-4)


@given(st.sampled_from(RULES), seeds)
def test_what_all_clients_add_is_added_to_the_result(rule: Any, seed: int) -> None:
    updates, added = rows(seed), rows(seed + 1)[0]
    np.testing.assert_allclose(rule(updates + added), rule(updates) + added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_blocks_of_columns_change_nothing(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = rows(5)
    whole = rule(updates)
    monkeypatch.setattr(module, "BLOCK", 2 * N)
    np.testing.assert_allclose(rule(updates), whole, rtol=1e-6, atol=1e-6)


# Rows that are wrong

SPOILED = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e4, 30.0, -3.0, 1.5, 0.0]


@st.composite
def attacked(draw: Any) -> tuple[Any, Any]:
    """Rows of which F are anything at all, and which ones are right."""
    updates = rows(draw(seeds)) * np.float32(draw(st.sampled_from([1e-3, 1.0, 1e3])))
    right = np.ones(N, np.bool_)
    right[draw(st.permutations(range(N)))[:F]] = False
    entry = st.sampled_from(SPOILED)
    together = draw(st.booleans())
    for i in np.flatnonzero(~right):
        row = draw(entry) if together else draw(st.lists(entry, min_size=D, max_size=D))
        updates[i] = np.float32(row)
    return updates, right


@given(st.sampled_from(RULES[:2]), attacked())
def test_each_coordinate_of_a_median_or_trimmed_mean_lies_among_those_that_are_right(
    rule: Any, case: Any
) -> None:
    updates, right = case
    found, low, high = rule(updates), updates[right].min(axis=0), updates[right].max(axis=0)
    slack = 1e-5 * np.abs(updates[right]).max()
    assert ((low - slack <= found) & (found <= high + slack)).all()


@given(st.sampled_from(RULES[2:5]), attacked())
def test_krum_stays_as_near_to_rows_that_are_right_as_they_to_each_other(
    rule: Any, case: Any
) -> None:
    # A chosen row's score is no larger than that of some right row, which is at most n - f - 2
    # times the squared diameter; and one of the neighbours that it counts is right.
    updates, right = case
    good = updates[right].astype(np.float64)
    diameter = np.sqrt(squared_distances(updates[right]).max())
    found = rule(updates)
    reach = np.sqrt(N - F - 2) * diameter
    distance = np.linalg.norm(good - found, axis=1).min()
    assert distance <= (reach if isinstance(rule, Krum) else reach + diameter) * (1 + 1e-5)


@given(attacked())
def test_each_coordinate_of_bulyan_lies_near_those_that_are_right(case: Any) -> None:
    # The median of the chosen lies among the right ones, and enough of these are as near to it.
    updates, right = case
    low, high = updates[right].min(axis=0), updates[right].max(axis=0)
    found, width = Bulyan(f=F)(updates), (high - low) * np.float32(1 + 1e-5)
    assert ((low - width <= found) & (found <= high + width)).all()


@given(attacked())
def test_the_geometric_median_stays_within_a_bound_of_rows_that_are_right(case: Any) -> None:
    # Minsker, "Geometric median and robust estimation in Banach spaces", 2015, lemma 2.1: with a
    # part a < 1/2 of wrong rows, it is within 2(1 - a)/(1 - 2a) of the others' radius.
    updates, right = case
    center = updates[right].mean(axis=0, dtype=np.float64)
    radius = np.linalg.norm(updates[right] - center, axis=1).max()
    bound = 2 * (N - F) / (N - 2 * F) * radius
    assert np.linalg.norm(GeometricMedian()(updates) - center) <= bound * 1.01


def test_distances_of_other_rows_stay_exact_beside_a_huge_one() -> None:
    updates = rows(6)
    updates[3] = 1e30
    found = squared_distances(updates)
    for i in range(N):
        for j in range(N):
            assert found[i, j] == pytest.approx(plain_distance(updates[i], updates[j]), rel=1e-9)


# Refusals


@pytest.mark.parametrize(
    ("rule", "count", "largest"),
    [
        (Krum(f=3), 8, "set f to 2"),
        (MultiKrum(f=3), 8, "set f to 2"),
        (Bulyan(f=3), 14, "set f to 2"),
        (MultiKrum(f=1, m=6), 8, "set m to 5"),
    ],
)
def test_too_few_rows_are_refused_with_the_largest_f(rule: Any, count: int, largest: str) -> None:
    with pytest.raises(TaskError) as refused:
        rule(rows(0, count))
    assert largest in refused.value.fix
    fewer = int(largest[-1])
    nearest = MultiKrum(f=1, m=fewer) if "m to" in largest else type(rule)(f=fewer)
    assert np.isfinite(nearest(rows(0, count))).all()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_no_rule_takes_no_rows_or_another_form(rule: Any) -> None:
    with pytest.raises(TaskError):
        rule(np.empty((0, D), np.float32))
    with pytest.raises(ShapeError):
        rule(rows(0)[0])
    with pytest.raises(DtypeError):
        rule(rows(0).astype(np.float64))


# Groups


@given(seeds, st.integers(0, 100), st.integers(1, 12), st.integers(0, 40))
def test_each_client_is_in_one_group_and_sizes_differ_by_one(
    seed: int, round: int, groups: int, more: int
) -> None:
    grouped, clients = Grouped(rule=Median(), groups=groups), groups + more
    found = grouped.members(clients, seed=seed, round=round)
    assert sorted(np.concatenate(found)) == list(range(clients))
    sizes = [len(group) for group in found]
    assert len(sizes) == groups and max(sizes) - min(sizes) <= 1
    again = grouped.members(clients, seed=seed, round=round)
    assert all(map(np.array_equal, found, again))


def test_groups_are_drawn_anew_in_each_round() -> None:
    grouped = Grouped(rule=Median(), groups=4)
    drawn = {
        tuple(map(tuple, grouped.members(12, seed=seed, round=round)))
        for seed in (0, 1)
        for round in range(5)
    }
    assert len(drawn) == 10


def test_a_rule_over_groups_is_the_rule_over_their_means() -> None:
    grouped, updates, weights = Grouped(rule=Krum(f=1), groups=5), rows(8), np.arange(1.0, N + 1)
    groups = grouped.members(N, seed=3, round=2)
    means = [np.average(updates[g], axis=0, weights=weights[g]) for g in groups]
    expected = Krum(f=1)(np.float32(means))
    assert np.array_equal(grouped(updates, weights, seed=3, round=2), expected)


@given(attacked(), seeds)
def test_wrong_clients_spoil_no_more_groups_than_they_are(case: Any, seed: int) -> None:
    updates, right = case
    found = Grouped(rule=Median(), groups=2 * F + 1)(updates, seed=seed, round=0)
    low, high = updates[right].min(axis=0), updates[right].max(axis=0)
    slack = 1e-5 * np.abs(updates[right]).max()
    assert ((low - slack <= found) & (found <= high + slack)).all()


def test_groups_that_the_rule_does_not_hold_for_are_refused_at_once() -> None:
    with pytest.raises(TaskError, match="Krum"):
        Grouped(rule=Krum(f=2), groups=6)
    with pytest.raises(TaskError, match="4 groups of 3 clients"):
        Grouped(rule=Median(), groups=4).require(3)


# Choices


@pytest.mark.parametrize("groups", [0, 11])
@pytest.mark.parametrize("name", ROBUST)
def test_a_choice_comes_back_from_what_it_writes_and_makes_its_rule(name: str, groups: int) -> None:
    choice = RobustChoice.read({"name": name, "groups": groups}, "robust")
    assert RobustChoice.read(choice.write(), "robust") == choice
    made = choice.make()
    assert isinstance(made.rule if isinstance(made, Grouped) else made, ROBUST[name])
    assert isinstance(made, Grouped) == bool(groups)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ({"name": "krumm"}, "robust.name"),
        ({"name": "krum", "f": -1}, "robust.f"),
        ({"name": "krum", "f": 1.5}, "robust.f"),
        ({"name": "median", "f": 1}, "robust.f"),
        ({"name": "trimmed_mean", "beta": 0.5}, "robust.beta"),
        ({"name": "median", "groups": -1}, "robust.groups"),
    ],
)
def test_a_choice_that_is_none_is_refused_with_its_place(text: Any, place: str) -> None:
    with pytest.raises(TaskError) as refused:
        RobustChoice.read(text, "robust")
    assert refused.value.where == place
