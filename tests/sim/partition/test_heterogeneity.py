"""Each figure of the report is that of its formula, written out plainly, and of cases by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, AxisError, DatasetError, DtypeError, ShapeError
from fedsim.partition import Partition, heterogeneity
from fedsim.partition.by_label import iid


def plain_divergence(labels: list[int], everybody: list[int]) -> float:
    """Jensen–Shannon in bits, one class after another."""
    own, all_ = Counter(labels), Counter(everybody)
    found = 0.0
    for kind in all_:
        a, b = own[kind] / len(labels), all_[kind] / len(everybody)
        m = (a + b) / 2
        found += (a * math.log2(a / m) if a else 0.0) / 2 + b * math.log2(b / m) / 2
    return found


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=6))
def test_every_figure_is_its_formula_written_out(clients: list[list[int]]) -> None:
    labels = np.array([label for client in clients for label in client])
    ends = np.cumsum([0, *map(len, clients)])
    found = heterogeneity(Partition(np.arange(len(labels)), ends), labels)
    sizes, count, rows = [len(client) for client in clients], len(clients), len(labels)
    divergences = [plain_divergence(client, labels.tolist()) for client in clients]
    assert (found.clients, found.rows) == (count, rows)
    assert (found.size_min, found.size_median, found.size_max) == (
        min(sizes),
        float(np.median(sizes)),
        max(sizes),
    )
    pairs = sum(abs(a - b) for a, b in product(sizes, sizes))
    assert found.size_gini == pytest.approx(pairs / (2 * count * rows), abs=1e-12)
    assert found.effective_clients == pytest.approx(rows**2 / sum(n**2 for n in sizes))
    assert found.classes == len(set(labels.tolist()))
    assert found.classes_mean == pytest.approx(sum(len(set(c)) for c in clients) / count)
    weighted = sum(n * d for n, d in zip(sizes, divergences, strict=True)) / rows
    assert found.label_divergence_mean == pytest.approx(weighted, abs=1e-12)
    assert found.label_divergence_max == pytest.approx(max(divergences), abs=1e-12)
    assert found.feature_shift is None


def test_the_figures_of_a_case_by_hand() -> None:
    labels = np.array([0, 0, 0, 1])
    x = np.array([[1.0, 7.0], [3.0, 7.0], [1.0, 7.0], [3.0, 7.0]])
    found = heterogeneity(Partition.of([[0, 1, 2], [3]]), labels, x=x)
    # Sizes 3 and 1: |3 - 1| twice over 2·2·4; 16 / (9 + 1).
    assert found.size_gini == pytest.approx(0.25)
    assert found.effective_clients == pytest.approx(1.6)
    # Client 1 has class 1 alone: a = (0, 1), b = (3/4, 1/4), m = (3/8, 5/8).
    last = (math.log2(8 / 5) + 3 / 4 * math.log2(2) + 1 / 4 * math.log2(2 / 5)) / 2
    # Client 0 has class 0 alone: a = (1, 0), m = (7/8, 1/8).
    first = (math.log2(8 / 7) + 3 / 4 * math.log2(6 / 7) + 1 / 4 * math.log2(2)) / 2
    assert found.label_divergence_max == pytest.approx(last)
    assert found.label_divergence_mean == pytest.approx((3 * first + last) / 4)
    # The first feature has mean 2 and deviation 1, clients' means are 5/3 and 3; the second is
    # constant and left out: (3·1/3 + 1·1) / 4.
    assert found.feature_shift == pytest.approx(0.5)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_the_feature_shift_is_its_formula_written_out(
    sizes: list[int], width: int, seed: int
) -> None:
    x = np.random.default_rng(seed).normal(5.0, 2.0, (sum(sizes), width))
    ends = np.cumsum([0, *sizes])
    parts = Partition(np.arange(len(x)), ends)
    found = heterogeneity(parts, np.zeros(len(x), int), x=x)
    if len(x) == 1:
        assert found.feature_shift == 0
        return
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    distances = [np.sqrt((scaled[rows].mean(axis=0) ** 2).mean()) for rows in parts]
    assert found.feature_shift == pytest.approx(np.dot(sizes, distances) / len(x))


def test_clients_alike_diverge_by_nothing_and_clients_apart_by_what_entropy_allows() -> None:
    labels = np.arange(40) % 4
    alike = heterogeneity(Partition.of(np.arange(40).reshape(10, 4)), labels)
    assert (alike.label_divergence_max, alike.size_gini, alike.effective_clients) == (0, 0, 10)
    # Two classes, a client each: a = (1, 0), b = (1/2, 1/2): ½·log2(4/3) + ¼·log2(2/3) + ¼.
    apart = heterogeneity(Partition.of([[0, 2], [1, 3]]), np.array([0, 1, 0, 1]))
    expected = math.log2(4 / 3) / 2 + math.log2(2 / 3) / 4 + 1 / 4
    assert apart.label_divergence_mean == pytest.approx(expected)


@given(st.permutations(range(12)))
def test_neither_the_order_of_rows_nor_the_names_of_classes_matter(order: list[int]) -> None:
    labels, ends = np.arange(12) % 3, np.array([0, 5, 12])
    plain = heterogeneity(Partition(np.arange(12), ends), labels)
    names = np.array(["x", "a", "m"])[labels]
    within = np.concatenate([np.sort(order[:5]), np.sort(order[5:])])
    shuffled = Partition(np.array(order), ends)
    assert heterogeneity(shuffled, labels) == heterogeneity(Partition(within, ends), labels)
    assert heterogeneity(Partition(np.arange(12), ends), names) == plain


def test_targets_of_a_regression_are_binned_into_tenths() -> None:
    targets = np.linspace(0.0, 1.0, 100)
    found = heterogeneity(Partition.of(np.arange(100).reshape(10, 10)), targets)
    assert (found.classes, found.classes_mean) == (10, 1.0)


def test_each_entry_of_a_row_of_labels_counts() -> None:
    labels = np.array([[0, 1], [2, 2], [0, 0], [1, 2]])
    found = heterogeneity(Partition.of([[0, 1], [2, 3]]), labels)
    flat = heterogeneity(Partition.of([[0, 1, 2, 3], [4, 5, 6, 7]]), labels.ravel())
    assert found.label_divergence_mean == flat.label_divergence_mean
    assert (found.classes_mean, found.rows) == (3.0, 4)


def test_many_classes_and_few_give_the_same_figures() -> None:
    # Counted in a table where clients · classes is small, else by sorting: labels 0 and 1 of
    # 400 clients take one way each, according to how many other classes there are.
    parts = Partition.of([[row] for row in range(400)])
    table = heterogeneity(parts, np.arange(400) % 2)
    rest = heterogeneity(parts, np.arange(400))
    assert table.label_divergence_max == pytest.approx(plain_divergence([0], [0, 1]))
    assert rest.label_divergence_mean == pytest.approx(plain_divergence([0], list(range(400))))


def test_a_sample_of_rows_comes_near_and_repeats() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, 8)).astype(np.float32)
    x[:1000] += 2.0
    labels = np.zeros(3000, int)
    parts = Partition.of(np.arange(3000).reshape(3, 1000))
    whole = heterogeneity(parts, labels, x=x).feature_shift
    some = [heterogeneity(parts, labels, x=x, most=200, seed=4).feature_shift for _ in range(2)]
    assert whole is not None
    assert some == [pytest.approx(whole, rel=0.1)] * 2
    assert some[0] == some[1]
    assert heterogeneity(parts, labels, x=x, most=1000).feature_shift == whole


def test_the_report_is_json() -> None:
    found = heterogeneity(iid(30, 4, seed=1), np.arange(30) % 3, x=np.ones((30, 2)))
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    assert found.to_json()["feature_shift"] == 0.0


def test_data_that_the_partition_was_not_made_of_are_refused() -> None:
    parts = Partition.of([[0, 1], [2]])
    with pytest.raises(AxisError, match="row 2"):
        heterogeneity(parts, np.zeros(2, int))
    with pytest.raises(ShapeError):
        heterogeneity(parts, np.zeros(3, int), x=np.zeros((4, 2)))
    with pytest.raises(DtypeError):
        heterogeneity(parts, np.zeros(3, int), x=np.array(["a", "b", "c"]))
    with pytest.raises(DatasetError):
        heterogeneity(parts, np.array([0.0, np.nan, 1.0]))
    with pytest.raises(ArgumentError, match="most"):
        heterogeneity(parts, np.zeros(3, int), x=np.zeros((3, 2)), most=0)
