"""Layers, attention and losses of any shape equal PyTorch's, and so do their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from tests.golden import make_attention, make_layers, make_losses
from tests.golden.case import (
    ROUNDINGS,
    Case,
    assert_equal_up_to_rounding,
    normal,
    our_results,
    torch_results,
)

pytest.importorskip("torch", reason="PyTorch is not installed (make test-oracle)")
pytestmark = pytest.mark.oracle

few = st.integers(1, 5)
positions = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def agrees(case: Case, roundings: float = ROUNDINGS) -> None:
    assert_equal_up_to_rounding(our_results(case), torch_results(case), roundings=roundings)


# ---- layers


@given(positions, few, few, st.booleans())
def test_linear(lead: tuple[int, ...], features: int, outputs: int, bias: bool) -> None:
    agrees(make_layers.linear((*lead, features), outputs, bias=bias))


@given(st.integers(4, 9), positions, few, st.sampled_from([0.1, 0.9, 0.0]))
def test_batch_norm(batch: int, inner: tuple[int, ...], channels: int, momentum: float) -> None:
    agrees(make_layers.batch_norm((batch, *inner, channels), momentum=momentum, eps=1e-2))


@given(positions, st.integers(1, 9))
def test_layer_norm_and_rms_norm(lead: tuple[int, ...], features: int) -> None:
    agrees(make_layers.layer_norm((*lead, features), eps=1e-2))
    agrees(make_layers.rms_norm((*lead, features), eps=1e-2))


@given(few, positions, few, st.integers(1, 3))
def test_group_norm(batch: int, inner: tuple[int, ...], groups: int, share: int) -> None:
    assume(math.prod(inner) * share > 1)  # PyTorch refuses to normalise single values
    agrees(make_layers.group_norm((batch, *inner, groups * share), groups, eps=1e-2))


@given(st.integers(1, 40), few, positions)
def test_embedding(count: int, features: int, index: tuple[int, ...]) -> None:
    agrees(make_layers.embedding(count, features, index))


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
@given(batch=few, steps=st.integers(1, 7), features=few, hidden=few, states=st.booleans())
def test_recurrent_layers(
    kind: str, batch: int, steps: int, features: int, hidden: int, states: bool
) -> None:
    agrees(make_layers.recurrent(kind, (batch, steps, features), hidden, states=states))


# ---- attention


@given(positions, few, few, few, few, st.booleans(), st.sampled_from(["none", "seen", "added"]))
def test_attention(
    lead: tuple[int, ...],
    queries: int,
    more_keys: int,
    width: int,
    values: int,
    causal: bool,
    masked: str,
) -> None:
    keys = queries + more_keys - 1  # at least as many, so that a causal query sees one
    shape = (queries, keys)
    mask = {
        "none": None,
        "seen": make_attention.boolean_mask(*shape),
        "added": None if causal else normal("scores", *shape),
    }[masked]
    agrees(
        make_attention.attention((*lead, queries, width), keys, values, mask=mask, causal=causal)
    )


@given(few, few, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans())
def test_multi_head_attention(
    batch: int, length: int, heads: int, width: int, causal: bool, bias: bool
) -> None:
    x = (batch, length, heads * width)
    agrees(make_attention.multi_head(x, heads, causal=causal, bias=bias))
    mask = make_attention.boolean_mask(batch, heads, length, 4)
    agrees(make_attention.multi_head(x, heads, memory=4, mask=mask, bias=bias))


@given(few, few, st.integers(1, 3), st.integers(2, 4), few)
def test_encoder_block(batch: int, length: int, heads: int, width: int, hidden: int) -> None:
    x = (batch, length, heads * width)
    # the norms inside divide by deviations that may be near sqrt(eps) = 1/300
    agrees(make_attention.encoder_block(x, heads, hidden), roundings=300 * ROUNDINGS)


# ---- losses

reductions = st.sampled_from(["mean", "sum", "none"])


@given(positions, st.integers(2, 60), reductions, st.floats(0, 1), st.floats(0.1, 100))
def test_cross_entropy(
    rows: tuple[int, ...], classes: int, reduction: str, smoothing: float, scale: float
) -> None:
    logits = normal("logits", *rows, classes) * scale
    agrees(make_losses.cross_entropy(logits, reduction=reduction, label_smoothing=smoothing))


@given(st.integers(3, 300), st.integers(2, 60), st.floats(0, 0.5))
def test_cross_entropy_with_weights(rows: int, classes: int, smoothing: float) -> None:
    logits = normal("logits", rows, classes)
    weight = make_losses.weights(rows)
    agrees(make_losses.cross_entropy(logits, weight=weight, label_smoothing=smoothing))
    agrees(make_losses.cross_entropy(logits, ignored=7, label_smoothing=smoothing))
    agrees(make_losses.cross_entropy(logits, class_weight=make_losses.weights(classes) + 0.1))


@given(positions, st.integers(2, 9), reductions)
def test_nll_of_log_softmax(rows: tuple[int, ...], classes: int, reduction: str) -> None:
    agrees(make_losses.nll(rows, classes, reduction=reduction))


@pytest.mark.parametrize("name", make_losses.NAMES)
@given(shape=positions, reduction=reductions, scale=st.floats(0.1, 100))
def test_losses_of_pairs(name: str, shape: tuple[int, ...], reduction: str, scale: float) -> None:
    x, target = normal("x", *shape) * scale, normal("target", *shape)
    if name.startswith("binary"):
        target = 1.0 / (1.0 + np.exp(-target))
    agrees(make_losses.pair(name, x, target, reduction=reduction))


@given(st.floats(0.01, 10), st.floats(0.1, 10))
def test_huber(delta: float, scale: float) -> None:
    x, target = normal("x", 20) * scale, normal("target", 20)
    agrees(make_losses.pair("huber", x, target, delta=delta))


@given(st.integers(1, 9), st.integers(2, 9), st.sampled_from(["mean", "sum"]))
def test_kl_div(rows: int, classes: int, reduction: str) -> None:
    agrees(make_losses.kl_div(rows, classes, reduction=reduction))


def test_the_derivative_of_an_error_of_zero_and_of_one_at_delta() -> None:
    x, target = np.array([1.0, 2.0, 3.5, 1.0]), np.array([1.0, 1.0, 3.0, 3.0])
    for name in ("l1", "mse", "huber"):
        agrees(make_losses.pair(name, x, target))
