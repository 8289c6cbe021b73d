"""Optimisers follow their published rules, also in lanes and replays; clipping keeps its bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import fedcore as fc
from fedcore import nn, optim
from fedcore.errors import ArgumentError, DtypeError, ShapeError
from tests.golden.make_optim import CASES, FILE, STEPS, problem

ALL: list[optim.Optimizer] = [
    optim.SGD(lr=0.1),
    optim.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    optim.Adam(lr=0.1, weight_decay=0.01),
    optim.AdamW(lr=0.1),
    optim.Yogi(lr=0.1, weight_decay=0.01),
    optim.RMSprop(lr=0.01, momentum=0.5, weight_decay=0.01),
    optim.Adagrad(lr=0.3, weight_decay=0.01),
]
each = pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)


def run(rule: optim.Optimizer, dtype: type) -> NDArray[Any]:
    """The parameters after each step on the noisy quadratic of the stored trajectories."""
    start, curvature, noise = (values.astype(dtype) for values in problem())
    theta = fc.tensor(start)
    state = rule.init(theta)
    path = []
    for step in range(STEPS):
        theta, state = rule.step(theta, theta * curvature + noise[step], state)
        path.append(theta.numpy())
    return np.stack(path)


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_equal_pytorchs_in_double_precision(case: str) -> None:
    name, options, *_ = CASES[case]
    with np.load(FILE) as stored:
        found = run(getattr(optim, name)(**options), np.float64)
        np.testing.assert_allclose(found, stored[case], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_in_single_precision_stay_within_its_rounding(case: str) -> None:
    name, options, *_ = CASES[case]
    with np.load(FILE) as stored:
        found = run(getattr(optim, name)(**options), np.float32)
        assert found.dtype == np.float32
        # 20 steps of a few roundings each of values up to 3: 20 * 4 * 6e-8 * 3 = 1.4e-5
        np.testing.assert_allclose(found, stored[case], rtol=0, atol=2e-5)


def test_yogi_follows_its_published_algorithm() -> None:
    rule = optim.Yogi(lr=0.1)
    start, curvature, noise = problem()
    theta, m, v = start, np.zeros_like(start), np.full_like(start, rule.initial)
    expected = []
    for step in range(STEPS):
        g = curvature * theta + noise[step]
        m = 0.9 * m + 0.1 * g
        v = v - 0.001 * np.sign(v - g**2) * g**2
        theta = theta - 0.1 * m / (np.sqrt(v) + 1e-3)
        expected.append(theta)
    np.testing.assert_allclose(run(rule, np.float64), np.stack(expected), rtol=1e-11)


@each
def test_each_lane_steps_as_if_alone(rule: optim.Optimizer) -> None:
    draw = np.random.default_rng(3)
    thetas, gradients = draw.standard_normal((2, 5, 5)).astype(np.float32)

    def two_steps(theta: fc.Tensor, gradient: fc.Tensor) -> fc.Tensor:
        theta, state = rule.step(theta, gradient, rule.init(theta))
        return rule.step(theta, gradient * 0.5, state)[0]

    lanes = fc.vmap(two_steps)(thetas, gradients).numpy()
    alone = [
        two_steps(fc.tensor(t), fc.tensor(g)).numpy()
        for t, g in zip(thetas, gradients, strict=True)
    ]
    np.testing.assert_array_equal(lanes, np.stack(alone))


@each
def test_a_replay_of_the_step_counts_and_scales_as_the_step_itself(rule: optim.Optimizer) -> None:
    def step(theta: Any, gradient: Any, state: Any, lr: Any) -> Any:
        return rule.step(theta, gradient, state, lr=lr)

    replayed = fc.compile(step)
    draw = np.random.default_rng(4)
    theta = fc.tensor(draw.standard_normal(6).astype(np.float32))
    ours = theirs = (theta, rule.init(theta))
    for rate in (0.1, 0.05, 0.2, 0.01):
        gradient = fc.tensor(draw.standard_normal(6).astype(np.float32))
        ours = replayed(ours[0], gradient, ours[1], rate)
        theirs = step(theirs[0], gradient, theirs[1], fc.tensor(rate))
        np.testing.assert_array_equal(ours[0].numpy(), theirs[0].numpy())


@each
def test_a_rate_given_to_the_step_replaces_the_rules_own(rule: optim.Optimizer) -> None:
    theta, gradient = fc.tensor([1.0, -2.0]), fc.tensor([0.5, 0.5])
    still, _ = rule.step(theta, gradient, rule.init(theta), lr=0.0)
    assert still.tolist() == theta.tolist()


@each
@pytest.mark.parametrize("rate", [math.nan, -1.0, math.inf, np.float32(-1.0)])
def test_a_rate_given_as_a_number_is_finite_and_not_negative(
    rule: optim.Optimizer, rate: float
) -> None:
    theta = fc.tensor([1.0, -2.0])
    with pytest.raises(ArgumentError, match=f"{type(rule).__name__}: lr is"):
        rule.step(theta, theta, rule.init(theta), lr=rate)


@each
def test_the_state_starts_finite_whatever_the_parameters_hold(rule: optim.Optimizer) -> None:
    for part in rule.init(fc.tensor([math.nan, math.inf, 1.0])):
        assert np.isfinite(part.numpy()).all()


@each
def test_no_two_parts_of_the_state_share_memory(rule: optim.Optimizer) -> None:
    theta = fc.tensor([1.0, 2.0])
    arrays = [theta.data, *[part.data for part in rule.init(theta)]]
    for i, one in enumerate(arrays):
        assert not any(np.shares_memory(one, other) for other in arrays[:i])


@each
def test_a_factored_gradient_gives_the_step_of_its_array(rule: optim.Optimizer) -> None:
    theta, rebuild = fc.ravel(nn.Linear(4, 3, key=0))
    x = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)

    def loss(theta: fc.Tensor) -> fc.Tensor:
        return (rebuild(theta)(x) ** 2).mean()

    found, _ = rule.step(theta, fc.factored_grad(loss)(theta), rule.init(theta))
    expected, _ = rule.step(theta, fc.grad(loss)(theta), rule.init(theta))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "rule",
    [
        optim.SGD(lr=0.1, momentum=0.9),
        optim.Adam(),
        optim.AdamW(),
        optim.Yogi(),
        optim.RMSprop(),
        optim.RMSprop(momentum=0.9),
        optim.Adagrad(),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_what_a_step_cannot_use_is_refused(rule: optim.Optimizer) -> None:
    theta = fc.tensor([1.0, 2.0])
    state, name = rule.init(theta), type(rule).__name__
    for wrong in ((), (*state, theta), None):
        with pytest.raises(ArgumentError, match=f"{name}: the state is .*{len(state)} parts"):
            rule.step(theta, theta, wrong)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=rf"{name}: a state of shapes .*\(1,\), expected .*\(2,\)"):
        rule.step(theta, theta, rule.init(theta[:1]))
    with pytest.raises(ShapeError, match=rf"{name}: a rate of shape \(2,\)"):
        rule.step(theta, theta, state, lr=theta)
    with pytest.raises(DtypeError, match="str"):
        rule.step(theta, theta, state, lr="0.1")
    with pytest.raises(DtypeError, match="gradient is a list"):
        rule.step(theta, [1.0, 2.0], state)  # type: ignore[arg-type]


def test_a_gradient_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\(3,\).*\(2,\)"):
        optim.Adam().step(fc.tensor([1.0, 2.0, 3.0]), fc.tensor([1.0, 2.0]), ())


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.SGD(lr=math.nan),
        lambda: optim.SGD(lr=-0.1),
        lambda: optim.SGD(lr=math.inf),
        lambda: optim.SGD(lr="0.1"),  # type: ignore[arg-type]
        lambda: optim.SGD(lr=True),
        lambda: optim.SGD(lr=0.1, momentum=1.0),
        lambda: optim.SGD(lr=0.1, nesterov=True),
        lambda: optim.SGD(lr=0.1, weight_decay=-1.0),
        lambda: optim.Adam(beta1=1.0),
        lambda: optim.Adam(beta2=math.nan),
        lambda: optim.AdamW(eps=0.0),
        lambda: optim.Yogi(initial=-1.0),
        lambda: optim.RMSprop(alpha=2.0),
        lambda: optim.Adagrad(initial=math.inf),
        lambda: optim.cosine(0.1, steps=0),
        lambda: optim.cosine(math.nan, steps=10),
        lambda: optim.exponential(0.1, rate=-1.0),
        lambda: optim.piecewise([3, 2], [1.0, 0.5, 0.1]),
        lambda: optim.piecewise([3], [1.0]),
        lambda: optim.step_decay(0.1, every=0),
        lambda: optim.warmup(optim.constant(0.1), steps=-1),
        lambda: optim.clip_by_norm(fc.tensor([1.0]), 0.0),
        lambda: optim.clip_by_norm(fc.tensor([1.0]), math.nan),
        lambda: optim.clip_by_value(fc.tensor([1.0]), -1.0),
    ],
)
def test_a_value_out_of_range_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ArgumentError):
        make()


@given(
    arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    st.floats(1e-3, 1e3),
)
def test_a_clipped_gradient_never_exceeds_the_norm(values: Any, max_norm: float) -> None:
    clipped = optim.clip_by_norm(fc.tensor(values), max_norm).numpy()
    # squares, their sum, the root, the quotient and the product: 8 roundings of 6e-8
    assert np.linalg.norm(clipped.astype(np.float64)) <= max_norm * (1 + 5e-7)


def test_a_short_gradient_is_left_as_it_is_and_a_long_one_keeps_its_direction() -> None:
    short = fc.tensor([0.3, 0.4])
    assert optim.clip_by_norm(short, 1.0).tolist() == short.tolist()
    for size in (1e-3, 1.0, 1e30):
        clipped = optim.clip_by_norm(fc.tensor([3.0 * size, 4.0 * size]), 1e-4)
        np.testing.assert_allclose(clipped.numpy(), [6e-5, 8e-5], rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_gives_zero_in_its_lane_alone(bad: float) -> None:
    gradients = np.array([[bad, 1.0], [0.3, 0.4]], np.float32)
    clipped = fc.vmap(lambda g: optim.clip_by_norm(g, 1.0))(gradients).numpy()
    np.testing.assert_array_equal(clipped, np.array([[0, 0], [0.3, 0.4]], np.float32))


def test_a_factored_gradient_is_clipped_as_its_array() -> None:
    theta, rebuild = fc.ravel(nn.Linear(4, 3, key=0))
    x = np.random.default_rng(5).standard_normal((1, 4)).astype(np.float32)
    gradient = fc.factored_grad(lambda theta: (rebuild(theta)(x) ** 2).sum())(theta)
    np.testing.assert_allclose(
        optim.clip_by_norm(gradient, 0.1).numpy(),
        optim.clip_by_norm(gradient.array(), 0.1).numpy(),
        rtol=1e-5,
    )


def test_clipping_by_value_bounds_every_coordinate_and_drops_nan() -> None:
    clipped = optim.clip_by_value(fc.tensor([math.nan, math.inf, -5.0, 0.25]), 0.5)
    assert clipped.tolist() == [0.0, 0.5, -0.5, 0.25]


def test_schedules_meet_their_end_points() -> None:
    rate = optim.cosine(0.4, steps=10, final=0.1)
    assert rate(0) == pytest.approx(0.4) and rate(5) == pytest.approx(0.25)
    assert rate(10) == rate(99) == pytest.approx(0.1)
    assert optim.exponential(1.0, rate=0.5)(3) == pytest.approx(0.125)
    assert optim.constant(0.3)(7) == pytest.approx(0.3)
    assert optim.warmup(rate, steps=4)(4) == pytest.approx(0.4)


@each
def test_a_schedule_in_the_place_of_a_rate_is_sent_to_fit(rule: optim.Optimizer) -> None:
    with pytest.raises(ArgumentError, match="lr is") as caught:
        type(rule)(lr=optim.constant(0.1))  # type: ignore[call-arg]
    assert "fit(schedule=...)" in caught.value.fix


@each
def test_a_model_is_sent_through_ravel(rule: optim.Optimizer) -> None:
    model = nn.Linear(2, 2, key=0)
    for call in (lambda: rule.init(model), lambda: rule.step(model, model, ())):
        with pytest.raises(ArgumentError, match="parameters are a Linear") as caught:
            call()
        assert "fedcore.ravel(model)" in caught.value.fix
