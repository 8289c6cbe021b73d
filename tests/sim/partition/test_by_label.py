"""Label skew follows its law, from one client a class to clients that are alike."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DatasetError
from fedsim.partition import Partition
from fedsim.partition.by_label import classes, dirichlet, dirichlet_by_client, iid, shards
from fedsim.partition.labels import BINS, class_numbers
from tests.variants import mostly_slow


def counts_of(partition: Partition, labels: NDArray[Any]) -> NDArray[np.int64]:
    """How many rows each client has of each class, (P, K)."""
    numbers, number = class_numbers(labels)
    return np.stack([np.bincount(numbers[rows], minlength=number) for rows in partition])


def test_classes_are_the_labels_that_occur_in_sorted_order() -> None:
    for labels in ([9, 4, 9, 1], ["z", "k", "z", "a"], [2.5, 0, 2.5, -1]):
        numbers, number = class_numbers(np.array(labels))
        assert (numbers.tolist(), number) == ([2, 1, 2, 0], 3)
    assert class_numbers(np.array([2**40, 0]))[0].tolist() == [1, 0]
    assert class_numbers(np.array([True, False]))[0].tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.int64, np.float16])
def test_classes_do_not_depend_on_the_dtype_of_labels(dtype: Any) -> None:
    labels = np.array([3, 0, 3, 5, 0, 1], dtype)
    assert class_numbers(labels)[0].tolist() == [2, 0, 2, 3, 0, 1]
    assert class_numbers(labels[:, None])[0].shape == (6, 1)


@given(st.lists(st.floats(-1e9, 1e9), min_size=11, max_size=200, unique=True))
def test_targets_of_a_regression_fall_into_tenths(targets: list[float]) -> None:
    bins, number = class_numbers(np.array(targets))
    assert number == BINS
    sizes = np.bincount(bins)
    assert sizes.max() - sizes.min() <= 1
    assert (np.diff(bins[np.argsort(targets)]) >= 0).all()


@pytest.mark.parametrize(
    "labels", [np.array([0.0, np.nan]), np.array([np.inf]), np.array([]), np.array([None])]
)
def test_labels_that_are_no_classes_are_refused(labels: NDArray[Any]) -> None:
    with pytest.raises(DatasetError, match="labels"):
        class_numbers(labels)


@given(st.integers(1, 100), st.data())
def test_iid_sizes_differ_by_one_at_most(rows: int, data: st.DataObject) -> None:
    sizes = iid(rows, data.draw(st.integers(1, rows)), seed=3).sizes()
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("alpha", mostly_slow([0.1, 1.0, 10.0]))
def test_shares_of_a_class_have_the_moments_of_a_dirichlet_distribution(alpha: float) -> None:
    clients, number, each = 5, 2000, 200
    labels = np.repeat(np.arange(number), each)
    counts = counts_of(dirichlet(labels, clients, alpha=alpha, seed=7), labels)
    # Dirichlet-multinomial: mean n/P, variance n·(1/P)(1 - 1/P)·(n + Pα)/(1 + Pα).
    total = clients * alpha
    variance = each / clients * (1 - 1 / clients) * (each + total) / (1 + total)
    assert np.abs(counts.mean(axis=1) - each / clients).max() < 5 * np.sqrt(variance / number)
    # Of 2,000 draws the sample variance is off by 4 % or so; a wrong law is by far more.
    assert counts.var(axis=1) == pytest.approx(np.full(clients, variance), rel=0.15)
    # Two clients share what the class has: their covariance is -n/P²·(n + Pα)/(1 + Pα).
    pair = np.cov(counts[0], counts[1])[0, 1]
    assert pair == pytest.approx(-variance / (clients - 1), rel=0.25)


@pytest.mark.parametrize("alpha", mostly_slow([0.3, 3.0]))
def test_shares_of_a_client_have_the_moments_of_a_dirichlet_distribution(alpha: float) -> None:
    # So many more rows than the clients need that no class runs out for the first half of them;
    # over all clients the shares sum to the classes', so moments are those of the law up to 1/P.
    clients, number = 2000, 4
    labels = np.tile(np.arange(number), 50 * clients)
    counts = counts_of(dirichlet_by_client(labels, clients, alpha=alpha, seed=5), labels)
    each = len(labels) // clients
    variance = each / number * (1 - 1 / number) * (each + alpha) / (1 + alpha)
    assert counts.sum(axis=1).tolist() == [each] * clients
    assert counts.var(axis=0) == pytest.approx(np.full(number, variance), rel=0.15)


@pytest.mark.parametrize("split", [dirichlet, dirichlet_by_client])
def test_skew_falls_with_alpha(split: Any) -> None:
    labels = np.arange(4000) % 8
    held = [
        (counts_of(split(labels, 20, alpha=alpha, seed=2), labels) > 0).sum(axis=1).mean()
        for alpha in (0.01, 0.3, 100.0)
    ]
    assert held[0] < held[1] < held[2]
    assert held[2] > 7.5  # of 8: the last clients served by their own shares take what is left


def test_the_smallest_alpha_gives_each_class_to_one_client() -> None:
    labels = np.arange(2000) % 20  # so many that neither client is without, and gets a row
    counts = counts_of(dirichlet(labels, 2, alpha=1e-6, seed=4), labels)
    assert ((counts > 0).sum(axis=0) == 1).all()


def test_a_minimum_moves_no_more_rows_than_it_needs() -> None:
    labels = np.arange(5000) % 10
    free = dirichlet(labels, 50, alpha=0.05, seed=9)
    held = dirichlet(labels, 50, alpha=0.05, minimum=60, seed=9)
    short = np.maximum(60 - free.sizes(), 0).sum()
    stayed = sum(len(np.intersect1d(a, b)) for a, b in zip(free, held, strict=True))
    assert held.sizes().min() >= 60
    assert 0 < len(labels) - stayed <= short + 50  # a client without rows had one moved already


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf"), 1e-7])
@pytest.mark.parametrize("split", [dirichlet, dirichlet_by_client])
def test_a_concentration_that_is_none_is_refused(split: Any, alpha: float) -> None:
    with pytest.raises(ArgumentError, match="alpha"):
        split(np.arange(9) % 3, 2, alpha=alpha, seed=1)


def test_proportions_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(ArgumentError, match="100000 classes for 1000 clients"):
        dirichlet_by_client(np.arange(100_000), 1000, alpha=1.0, seed=1)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 20), st.integers(0, 99))
def test_shards_that_fit_the_classes_hold_one_class_each(
    clients: int, each: int, length: int, seed: int
) -> None:
    labels = np.repeat(np.arange(clients * each), length)
    parts = shards(labels, clients, shards_per_client=each, seed=seed)
    counts = counts_of(parts, labels)
    assert ((counts > 0).sum(axis=1) == each).all()
    assert set(counts.ravel().tolist()) <= {0, length}


@given(st.data(), st.integers(1, 80), st.integers(1, 4))
def test_shards_that_do_not_divide_the_rows_differ_by_one(
    data: st.DataObject, rows: int, each: int
) -> None:
    clients = data.draw(st.integers(1, max(rows // each, 1)))
    if clients * each > rows:
        with pytest.raises(ArgumentError, match="shards") as refused:
            shards(np.zeros(rows, int), clients, shards_per_client=each, seed=1)
        assert f"at most {rows // clients} shards" in refused.value.fix
        shards(np.zeros(rows, int), clients, shards_per_client=rows // clients, seed=1)
        return
    sizes = shards(np.zeros(rows, int), clients, shards_per_client=each, seed=1).sizes()
    assert sizes.max() - sizes.min() <= each
    assert (sizes // each >= rows // (clients * each)).all()


@given(st.data())
def test_each_client_has_its_number_of_classes_and_shares_each_evenly(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 8))
    each = data.draw(st.integers(1, number))
    clients = data.draw(st.integers(-(-number // each), 20))
    labels = np.repeat(np.arange(number), data.draw(st.integers(20, 30)))
    seed = data.draw(st.integers(0, 99))
    counts = counts_of(classes(labels, clients, classes_per_client=each, seed=seed), labels)
    assert ((counts > 0).sum(axis=1) == each).all()
    holders = (counts > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1
    for shares in counts.T:
        assert np.ptp(shares[shares > 0]) <= 1


@given(st.data())
def test_what_refused_classes_are_told_to_take_works(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    labels = np.repeat(np.arange(len(rows)), rows)
    clients = data.draw(st.integers(1, len(labels)))
    each = data.draw(st.integers(1, 10))
    try:
        classes(labels, clients, classes_per_client=each, seed=1)
    except ArgumentError as refused:
        for count in re.findall(r"(\d+) clients", refused.fix):
            classes(labels, int(count), classes_per_client=each, seed=1)
        for count in re.findall(r"(\d+) classes a client", refused.fix):
            if "a client has a class once" not in refused.why:
                classes(labels, clients, classes_per_client=int(count), seed=1)
        assert "take" in refused.fix


def test_a_class_that_no_client_could_have_is_refused() -> None:
    with pytest.raises(ArgumentError, match="10 classes for 3 clients") as refused:
        classes(np.arange(100) % 10, 3, classes_per_client=2, seed=1)
    assert "4 classes would have no client" in refused.value.why
    assert refused.value.fix == "take 5 clients, or 4 classes a client"


def test_a_column_of_labels_is_one_label_a_row() -> None:
    labels = np.arange(40) % 4
    flat, column = (shards(one, 5, seed=1) for one in (labels, labels[:, None]))
    assert [rows.tolist() for rows in flat] == [rows.tolist() for rows in column]


def test_several_labels_a_row_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"\(5, 2\)"):
        dirichlet(np.zeros((5, 2), int), 2, alpha=1.0, seed=1)


@pytest.mark.parametrize("labels", [np.arange(10**5) % 62, np.arange(10**5)])
def test_ten_thousand_clients_are_made_without_a_matrix_of_clients_and_classes(
    labels: NDArray[np.int64],
) -> None:
    parts = dirichlet(labels, 10_000, alpha=0.1, minimum=2, seed=1)
    assert len(parts) == 10_000
    assert parts.sizes().min() >= 2
