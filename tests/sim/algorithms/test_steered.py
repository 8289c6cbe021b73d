"""A steered optimiser is the one that it wraps, but for what its state says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.autograd.replay import compile
from fedcore.federated.algorithms.fedprox import Proximal
from fedcore.step import train_step
from fedsim.algorithms.steered import Steered

DRAW = np.random.default_rng(5)
LANES, STEPS = 3, 4
X = DRAW.standard_normal((STEPS, LANES, 6, 5)).astype(np.float32)
Y = DRAW.standard_normal((STEPS, LANES, 6, 2)).astype(np.float32)
KEY = fc.Key(0, "forward").words()
OPTIMIZERS = [
    optim.SGD(lr=0.1),
    optim.SGD(lr=0.1, weight_decay=0.1),
    optim.SGD(lr=0.1, momentum=0.9, nesterov=True),
    optim.Adam(lr=0.05),
    optim.AdamW(lr=0.05),
    optim.RMSprop(lr=0.01),
    optim.RMSprop(lr=0.01, momentum=0.5),
    optim.Adagrad(lr=0.05),
]
THETA, REBUILD = fc.ravel(nn.Sequential(nn.Linear(5, 4, key=0), nn.relu, nn.Linear(4, 2, key=1)))
D = THETA.size


def bits(value: Any) -> bytes:
    return np.ascontiguousarray(value.numpy()).tobytes()


def program(optimizer: Any) -> Any:
    return compile(train_step(REBUILD, loss=nn.mse, optimizer=optimizer), donate=(0, 2))


def walk(step: Any, state: Any, lane: int = 0, theta: Any = THETA) -> tuple[Any, Any]:
    """Where one client's steps lead, and the optimiser's state there."""
    theta, kept = fc.tensor(theta.numpy().copy()), fc.tensor(np.empty(0, np.float32))
    for x, y in zip(X[:, lane], Y[:, lane], strict=True):
        theta, kept, state, *_ = step(theta, kept, state, x, y, np.ones(6, np.float32), KEY, 0.1)
    return theta, state


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_without_options_steps_are_those_of_the_optimizer_bit_for_bit(optimizer: Any) -> None:
    # Zeros of both signs, which a careless sum would make one.
    zeros = np.where(np.arange(D) % 3 == 0, np.float32(-0.0), THETA.numpy())
    steered = Steered(optimizer)
    for start in (THETA, fc.tensor(zeros)):
        plain, own = walk(program(optimizer), optimizer.init(start), theta=start)
        found, state = walk(program(steered), steered.init(start), theta=start)
        assert bits(found) == bits(plain)
        assert [bits(a) for a in state[: len(own)]] == [bits(a) for a in own]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_a_negative_zero_stays_one_under_a_gradient_of_zero(optimizer: Any) -> None:
    steered, theta = Steered(optimizer), fc.tensor(np.float32([-0.0, 0.0, 1.0]))
    for zero in (0.0, -0.0):
        gradient = fc.tensor(np.full(3, zero, np.float32))
        plain, _ = optimizer.step(theta, gradient, optimizer.init(theta), lr=0.1)
        found, _ = steered.step(theta, gradient, steered.init(theta), lr=0.1)
        assert bits(found) == bits(plain)


def options() -> dict[str, Any]:
    return {
        "correction": DRAW.standard_normal(D).astype(np.float32),
        "anchor": DRAW.standard_normal(D).astype(np.float32),
        "pull": 0.25,
        "frozen": DRAW.random(D) < 0.3,
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_gradients_have_correction_and_pull_added_and_what_is_frozen_stays(optimizer: Any) -> None:
    given, steered = options(), Steered(optimizer)
    theta = before = fc.tensor(DRAW.standard_normal(D).astype(np.float32))
    state, own = steered.init(theta, **given), optimizer.init(theta)
    for _ in range(2):
        gradient = fc.tensor(DRAW.standard_normal(D).astype(np.float32))
        added = given["correction"] + 0.25 * (theta.numpy() - given["anchor"])
        expected, own = optimizer.step(theta, gradient + fc.tensor(added), own, lr=0.1)
        theta, state = steered.step(theta, gradient, state, lr=0.1)
        free = ~given["frozen"]
        np.testing.assert_allclose(theta.numpy()[free], expected.numpy()[free], rtol=2e-5)
        assert np.array_equal(theta.numpy()[~free], before.numpy()[~free])


def test_plain_sgd_still_never_writes_the_gradient_down() -> None:
    for optimizer, factored in ((OPTIMIZERS[0], True), (OPTIMIZERS[2], False)):
        step = program(Steered(optimizer))
        walk(step, Steered(optimizer).init(THETA))
        assert (" add_scaled(" in str(step.programs[0])) == factored


def test_one_program_serves_clients_with_and_without_steering() -> None:
    steered = Steered(optim.SGD(lr=0.1))
    step = program(steered)
    alone, _ = walk(step, steered.init(THETA))
    walk(step, steered.init(THETA, **options()))
    again, _ = walk(step, steered.init(THETA))
    assert len(step.programs) == 1
    assert bits(alone) == bits(again)


@pytest.mark.parametrize("optimizer", [OPTIMIZERS[0], OPTIMIZERS[3]], ids=repr)
def test_each_lane_is_steered_by_its_own_state(optimizer: Any) -> None:
    steered = Steered(optimizer)
    states = [
        steered.init(THETA),
        steered.init(THETA, **options()),
        steered.init(THETA, anchor=THETA, pull=2.0),
    ]
    lanes = fc.vmap(
        train_step(REBUILD, loss=nn.mse, optimizer=steered), in_axes=(0, 0, 0, 0, 0, None, None, 0)
    )
    together = compile(lanes, donate=(0, 2))
    theta, kept = fc.stack([THETA] * LANES), fc.tensor(np.empty((LANES, 0), np.float32))
    moments = tuple(fc.stack(list(parts)) for parts in zip(*states, strict=True))
    rates = np.full(LANES, 0.1, np.float32)
    for x, y in zip(X, Y, strict=True):
        theta, kept, moments, *_ = together(
            theta, kept, moments, x, y, np.ones(6, np.float32), KEY, rates
        )
    for lane, state in enumerate(states):
        alone, _ = walk(program(steered), state, lane)
        np.testing.assert_array_equal(theta.numpy()[lane], alone.numpy())


def test_a_pull_to_the_beginning_is_the_federations_fedprox() -> None:
    for optimizer in OPTIMIZERS[2:]:
        proximal, steered = Proximal(optimizer, 0.5), Steered(optimizer)
        expected, _ = walk(program(proximal), proximal.init(THETA))
        found, _ = walk(program(steered), steered.init(THETA, anchor=THETA, pull=0.5))
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_a_compiled_step_leaves_what_a_state_was_made_of_as_it_was() -> None:
    given, theta = options(), THETA.numpy().copy()
    given["anchor"] = theta
    kept = {name: np.copy(value) for name, value in given.items()}
    step, steered = program(Steered(optim.Adam(lr=0.1))), Steered(optim.Adam(lr=0.1))
    walk(step, steered.init(fc.tensor(theta), **given), theta=fc.tensor(theta))
    assert all(np.array_equal(given[name], value) for name, value in kept.items())


def test_without_a_pull_the_anchor_may_be_anything() -> None:
    steered = Steered(optim.Adam(lr=0.1))
    far = np.full(D, np.inf, np.float32)
    with np.errstate(invalid="ignore"):
        found, _ = walk(program(steered), steered.init(THETA, anchor=far))
    expected, _ = walk(program(steered), steered.init(THETA))
    assert bits(found) == bits(expected)
