"""Each algorithm against a case worked by hand, and what a server refuses to apply."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore import optim
from fedcore.federated.algorithms.algorithm import RULES
from fedcore.federated.algorithms.fedadagrad import FedAdagrad
from fedcore.federated.algorithms.fedadam import FedAdam
from fedcore.federated.algorithms.fedavg import FedAvg
from fedcore.federated.algorithms.fedavgm import FedAvgM
from fedcore.federated.algorithms.fedprox import FedProx, Proximal
from fedcore.federated.algorithms.fedsgd import FedSGD
from fedcore.federated.algorithms.fedyogi import FedYogi
from fedcore.tensor.tensor import tensor

THETA, DELTA = np.float32([1.0, 2.0]), np.float32([0.5, -0.25])


def run(rule, *deltas, theta=THETA):
    """The models after each of the mean updates."""
    state, found = rule.start(theta.size), []
    for delta in deltas:
        theta, state = rule.apply(theta, np.float32(delta), state)
        assert set(state) == set(rule.keeps)
        found.append(theta)
    return found


def test_fedavg_with_lr_1_is_the_mean_of_the_clients_models():
    clients = np.float32([[1.5, 1.0], [0.5, 5.0]])
    (found,) = run(FedAvg(), (clients - THETA).mean(axis=0))
    assert np.array_equal(found, clients.mean(axis=0))


def test_fedavg_scales_the_step_by_lr():
    assert run(FedAvg(lr=0.5), DELTA)[0].tolist() == [1.25, 1.875]


def test_fedavgm_adds_up_what_agrees():
    # v: 0.5 then 0.5·0.5 + 0.5 = 0.75
    first, second = run(FedAvgM(lr=2.0, momentum=0.5), [0.5], [0.5], theta=np.float32([1.0]))
    assert first.tolist() == [2.0]
    assert second.tolist() == [3.5]


def test_fedsgd_steps_downhill_with_momentum_as_the_optimizer_does():
    rule, own = FedSGD(lr=0.5, momentum=0.5), optim.SGD(lr=0.5, momentum=0.5)
    gradients = [np.float32([1.0, -2.0]), np.float32([0.5, 4.0]), np.float32([0.0, 1.0])]
    found = run(rule, *[-gradient for gradient in gradients])
    theta = tensor(THETA)
    moments = own.init(theta)
    for gradient, model in zip(gradients, found, strict=True):
        theta, moments = own.step(theta, tensor(gradient), moments)
        assert np.array_equal(theta.numpy(), model)


def test_fedadagrad_divides_by_the_root_of_all_squares():
    # v = tau² + Δ²; with tau = 0.5 and Δ = ±1.2: √(0.25 + 1.44) = 1.3, and 1.3 + 0.5 = 1.8.
    found = run(FedAdagrad(lr=1.8, tau=0.5), [1.2, -1.2], [0.0, 0.0])
    np.testing.assert_allclose(found[0], [2.2, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(found[1], found[0])  # beta1 = 0: no memory of the direction


def test_fedadam_follows_the_running_mean_of_squares():
    # m = 0.5·Δ = 1; v = 0.75·tau² + 0.25·Δ² = 0.75·4 + 0.25·4 = 4; step lr·1 / (2 + 2).
    (found,) = run(FedAdam(lr=4.0, beta1=0.5, beta2=0.75, tau=2.0), [2.0, -2.0])
    assert found.tolist() == [2.0, 1.0]


@pytest.mark.parametrize(("delta", "second"), [(1.0, 3.75), (4.0, 8.0)])
def test_fedyogi_moves_the_second_moment_towards_the_square(delta, second):
    # tau² = 4: for Δ² = 1 it falls by 0.25·1, for Δ² = 16 it grows by 0.25·16.
    rule = FedYogi(lr=1.0, beta1=0.0, beta2=0.75, tau=2.0)
    theta, state = rule.apply(np.float32([0.0]), np.float32([delta]), rule.start(1))
    assert state["second"].tolist() == [second]
    np.testing.assert_allclose(theta, delta / (np.sqrt(second) + 2.0), rtol=1e-6)


def test_the_second_moment_starts_at_tau_squared():
    for rule in (FedAdagrad(tau=0.5), FedAdam(tau=0.5), FedYogi(tau=0.5)):
        assert rule.start(2)["second"].tolist() == [0.25, 0.25]


def test_fedprox_pulls_gradients_back_to_where_training_began():
    rule = FedProx(mu=0.5)
    proximal = rule.local(optim.SGD(lr=1.0))
    theta = tensor([4.0])
    state = proximal.init(theta)
    theta, state = proximal.step(theta, tensor([2.0]), state)
    assert theta.tolist() == [2.0]  # at the beginning nothing pulls
    theta, state = proximal.step(theta, tensor([0.0]), state)
    assert theta.tolist() == [3.0]  # 2 - (0 + 0.5·(2 - 4))
    assert state[-1].tolist() == [4.0]


def test_a_proximal_optimizer_keeps_the_state_of_the_one_that_it_wraps():
    own, proximal = optim.Adam(lr=0.1), Proximal(optim.Adam(lr=0.1), 0.0)
    a = b = tensor([1.0, -1.0])
    before, with_beginning = own.init(a), proximal.init(b)
    for _ in range(3):
        a, before = own.step(a, tensor([0.5, 0.25]), before)
        b, with_beginning = proximal.step(b, tensor([0.5, 0.25]), with_beginning)
    assert np.array_equal(a.numpy(), b.numpy())


@given(
    st.sampled_from(sorted(RULES)),
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=5),
)
def test_no_rule_changes_what_it_is_given_or_leaves_float32(name, delta):
    rule = RULES[name]()
    delta = np.float32(delta)
    theta = np.ones_like(delta)
    state = rule.start(delta.size)
    kept = [theta.copy(), delta.copy(), {key: value.copy() for key, value in state.items()}]
    after, new = rule.apply(theta, delta, state)
    assert np.array_equal(theta, kept[0]) and np.array_equal(delta, kept[1])
    assert all(np.array_equal(state[key], kept[2][key]) for key in state)
    assert after.dtype == np.float32 and {a.dtype for a in new.values()} <= {np.dtype(np.float32)}
    assert after.shape == delta.shape and set(new) == set(rule.keeps)
