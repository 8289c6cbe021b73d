"""Convolution and pooling equal plain loops over every place, whatever the geometry."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore as fc
from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.tensor.ops.activations import relu
from fedcore.tensor.ops.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from fedcore.tensor.ops.patches import patches
from fedcore.tensor.ops.pool import (
    avg_pool1d,
    avg_pool2d,
    bias_relu_pool,
    global_avg_pool,
    global_max_pool,
    max_pool1d,
    max_pool2d,
)
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}  # float64 sums in another order
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
BORDERS = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2)


def windows(
    x: Array, window: Any, stride: Any, dilation: Any = (1, 1)
) -> tuple[list[tuple[int, int, Array]], tuple[int, int]]:
    """Each place of a window in images (N, H, W, C) with what it covers, and how many there are."""
    reach = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    counts = tuple((n - r) // s + 1 for n, r, s in zip(x.shape[1:3], reach, stride, strict=True))
    found = []
    for i, j in itertools.product(range(counts[0]), range(counts[1])):
        top, left = i * stride[0], j * stride[1]
        rows = slice(top, top + reach[0], dilation[0])
        found.append((i, j, x[:, rows, left : left + reach[1] : dilation[1]]))
    return found, counts  # type: ignore[return-value]


def padded(x: Array, border: Any, value: float = 0.0) -> Array:
    return np.pad(x, ((0, 0), *border, (0, 0)), constant_values=value)


def loop_conv(
    x: Array, w: Array, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Array:
    """The definition: each output is the sum of products of a kernel and what it covers."""
    places, counts = windows(padded(x, padding), w.shape[:2], stride, dilation)
    y = np.zeros((x.shape[0], *counts, w.shape[3]))
    channels, features = w.shape[2], w.shape[3] // groups
    for (i, j, part), g in itertools.product(places, range(groups)):
        own = part[..., g * channels : (g + 1) * channels]
        for f in range(g * features, (g + 1) * features):
            y[:, i, j, f] = (own * w[..., f]).sum(axis=(1, 2, 3))
    return y


@st.composite
def convolutions(draw: Any) -> tuple[Array, Array, dict[str, Any]]:
    """Images, a kernel that fits, and the geometry."""
    window, stride, dilation = draw(PAIRS), draw(PAIRS), draw(PAIRS)
    border, groups = draw(BORDERS), draw(st.integers(1, 3))
    size = [
        max(1, d * (k - 1) + 1 - sum(b)) + draw(st.integers(0, 4))
        for k, d, b in zip(window, dilation, border, strict=True)
    ]
    channels, features = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.standard_normal((draw(st.integers(1, 2)), *size, channels * groups))
    w = rng.standard_normal((*window, channels, features * groups))
    return x, w, {"stride": stride, "padding": border, "dilation": dilation, "groups": groups}


# ---- convolution


@given(convolutions())
def test_convolution_equals_the_loop(case: tuple[Array, Array, dict[str, Any]]) -> None:
    x, w, geometry = case
    found = conv2d(tensor(x), tensor(w), **geometry)
    np.testing.assert_allclose(found.numpy(), loop_conv(x, w, **geometry), **CLOSE)


@given(convolutions())
def test_the_derivatives_of_a_convolution_are_its_adjoints(
    case: tuple[Array, Array, dict[str, Any]],
) -> None:
    """It is linear in each operand: <g, conv(dx, w)> = <dX, dx> and <g, conv(x, dw)> = <dW, dw>."""
    x, w, geometry = case
    rng = np.random.default_rng(0)
    y, back = fc.vjp(lambda x, w: conv2d(x, w, **geometry), tensor(x), tensor(w))
    g = rng.standard_normal(y.shape)
    for position, cotangent in enumerate(back(tensor(g))):
        along = [x, w]
        along[position] = rng.standard_normal(along[position].shape)
        expected = (g * loop_conv(*along, **geometry)).sum()
        found = (cotangent.numpy() * along[position]).sum()
        np.testing.assert_allclose(found, expected, **CLOSE)


@given(convolutions())
def test_the_transposed_convolution_is_the_adjoint(
    case: tuple[Array, Array, dict[str, Any]],
) -> None:
    """With the output padding that restores the size: <conv(x, w), z> = <x, transpose(z, w)>."""
    x, w, geometry = case
    y = loop_conv(x, w, **geometry)
    z = np.random.default_rng(0).standard_normal(y.shape)
    lost = tuple(
        (n + sum(b) - d * (k - 1) - 1) % s
        for n, b, k, d, s in zip(
            x.shape[1:3],
            geometry["padding"],
            w.shape[:2],
            geometry["dilation"],
            geometry["stride"],
            strict=True,
        )
    )
    back = conv_transpose2d(tensor(z), tensor(w), output_padding=lost, **geometry)
    assert back.shape == x.shape
    np.testing.assert_allclose((back.numpy() * x).sum(), (y * z).sum(), **CLOSE)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_same_padding_gives_the_size_over_the_stride_rounded_up(
    size: int, window: int, stride: int, dilation: int
) -> None:
    x, w = np.ones((1, size, 1, 1)), np.ones((window, 1, 1, 1))
    y = conv2d(tensor(x), tensor(w), stride=(stride, 1), padding="same", dilation=(dilation, 1))
    assert y.shape[1] == -(-size // stride)
    pooled = max_pool2d(tensor(x), (window, 1), stride=(stride, 1), padding="same")
    assert pooled.shape[1] == -(-size // stride)
    larger = conv_transpose2d(tensor(x), tensor(w), stride=(stride, 1), padding="same")
    assert larger.shape[1] == size * stride


@given(convolutions())
def test_a_sequence_is_an_image_of_height_1(case: tuple[Array, Array, dict[str, Any]]) -> None:
    x, w, geometry = case
    flat = {name: value[1] for name, value in geometry.items() if name != "groups"}
    flat["groups"] = geometry["groups"]
    wide = {"stride": (1, flat["stride"]), "dilation": (1, flat["dilation"])}
    expected = loop_conv(
        x[:, :1], w[:1], padding=((0, 0), flat["padding"]), groups=flat["groups"], **wide
    )
    found = conv1d(tensor(x[:, 0]), tensor(w[0]), **flat)
    np.testing.assert_allclose(found.numpy(), expected[:, 0], **CLOSE)
    wide |= {"padding": ((0, 0), flat["padding"]), "groups": flat["groups"]}
    span = x.shape[2] + sum(flat["padding"]) - flat["dilation"] * (w.shape[1] - 1) - 1
    lost = span % flat["stride"]  # what the stride leaves at the end
    longer = conv_transpose1d(found, tensor(w[0]), output_padding=lost, **flat)
    larger = conv_transpose2d(tensor(expected), tensor(w[:1]), output_padding=(0, lost), **wide)
    assert longer.shape == x[:, 0].shape
    np.testing.assert_allclose(longer.numpy(), larger.numpy()[:, 0], **CLOSE)


@given(PAIRS, PAIRS, PAIRS, BORDERS)
def test_patches_are_the_windows_in_the_order_of_the_kernel(
    window: Any, stride: Any, dilation: Any, border: Any
) -> None:
    size = [d * (k - 1) + 2 for k, d in zip(window, dilation, strict=True)]
    x = np.random.default_rng(0).standard_normal((2, *size, 2))
    found = patches(tensor(x), window, stride=stride, padding=border, dilation=dilation).numpy()
    places, counts = windows(padded(x, border), window, stride, dilation)
    assert found.shape[1:3] == counts
    for i, j, part in places:
        np.testing.assert_array_equal(found[:, i, j], part.reshape(2, -1))


# ---- pooling


@st.composite
def poolings(draw: Any) -> tuple[Array, Any, dict[str, Any]]:
    window, stride, border = draw(PAIRS), draw(PAIRS), draw(BORDERS)
    size = [k + draw(st.integers(0, 4)) for k in window]
    count = 2 * size[0] * size[1] * 3
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(count)
    x = order.reshape(2, *size, 3) - count / 2.0  # distinct, so that a maximum is one element
    border = [(min(a, k - 1), min(b, k - 1)) for (a, b), k in zip(border, window, strict=True)]
    return x, window, {"stride": stride, "padding": tuple(border)}


@given(poolings(), st.booleans())
def test_pooling_and_its_derivative_equal_the_loop(
    case: tuple[Array, Any, dict[str, Any]], averages: bool
) -> None:
    x, window, geometry = case
    value = 0.0 if averages else -np.inf
    wide = padded(x, geometry["padding"], value)
    places, counts = windows(wide, window, geometry["stride"])
    expected, slope = np.zeros((2, *counts, 3)), np.zeros_like(wide)
    g = np.random.default_rng(0).standard_normal(expected.shape)
    for i, j, part in places:
        share = slope[:, i * geometry["stride"][0] :, j * geometry["stride"][1] :]
        share = share[:, : window[0], : window[1]]
        top = part.max(axis=(1, 2))
        expected[:, i, j] = part.mean(axis=(1, 2)) if averages else top
        hit = np.full(part.shape, 1 / np.prod(window)) if averages else part == top[:, None, None]
        share += hit * g[:, i, j][:, None, None]
    (above, below), (left, right) = geometry["padding"]
    inside = slope[:, above : slope.shape[1] - below, left : slope.shape[2] - right]
    y, back = fc.vjp(
        lambda x: (avg_pool2d if averages else max_pool2d)(x, window, **geometry), tensor(x)
    )
    np.testing.assert_allclose(y.numpy(), expected, **CLOSE)
    np.testing.assert_allclose(back(tensor(g))[0].numpy(), inside, **CLOSE)


@given(poolings())
def test_pooling_a_sequence_is_pooling_an_image_of_height_1(
    case: tuple[Array, Any, dict[str, Any]],
) -> None:
    x, window, geometry = case
    flat = {"stride": geometry["stride"][1], "padding": geometry["padding"][1]}
    high = {"stride": (1, flat["stride"]), "padding": ((0, 0), flat["padding"])}
    for one, two in ((max_pool1d, max_pool2d), (avg_pool1d, avg_pool2d)):
        expected = two(tensor(x[:, :1]), (1, window[1]), **high).numpy()[:, 0]
        np.testing.assert_array_equal(one(tensor(x[:, 0]), window[1], **flat).numpy(), expected)


@given(poolings())
def test_the_joint_bias_relu_and_pool_equals_its_parts(
    case: tuple[Array, Any, dict[str, Any]],
) -> None:
    x, window, geometry = case
    b = np.array([-1.5, 0.25, 4.0])
    stride = geometry["stride"]
    z, g = x / 4.0, np.random.default_rng(0).standard_normal(3)

    def joint(z: Tensor, b: Tensor) -> Tensor:
        return (bias_relu_pool(z, b, window, stride=stride) * g).sum()

    def parts(z: Tensor, b: Tensor) -> Tensor:
        return (max_pool2d(relu(z + b), window, stride=stride) * g).sum()

    found, expected = (
        fc.value_and_grad(lambda pair, f=f: f(*pair))((tensor(z), tensor(b)))
        for f in (joint, parts)
    )
    np.testing.assert_allclose(found[0].item(), expected[0].item(), **CLOSE)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), **CLOSE)


def test_global_pooling_takes_all_positions() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    np.testing.assert_array_equal(global_max_pool(tensor(x)).numpy(), x.max(axis=(1, 2)))
    np.testing.assert_allclose(global_avg_pool(tensor(x)).numpy(), x.mean(axis=(1, 2)), **CLOSE)
    np.testing.assert_array_equal(global_max_pool(tensor(x[0])).numpy(), x[0].max(axis=1))
    np.testing.assert_allclose(global_avg_pool(tensor(x[0])).numpy(), x[0].mean(axis=1), **CLOSE)


# ---- lanes


GEOMETRIES = [
    {"stride": 1, "padding": 0},
    {"stride": (2, 3), "padding": ((1, 0), (0, 2))},
    {"stride": 1, "padding": "same", "dilation": 2},
    {"stride": 2, "padding": 1, "groups": 2},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_each_lane_of_turned_and_spread_images_equals_the_loop(
    geometry: dict[str, Any], axes: tuple[int | None, int | None]
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 8, 4, 3, 4)).transpose(3, 2, 1, 0, 4)[:, :, ::-1]  # (3, 4, 8, 7, 4)
    w = rng.standard_normal((3, 3, 3, 4 // geometry.get("groups", 1), 8))[..., ::2]
    x, w = (a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True))

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return (max_pool2d(conv2d(x, w, **geometry), 2, stride=1) ** 2).sum()

    def slopes(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return fc.grad(lambda pair: loss(*pair))((x, w))  # type: ignore[no-any-return]

    found = fc.vmap(slopes, axes)(tensor(x), tensor(w))
    for lane in range(3):
        one, two = (a[lane] if axis == 0 else a for a, axis in zip((x, w), axes, strict=True))
        for together, alone in zip(found, slopes(tensor(one), tensor(two)), strict=True):
            np.testing.assert_allclose(together.numpy()[lane], alone.numpy(), rtol=1e-9, atol=1e-9)


# ---- errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x, w: conv2d(x, w[..., :1, :]),
            ShapeError,
            r"conv2d: .*\(2, 5, 6, 3\).*\(3, 2, 1, 4\)",
        ),
        (lambda x, w: conv2d(x[:, :2], w), ShapeError, r"conv2d: .*\(3, 2\).*\(2, 2, 6, 3\)"),
        (
            lambda x, w: conv2d(x[0], w),
            ShapeError,
            r"conv2d: .*\(5, 6, 3\), expected \(N, H, W, C\)",
        ),
        (lambda x, w: conv2d(x, w[0]), ShapeError, r"conv2d: the kernel has shape \(2, 3, 4\)"),
        (lambda x, w: conv2d(x, w, groups=2), ShapeError, "conv2d: .*groups"),
        (lambda x, w: conv2d(x, w, groups=0), ArgumentError, "conv2d: groups is 0"),
        (lambda x, w: conv2d(x, w, stride=0), ArgumentError, "conv2d: stride is 0"),
        (lambda x, w: conv2d(x, w, padding=-1), ArgumentError, "conv2d: padding is -1"),
        (lambda x, w: conv2d(x, w, padding="full"), ArgumentError, "conv2d: padding is 'full'"),
        (lambda x, w: conv2d(x.astype("int64"), w.astype("int64")), DtypeError, "conv2d: .*int64"),
        (lambda x, w: conv1d(x[0], w[0], stride=0), ArgumentError, "conv1d: stride"),
        (lambda x, w: conv1d(x[0, :, :1], w[0]), ShapeError, r"conv1d: a window"),
        (lambda x, w: conv_transpose2d(x, w), ShapeError, "conv_transpose2d: .*channels"),
        (
            lambda x, w: conv_transpose2d(
                x, w.swapaxes(2, 3), stride=2, padding="same", output_padding=1
            ),
            ArgumentError,
            "output_padding is 1 beside padding 'same'",
        ),
        (lambda x, w: max_pool2d(x, 7), ShapeError, r"max_pool2d: a window of \(7, 7\)"),
        (lambda x, w: max_pool1d(x[0], 9), ShapeError, "max_pool1d: a window"),
        (lambda x, w: avg_pool2d(x[0]), ShapeError, "avg_pool2d: the input"),
        (
            lambda x, w: bias_relu_pool(x, w[0, 0, 0]),
            ShapeError,
            r"bias_relu_pool: .*\(4,\).*\(2, 5",
        ),
        (lambda x, w: global_max_pool(x[:, :0]), ShapeError, "global_max_pool"),
        (lambda x, w: global_avg_pool(x[:, :0]), ShapeError, "no elements"),
        (lambda x, w: max_pool2d(x.astype("int64")), DtypeError, "max_pool2d: .*int64"),
    ],
)
def test_what_does_not_fit_is_named_with_the_operation_and_its_shapes(
    call: Callable[[Tensor, Tensor], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        call(tensor(np.ones((2, 5, 6, 3))), tensor(np.ones((3, 2, 3, 4))))
    assert "test_convolution.py" in str(caught.value)
