"""An embedding's gradient reaches the rows that were chosen, each as often as it was."""

from __future__ import annotations

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.errors import ArgumentError, AxisError, DtypeError

INDEX = np.array([[1, 1, 4], [0, 1, 2]])


def test_rows_are_those_of_the_weight() -> None:
    layer = nn.Embedding(5, 3, key=0)
    np.testing.assert_array_equal(layer(INDEX).numpy(), layer.weight.numpy()[INDEX])


def test_the_gradient_counts_each_row_as_often_as_it_was_chosen() -> None:
    theta, rebuild = fc.ravel(nn.Embedding(5, 3, key=0))
    slope = fc.grad(lambda theta: rebuild(theta)(INDEX).sum())(theta)
    np.testing.assert_array_equal(
        slope.numpy().reshape(5, 3), np.repeat([[1], [3], [1], [0], [1]], 3, 1)
    )


def test_each_client_has_its_own_rows() -> None:
    theta, rebuild = fc.ravel(nn.Embedding(5, 3, key=0))
    thetas = np.stack([theta.numpy() * k for k in (1, 2)]).astype(np.float32)
    lanes = fc.vmap(lambda theta, index: rebuild(theta)(index))(thetas, INDEX).numpy()
    for lane in range(2):
        np.testing.assert_array_equal(lanes[lane], thetas[lane].reshape(5, 3)[INDEX[lane]])


def test_a_wrong_index_is_refused() -> None:
    layer = nn.Embedding(5, 3, key=0)
    with pytest.raises(AxisError, match=r"Embedding: .*5"):
        layer(np.array([0, 5]))
    with pytest.raises(DtypeError, match="float32"):
        layer(np.array([0.0, 1.0], np.float32))
    with pytest.raises(ArgumentError, match="count"):
        nn.Embedding(0, 3, key=0)


def test_a_negative_index_is_refused_eagerly_and_in_replays() -> None:
    theta, rebuild = fc.ravel(nn.Embedding(5, 3, key=0))
    replayed = fc.compile(lambda theta, index: rebuild(theta)(index))
    sloped = fc.compile(fc.grad(lambda theta, index: rebuild(theta)(index).sum()))
    for run in (replayed, sloped):
        run(theta, INDEX)
        run(theta, INDEX)
        for wrong in (INDEX - 1, INDEX + 1):
            with pytest.raises(AxisError, match=rf"\[{wrong.min()}, {wrong.max()}\].* 5 rows"):
                run(theta, wrong)
        run(theta, INDEX)
    with pytest.raises(AxisError, match=r"Embedding: .*\[-1, 3\]") as caught:
        rebuild(theta)(INDEX - 1)
    assert "padding" in caught.value.fix
