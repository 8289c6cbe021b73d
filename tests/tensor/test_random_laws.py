"""Draws follow their distributions, and nothing that happens around a draw can change it."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.tensor.ops.random import bernoulli, dropout, normal, permutation, uniform
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
DRAWS: dict[str, Callable[[Any], Tensor]] = {
    "uniform": lambda key: uniform(key, (3, 5)),
    "normal": lambda key: normal(key, (3, 5), dtype="float64"),
    "bernoulli": lambda key: bernoulli(key, 15, keep=0.5),
    "permutation": lambda key: permutation(key, 15),
    "dropout": lambda key: dropout(np.ones(15), key, rate=0.5),
}


def words(count: int) -> Array:
    return np.stack([Key(3, "laws", client=c).words() for c in range(count)])


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_ignores_order_threads_lanes_chunks_and_other_draws(name: str) -> None:
    draw, keys = DRAWS[name], words(12)
    alone = [draw(tensor(key)).tolist() for key in keys]
    backwards = [draw(tensor(key)).tolist() for key in keys[::-1]]
    assert backwards[::-1] == alone
    np.random.default_rng(0).random(100)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda key: draw(tensor(key)).tolist(), keys)) == alone
    for chunk in (None, 1, 5, 12):
        assert fc.vmap(draw, chunk=chunk)(tensor(keys)).tolist() == alone
    nested = fc.vmap(fc.vmap(draw))(tensor(keys.reshape(3, 4, 2)))
    assert nested.reshape((12, *nested.shape[2:])).tolist() == alone
    replayed = fc.compile(fc.vmap(draw))
    for _ in range(3):
        assert replayed(tensor(keys)).tolist() == alone


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    key = Key(0, "prefix")
    for draw in (uniform, normal):
        assert draw(key, 10).tolist() == draw(key, 25).tolist()[:10]


def test_draws_of_single_precision_are_no_coarser_than_they_must_be() -> None:
    x = uniform(Key(0, "bits"), 100_000).numpy()
    assert (x >= 0).all() and (x < 1).all()
    assert len(np.unique(x)) > 99_000  # 2^24 values: some 300 pairs among 100,000 draws


def test_normal_numbers_follow_the_error_function() -> None:
    x = np.sort(normal(Key(0, "normal"), 50_000, dtype="float64").numpy())
    expected = np.array([(1 + math.erf(v / math.sqrt(2))) / 2 for v in x])
    distance = np.abs(expected - (np.arange(x.size) + 0.5) / x.size).max()
    assert distance < 1.95 / math.sqrt(x.size)  # Kolmogorov-Smirnov, p = 0.001


def test_uniform_numbers_follow_the_diagonal_and_pairs_fill_the_square() -> None:
    x = uniform(Key(0, "uniform"), 100_000, dtype="float64").numpy()
    ordered = np.sort(x)
    distance = np.abs(ordered - (np.arange(x.size) + 0.5) / x.size).max()
    assert distance < 1.95 / math.sqrt(x.size)
    counts, _, _ = np.histogram2d(x[::2], x[1::2], bins=10, range=[[0, 1], [0, 1]])
    assert ((counts - 500) ** 2 / 500).sum() < 148.2  # chi-square, 99 degrees, p = 0.001


def test_every_element_is_as_likely_at_every_place_of_a_permutation() -> None:
    orders = fc.vmap(lambda key: permutation(key, 6))(tensor(words(6000))).numpy()
    counts = np.stack([np.bincount(orders[:, place], minlength=6) for place in range(6)])
    assert ((counts - 1000) ** 2 / 1000).sum() < 52.6  # chi-square, 25 degrees, p = 0.001


def test_coins_of_neighbouring_lanes_and_places_are_independent() -> None:
    coins = fc.vmap(lambda key: bernoulli(key, 400, keep=0.3))(tensor(words(400))).numpy() - 0.3
    variance = 0.3 * 0.7
    for neighbours in (coins[1:] * coins[:-1], coins[:, 1:] * coins[:, :-1]):
        assert abs(neighbours.mean()) < 4 * variance / math.sqrt(neighbours.size)


def test_dropout_keeps_the_mean_and_the_same_elements_in_value_and_derivative() -> None:
    key = Key(0, "dropout")
    x = tensor(np.full(100_000, 2.0))
    y, back = fc.vjp(lambda x: dropout(x, key, rate=0.9), x)
    deviation = 2.0 * math.sqrt(0.9 / 0.1 / 100_000)
    assert abs(y.numpy().mean() - 2.0) < 4 * deviation
    slope = back(tensor(np.ones(100_000)))[0]
    np.testing.assert_allclose(slope.numpy() * 2.0, y.numpy(), rtol=1e-15)


def test_the_ends_of_probability_are_certain() -> None:
    key = Key(0, "ends")
    assert not bernoulli(key, 1000, keep=0.0).numpy().any()
    assert bernoulli(key, 1000, keep=1.0).numpy().all()
    assert permutation(key, 1).tolist() == [0]
    assert uniform(key, 0).shape == (0,)
    assert uniform(key, 5, low=2.0, high=2.0).tolist() == [2.0] * 5


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda key: uniform(key, -1), ShapeError),
        (lambda key: normal(key, (2, 1.5)), ShapeError),
        (lambda key: normal(key, 2, dtype="int64"), DtypeError),
        (lambda key: uniform(key, 2, low="a"), ArgumentError),
        (lambda key: bernoulli(key, 2, keep=float("nan")), ArgumentError),
        (lambda key: permutation(key, 2.5), ArgumentError),
        (lambda key: dropout([1.0], key, rate=-0.1), ArgumentError),
        (lambda key: uniform(3), ArgumentError),
        (lambda key: uniform(np.array([1, 2])), DtypeError),
    ],
)
def test_what_names_no_distribution_is_refused(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        call(Key(0, "errors"))
    assert "test_random_laws.py" in str(caught.value)
