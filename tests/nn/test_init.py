"""Initial values repeat with their key and have the spread that their source states."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fedcore import nn
from fedcore.errors import ArgumentError, ShapeError
from fedcore.nn import init
from fedcore.tensor.random import Key

KEY = Key(0, "init")
SHAPES = [(300, 200), (3, 3, 40, 50)]
VARIANCES: dict[str, Callable[[int, int], float]] = {
    "xavier_uniform": lambda ins, outs: 2 / (ins + outs),
    "xavier_normal": lambda ins, outs: 2 / (ins + outs),
    "kaiming_uniform": lambda ins, outs: 2 / ins,
    "kaiming_normal": lambda ins, outs: 2 / ins,
    "lecun_normal": lambda ins, outs: 1 / ins,
    "normal": lambda ins, outs: 1.0,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", VARIANCES)
def test_the_variance_is_the_stated_one(name: str, shape: tuple[int, ...]) -> None:
    field = math.prod(shape[:-2])
    values = getattr(init, name)(shape, key=KEY).numpy()
    expected = VARIANCES[name](field * shape[-2], field * shape[-1])
    # the sample variance of n >= 18,000 normal values has a relative deviation of sqrt(2/n) = 1 %
    assert values.var() == pytest.approx(expected, rel=0.05)
    assert abs(values.mean()) < 5 * math.sqrt(expected / values.size)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (2, 2, 3, 5), (3, 3, 1, 9)])
def test_orthogonal_rows_or_columns_have_length_gain(shape: tuple[int, ...]) -> None:
    w = init.orthogonal(shape, key=KEY, gain=2.0).numpy().reshape(-1, shape[-1])
    w = w if w.shape[0] >= w.shape[1] else w.T
    np.testing.assert_allclose(w.T @ w, 4 * np.eye(w.shape[1]), atol=1e-5)


def test_truncated_values_stay_within_two_deviations() -> None:
    values = init.truncated_normal((100, 100), key=KEY, std=0.5).numpy()
    assert np.abs(values).max() <= 1.0
    # a normal cut at two deviations has 0.774 of its variance
    assert values.var() == pytest.approx(0.25 * 0.7737, rel=0.05)


def test_values_repeat_with_their_key_and_differ_with_another() -> None:
    one, same, other = (nn.Linear(5, 4, key=key).weight.numpy() for key in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    named = nn.Linear(5, 4, key=Key(3, "init")).weight.numpy()
    np.testing.assert_array_equal(one, named)


@pytest.mark.parametrize("name", ["xavier_uniform", "kaiming_normal", "orthogonal"])
def test_a_shape_without_inputs_and_outputs_is_refused(name: str) -> None:
    with pytest.raises(ShapeError, match=r"\(3,\)"):
        getattr(init, name)((3,), key=KEY)


def test_a_key_that_is_no_seed_is_refused() -> None:
    with pytest.raises(ArgumentError, match="seed"):
        nn.Linear(2, 2, key=-1)


def test_parameters_are_single_precision() -> None:
    for name in VARIANCES:
        assert getattr(init, name)((2, 3), key=KEY).dtype == np.float32
