"""Pooling layers reduce each window as a loop over windows does; padding never is a maximum."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.errors import ShapeError

X = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype(np.float32)


def by_hand(
    x: np.ndarray,
    reduce: Callable[..., Any],
    window: tuple[int, int],
    stride: tuple[int, int],
    border: int,
    fill: float,
) -> np.ndarray:
    padded = np.pad(
        x, [(0, 0), (border, border), (border, border), (0, 0)], constant_values=np.float32(fill)
    )
    down, across = (
        (n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], window, stride, strict=True)
    )
    out = np.zeros((len(x), down, across, x.shape[3]), np.float32)
    for i, j in itertools.product(range(down), range(across)):
        top, left = i * stride[0], j * stride[1]
        part = padded[:, top : top + window[0], left : left + window[1]]
        out[:, i, j] = reduce(part, axis=(1, 2))
    return out


GEOMETRIES = [((2, 2), (2, 2), 0), ((3, 2), (1, 2), 0), ((3, 3), (2, 2), 1)]


@pytest.mark.parametrize(("window", "stride", "border"), GEOMETRIES)
def test_images_are_reduced_window_by_window(
    window: tuple[int, int], stride: tuple[int, int], border: int
) -> None:
    largest = nn.MaxPool2d(window, stride=stride, padding=border)(X)
    expected = by_hand(X, np.max, window, stride, border, -np.inf)
    np.testing.assert_array_equal(largest, expected)
    average = nn.AvgPool2d(window, stride=stride, padding=border)(X)
    # six sums of single precision, in another order
    np.testing.assert_allclose(
        average, by_hand(X, np.mean, window, stride, border, 0), rtol=1e-5, atol=1e-6
    )


def test_sequences_are_reduced_as_images_of_one_row() -> None:
    x = X[:, 0]
    rows = x[:, np.newaxis]
    for line, image in ((nn.MaxPool1d, nn.MaxPool2d), (nn.AvgPool1d, nn.AvgPool2d)):
        given = line(3, stride=2)(x)
        np.testing.assert_array_equal(given, image((1, 3), stride=(1, 2))(rows).numpy()[:, 0])


def test_the_stride_is_the_window_unless_it_is_given() -> None:
    for kind in (nn.MaxPool2d, nn.AvgPool2d):
        np.testing.assert_array_equal(kind((2, 3))(X), kind((2, 3), stride=(2, 3))(X))


def test_padding_is_no_maximum_even_of_negative_images() -> None:
    assert nn.MaxPool2d(3, padding="same", stride=1)(-np.abs(X) - 1).numpy().max() < -1


def test_whole_images_and_sequences_are_reduced_to_their_channels() -> None:
    for x in (X, X[:, 0]):
        axes = tuple(range(1, x.ndim - 1))
        np.testing.assert_array_equal(nn.GlobalMaxPool()(x), x.max(axis=axes))
        np.testing.assert_allclose(
            nn.GlobalAvgPool()(x), x.mean(axis=axes), rtol=1e-5, atol=1e-6
        )  # sums of thirty in another order


def test_the_derivative_goes_to_the_first_of_equal_values() -> None:
    slope = fc.grad(lambda x: nn.MaxPool2d(2)(x).sum())(np.ones((1, 2, 2, 1), np.float32))
    assert slope.numpy()[0, :, :, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.MaxPool2d(4), (1, 3, 9, 1)), (nn.AvgPool1d(4), (1, 3, 1))]
)
def test_a_window_larger_than_the_input_is_refused_with_both(
    layer: Any, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError, match=r"layers\.0 .*window") as caught:
        nn.Sequential(layer)(np.zeros(shape, np.float32))
    assert "smaller window" in caught.value.fix
