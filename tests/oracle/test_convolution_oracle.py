"""Convolutions and pooling of any geometry equal PyTorch's, and so do their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from fedcore.tensor.ops import pool
from tests.golden.case import Case, assert_equal_up_to_rounding, our_results, torch_results
from tests.golden.layouts import channels_first, channels_last, conv_weight
from tests.golden.make_convolution import (
    NONE,
    Pair,
    conv1d,
    conv2d,
    conv_transpose2d,
    pool1d,
    pool2d,
)

pytest.importorskip("torch", reason="PyTorch is not installed (make test-oracle)")
pytestmark = pytest.mark.oracle

few = st.integers(1, 3)
steps = st.tuples(few, few)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
borders = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2)


def agrees(case: Case) -> None:
    assert_equal_up_to_rounding(our_results(case), torch_results(case))


def fits(size: Pair, kernel: Pair, dilation: Pair, border: Any = NONE) -> bool:
    return all(
        n + sum(b) >= d * (k - 1) + 1
        for n, k, d, b in zip(size, kernel, dilation, border, strict=True)
    )


@given(few, sizes, few, steps, steps, steps, borders, few, few)
def test_conv2d(
    batch: int,
    size: Pair,
    share: int,
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    border: Any,
    groups: int,
    features: int,
) -> None:
    assume(fits(size, kernel, dilation, border))
    agrees(
        conv2d(
            (batch, *size, share * groups),
            features * groups,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=groups,
            border=border,
        )
    )


@given(few, st.integers(1, 12), few, few, few, few, st.tuples(*[st.integers(0, 3)] * 2), few, few)
def test_conv1d(
    batch: int,
    length: int,
    share: int,
    kernel: int,
    stride: int,
    dilation: int,
    border: Pair,
    groups: int,
    features: int,
) -> None:
    assume(length + sum(border) >= dilation * (kernel - 1) + 1)
    agrees(
        conv1d(
            (batch, length, share * groups),
            features * groups,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=groups,
            border=border,
        )
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@given(sizes, steps, steps, few)
def test_same_padding_at_stride_one(size: Pair, kernel: Pair, dilation: Pair, groups: int) -> None:
    def theirs(torch: Any, v: Any) -> Any:
        x, weight = channels_first(v["x"]), conv_weight(v["weight"])
        y = torch.nn.functional.conv2d(x, weight, v["bias"], 1, "same", dilation, groups)
        return channels_last(y)

    case = conv2d(
        (2, *size, groups), 2 * groups, kernel, dilation=dilation, groups=groups, padding="same"
    )
    agrees(Case(case.values, case.ours, theirs))


@given(sizes, steps, steps, steps, borders, st.tuples(*[st.integers(0, 2)] * 2), few, few, few)
def test_conv_transpose2d(
    size: Pair,
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    border: Any,
    output_padding: Pair,
    groups: int,
    share: int,
    features: int,
) -> None:
    assume(all(extra < s for extra, s in zip(output_padding, stride, strict=True)))
    numbers = zip(size, kernel, stride, dilation, border, output_padding, strict=True)
    assume(all((n - 1) * s + d * (k - 1) + 1 + e > sum(b) for n, k, s, d, b, e in numbers))
    agrees(
        conv_transpose2d(
            (2, *size, share * groups),
            features * groups,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=groups,
            border=border,
            output_padding=output_padding,
        )
    )


@pytest.mark.parametrize("kind", ["max", "avg"])
@given(size=sizes, window=steps, stride=steps, border=borders)
def test_pool2d(kind: str, size: Pair, window: Pair, stride: Pair, border: Any) -> None:
    assume(fits(size, window, (1, 1), border))
    if kind == "max":  # a window of padding alone has no maximum
        assume(all(max(b) < w for b, w in zip(border, window, strict=True)))
    agrees(pool2d(kind, (2, *size, 3), window, stride, border))


@pytest.mark.parametrize("kind", ["max", "avg"])
@given(length=st.integers(1, 12), window=few, stride=few, half=st.booleans())
def test_pool1d(kind: str, length: int, window: int, stride: int, half: bool) -> None:
    padding = window // 2 if half else 0
    assume(length + 2 * padding >= window)
    agrees(pool1d(kind, (2, length, 3), window, stride, padding))


def test_the_first_of_equal_values_takes_the_derivative_of_a_maximum() -> None:
    """Ours is the first down the columns, PyTorch's along the rows: that of the images turned."""
    levels = np.floor(np.abs(np.random.default_rng(0).standard_normal((2, 6, 6, 3))) * 2)
    upright = pool2d("max", levels.shape, (3, 2), (2, 1))
    turned = pool2d("max", levels.shape, (2, 3), (1, 2))

    def theirs(torch: Any, values: dict[str, Any]) -> Any:
        return turned.theirs(torch, {"x": values["x"].swapaxes(1, 2)}).swapaxes(1, 2)

    agrees(Case({"x": levels}, upright.ours, theirs))


def test_pooling_over_whole_images() -> None:
    x = {"x": np.random.default_rng(0).standard_normal((2, 4, 3, 5))}
    agrees(Case(x, lambda v: pool.global_avg_pool(v["x"]), lambda torch, v: v["x"].mean((1, 2))))
    agrees(Case(x, lambda v: pool.global_max_pool(v["x"]), lambda torch, v: v["x"].amax((1, 2))))
