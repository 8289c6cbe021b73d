"""Softmax, its logarithm and the losses keep their laws, also at extremes and under masks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

import fedcore as fc
from fedcore.errors import ArgumentError, AxisError, DtypeError, ShapeError
from fedcore.tensor.ops.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber,
    kl_div,
    l1,
    mse,
    nll,
)
from fedcore.tensor.ops.softmax import log_softmax, softmax
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
SCORES = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=1, max_dims=3, max_side=60),
    elements=st.floats(-30, 30, allow_subnormal=False),
)
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-13}


def probabilities(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)  # type: ignore[no-any-return]


# ---- softmax


@given(SCORES, st.data())
def test_softmax_is_positive_sums_to_1_and_ignores_a_shift(x: Array, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    p = softmax(tensor(x), axis=axis).numpy()
    np.testing.assert_allclose(p, probabilities(x, axis), **CLOSE)
    np.testing.assert_allclose(p.sum(axis=axis), 1.0, **CLOSE)
    np.testing.assert_allclose(softmax(tensor(x + 64.0), axis=axis).numpy(), p, rtol=1e-11)
    logarithm = log_softmax(tensor(x), axis=axis).numpy()
    np.testing.assert_allclose(logarithm, np.log(p), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [2, 3, 48, 49, 300])
@pytest.mark.parametrize("rows", [1, 700])
@pytest.mark.parametrize("scale", [1e30, 1e-30, 0.0])
def test_extreme_scores_of_any_width_give_finite_values_and_derivatives(
    width: int, rows: int, scale: float
) -> None:
    x = (np.random.default_rng(0).standard_normal((rows, width)) * scale).astype(np.float32)
    labels = np.zeros(rows, np.int64)
    for function in (softmax, log_softmax, lambda x: cross_entropy(x, labels)):
        value, slope = fc.value_and_grad(lambda x, f=function: f(x).sum())(tensor(x))
        assert np.isfinite(value.item())
        assert np.isfinite(slope.numpy()).all()


def test_masked_scores_have_probability_and_derivative_0_and_so_has_a_masked_row() -> None:
    x = np.array([[1.0, -np.inf, 2.0], [-np.inf] * 3])
    p, slope = fc.value_and_grad(lambda x: softmax(x)[0, 0])(tensor(x))
    assert softmax(tensor(x)).numpy()[:, 1].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(p.item(), 1 / (1 + np.e), **CLOSE)
    assert slope.numpy()[0, 1] == 0.0
    assert softmax(tensor(x)).numpy()[1].tolist() == [0.0] * 3
    everything = fc.grad(lambda x: (softmax(x) ** 2).sum())(tensor(x))
    assert np.isfinite(everything.numpy()).all()
    assert everything.numpy()[1].tolist() == [0.0] * 3


# ---- cross entropy


@given(
    arrays.arrays(np.float64, (4, 5), elements=st.floats(-20, 20)),
    arrays.arrays(np.int64, (4,), elements=st.integers(0, 4)),
    st.sampled_from([0.0, 0.1, 1.0]),
    arrays.arrays(np.float64, (4,), elements=st.sampled_from([0.0, 0.5, 2.0])),
)
def test_cross_entropy_equals_its_formula(
    x: Array, labels: Array, smoothing: float, weight: Array
) -> None:
    target = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    losses = -(target * np.log(probabilities(x))).sum(axis=1)
    total = weight.sum()
    expected = {
        "none": weight * losses,
        "sum": (weight * losses).sum(),
        "mean": (weight * losses).sum() / total if total else 0.0,
    }
    for reduction, value in expected.items():
        found = cross_entropy(
            tensor(x), labels, label_smoothing=smoothing, weight=weight, reduction=reduction
        )
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-10, atol=1e-12)
    slope = fc.grad(lambda x: cross_entropy(x, labels, label_smoothing=smoothing, weight=weight))(
        tensor(x)
    )
    share = (weight / (total or 1.0))[:, None]
    np.testing.assert_allclose(slope.numpy(), share * (probabilities(x) - target), atol=1e-12)


def test_the_negative_log_likelihood_of_log_softmax_is_the_cross_entropy() -> None:
    x, labels = np.random.default_rng(0).standard_normal((6, 3)), np.arange(6) % 3
    found = nll(log_softmax(tensor(x)), labels)
    np.testing.assert_allclose(found.item(), cross_entropy(tensor(x), labels).item(), **CLOSE)


@pytest.mark.parametrize("label", [-1, 5, 2**40])
def test_a_label_that_is_no_class_is_refused_eagerly_in_lanes_and_in_replays(label: int) -> None:
    x, good = np.zeros((2, 5), np.float32), np.array([0, 4])
    bad = np.array([0, label])
    message = "there are 5 classes"
    with pytest.raises(AxisError, match=message):
        cross_entropy(tensor(x), bad)
    with pytest.raises(AxisError, match=message):
        fc.vmap(cross_entropy)(tensor(x[:, None]), tensor(bad[:, None]))
    for function in (cross_entropy, fc.grad(cross_entropy)):
        step = fc.compile(function)
        for _ in range(2):
            step(tensor(x), tensor(good))
        with pytest.raises(AxisError, match=message):
            step(tensor(x), tensor(bad))
        assert np.isfinite(step(tensor(x), tensor(good)).numpy()).all()  # and it goes on


# ---- the other losses


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[[Array, Array], Array]]] = {
    "mse": (mse, lambda x, t: (x - t) ** 2),
    "l1": (l1, lambda x, t: np.abs(x - t)),
    "huber": (
        lambda x, t, **options: huber(x, t, delta=0.5, **options),
        lambda x, t: np.where(np.abs(x - t) <= 0.5, (x - t) ** 2 / 2, 0.5 * (np.abs(x - t) - 0.25)),
    ),
    "binary": (
        binary_cross_entropy_with_logits,
        lambda x, t: t * np.log1p(np.exp(-x)) + (1 - t) * np.log1p(np.exp(x)),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@given(
    arrays.arrays(np.float64, (3, 2), elements=st.floats(-3, 3)),
    arrays.arrays(np.float64, (3, 2), elements=st.floats(0, 1)),
)
def test_losses_of_pairs_equal_their_formulas(name: str, x: Array, t: Array) -> None:
    loss, formula = LOSSES[name]
    found = loss(tensor(x), tensor(t), reduction="none")
    np.testing.assert_allclose(found.numpy(), formula(x, t), rtol=1e-10, atol=1e-12)
    weight = np.array([1.0, 0.0, 3.0])
    weighted = loss(tensor(x), tensor(t), weight=weight).item()
    expected = (weight[:, None] * formula(x, t)).sum() / (2 * weight.sum())
    np.testing.assert_allclose(weighted, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [0.0, 1e15, -1e15])
def test_losses_have_finite_derivatives_at_extremes_and_none_where_the_weight_is_0(
    name: str, size: float
) -> None:
    x = tensor(np.array([size, 3.0], np.float32))
    t = np.array([1.0, 0.0], np.float32)
    slope = fc.grad(lambda x: LOSSES[name][0](x, t, weight=[1.0, 0.0]))(x).numpy()
    assert np.isfinite(slope).all()
    assert slope[1] == 0.0
    nothing = fc.grad(lambda x: LOSSES[name][0](x, t, weight=[0.0, 0.0]))(x)
    assert nothing.tolist() == [0.0, 0.0]


PAIR = {
    "cross_entropy": (cross_entropy, [[0.0, 1.0], [2.0, 3.0]], [0, 1]),
    "nll": (nll, [[-1.0, -2.0], [-3.0, -4.0]], [0, 1]),
    **{name: (loss, [0.5, 2.0], [1.0, 0.0]) for name, (loss, _) in LOSSES.items()},
}


@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_a_mean_takes_no_weight_below_0_and_a_sum_takes_any(name: str, wrong: float) -> None:
    loss, x, t = PAIR[name]
    replay = fc.compile(lambda x, weight: loss(x, t, weight=weight))
    weight = tensor([1.0, wrong])
    replay(tensor(x), tensor([1.0, 0.0]))
    for call in (lambda: loss(x, t, weight=weight), lambda: replay(tensor(x), weight)):
        with pytest.raises(ArgumentError, match="the weights lie in"):
            call()
    each = loss(x, t, reduction="none").numpy()
    total = loss(x, t, weight=weight, reduction="sum").numpy()
    np.testing.assert_allclose(total, each[0] + wrong * each[1], rtol=1e-6)


@pytest.mark.parametrize("wrong", [[-1.0, 1.0], [0.0, 2.0], [0, 2], [float("nan"), 0.0]])
def test_the_target_of_a_binary_entropy_is_a_probability(wrong: list[Any]) -> None:
    targets = tensor(wrong)
    replay = fc.compile(
        fc.grad(lambda x, t: binary_cross_entropy_with_logits(x, t, weight=tensor([1.0, 1.0])))
    )
    replay(tensor([0.5, 2.0]), targets * 0 if targets.dtype.kind == "i" else tensor([0.0, 1.0]))
    for call in (binary_cross_entropy_with_logits, replay):
        with pytest.raises(ArgumentError, match="the targets lie in"):
            call(tensor([0.5, 2.0]), targets)


def test_the_divergence_of_distributions_is_0_only_for_equals() -> None:
    rng = np.random.default_rng(0)
    x, t = (probabilities(rng.standard_normal((4, 5))) for _ in range(2))
    t[0, :2] = 0.0
    t[0] /= t[0].sum()
    expected = np.where(t > 0, t * (np.log(np.where(t > 0, t, 1)) - np.log(x)), 0).sum(axis=1)
    found = kl_div(np.log(x), t, reduction="none").numpy()
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert (found > 0).all()
    np.testing.assert_allclose(kl_div(np.log(x), x).item(), 0.0, atol=1e-15)
    impossible = kl_div(np.array([[-np.inf, 0.0]]), np.array([[0.0, 1.0]]))
    assert impossible.item() == 0.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: softmax([1, 2]), DtypeError, "softmax: .*int64"),
        (lambda: softmax(np.ones((2, 0))), ShapeError, "softmax of no elements"),
        (lambda: softmax([1.0], axis=1), AxisError, "softmax: there is no axis 1"),
        (lambda: cross_entropy([[0.0]], [[1.0]]), DtypeError, "cross_entropy: the labels"),
        (lambda: cross_entropy([[0.0]], [0, 0]), ShapeError, r"\(1, 1\) with labels \(2,\)"),
        (lambda: cross_entropy([[0.0]], [0], weight=[1.0, 1.0]), ShapeError, "weights"),
        (lambda: cross_entropy([[0.0]], [0], reduction="max"), ArgumentError, "reduction"),
        (lambda: cross_entropy([[0.0]], [0], label_smoothing=1.5), ArgumentError, "smoothing"),
        (lambda: cross_entropy(np.zeros((0, 3)), np.zeros(0, int)), ShapeError, "no examples"),
        (lambda: mse([1.0], [[1.0]]), ShapeError, r"mse: .*\(1,\) with targets \(1, 1\)"),
        (lambda: huber([1.0], [1.0], delta=0.0), ArgumentError, "huber: delta is 0"),
    ],
)
def test_what_does_not_fit_is_named(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert re.search("test_softmax.py", str(caught.value))
