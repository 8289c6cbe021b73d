"""Each algorithm against a case worked by hand and against its paper, written as a plain loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fedcore as fc
from fedcore import nn
from fedcore.errors import TaskError
from fedsim.algorithms import ALGORITHMS, AlgorithmChoice, Turnout
from fedsim.algorithms.ditto import Ditto
from fedsim.algorithms.fedavg import FedAvg
from fedsim.algorithms.fedbuff import FedBuff
from fedsim.algorithms.feddyn import FedDyn
from fedsim.algorithms.fednova import FedNova
from fedsim.algorithms.fedper import FedPer
from fedsim.algorithms.fedprox import FedProx
from fedsim.algorithms.qfedavg import QFedAvg
from fedsim.algorithms.scaffold import Scaffold
from fedsim.clock import StalenessSpec
from fedsim.modes.studies import mean_of_rows
from tests.sim.algorithms.quadratics import COHORTS, Client, QuadraticLocal, population, simulate

PEOPLE, LR, D = population(), 0.1, 4
CLOSE: Any = {"rtol": 2e-5, "atol": 2e-6}  # float32 against float64, over a few rounds


def shares(cohort: Any) -> Any:
    examples = np.array([PEOPLE[i].examples for i in cohort], np.float64)
    return examples / examples.sum()


def descend(i: int, theta: Any, slope: Any = lambda theta: 0.0) -> Any:
    """Client i's steps from theta, with something added to its gradients."""
    for _ in range(PEOPLE[i].steps):
        theta = theta - LR * (PEOPLE[i].gradient(theta) + slope(theta))
    return theta


# Federated averaging and FedProx


def test_fedavg_is_the_mean_of_the_clients_models_by_their_examples():
    theta = np.zeros(D)
    for cohort, found in zip(COHORTS, simulate(FedAvg(), PEOPLE, COHORTS)[0], strict=True):
        theta = shares(cohort) @ [descend(i, theta) for i in cohort]
        assert_allclose(found, theta, **CLOSE)


def test_fedavg_scales_the_step_by_lr():
    theta, mean = np.float32([1.0, 2.0]), np.float32([0.5, -0.25])
    after, _ = FedAvg(lr=0.5).apply(theta, mean, {}, Turnout(0, 1, 1))
    assert after.tolist() == [1.25, 1.875]


def test_fedprox_holds_clients_near_the_model_that_they_were_sent():
    theta, rule = np.zeros(D), FedProx(mu=0.7)
    for cohort, found in zip(COHORTS, simulate(rule, PEOPLE, COHORTS)[0], strict=True):
        ends = [descend(i, theta, lambda now, at=theta: 0.7 * (now - at)) for i in cohort]
        theta = shares(cohort) @ ends
        assert_allclose(found, theta, **CLOSE)


# SCAFFOLD


def test_scaffold_sends_what_its_paper_says_of_one_client_in_one_dimension():
    # F = (θ - 1)²/2 from θ = 0, c = 0.5, c_i = 0.25, two steps of 0.5: gradients have 0.25 added.
    # y: 0 → -0.5·(-1 + 0.25) = 0.375 → 0.375 - 0.5·(-0.625 + 0.25) = 0.5625.
    # c_i⁺ = 0.25 - 0.5 + (0 - 0.5625)/(2·0.5) = -0.8125, the mean of the gradients -1 and -0.625.
    local = QuadraticLocal(
        Client(a=np.float32([1]), b=np.float32([1]), steps=2),
        np.float32([0]),
        0.5,
        {"control": np.float32([0.5])},
        {"control": np.float32([0.25])},
    )
    sent = Scaffold().client(local)
    assert sent.vector.tolist() == [0.5625, -1.0625]
    assert sent.state["control"].tolist() == [-0.8125]


def test_scaffolds_server_moves_its_control_by_the_part_of_clients_that_report():
    mean, state = np.float32([2.0, -4.0]), {"control": np.float32([1.0])}
    theta, after = Scaffold(lr=0.5).apply(np.float32([1.0]), mean, state, Turnout(0, 2, 8))
    assert theta.tolist() == [2.0]
    assert after["control"].tolist() == [0.0]


def test_scaffold_is_its_papers_loop_under_partial_participation():
    x, c, own = np.zeros(D), np.zeros(D), np.zeros((len(PEOPLE), D))
    models, server, states = simulate(Scaffold(lr=0.8), PEOPLE, COHORTS)
    for cohort, found in zip(COHORTS, models, strict=True):
        moved, changed = [], []
        for i in cohort:
            y = descend(i, x, lambda _, i=i, c=c: c - own[i])
            after = own[i] - c + (x - y) / (PEOPLE[i].steps * LR)
            moved.append(y - x)
            changed.append(after - own[i])
            own[i] = after
        x = x + 0.8 * np.mean(moved, axis=0)
        c = c + len(cohort) / len(PEOPLE) * np.mean(changed, axis=0)
        assert_allclose(found, x, **CLOSE)
    assert_allclose(server["control"], c, **CLOSE)
    assert_allclose(server["control"], own.mean(axis=0), rtol=1e-5, atol=1e-5)  # the invariant
    assert_allclose([states[i]["control"] for i in range(len(PEOPLE))], own, **CLOSE)


def minimum() -> Any:
    """Of the mean of all clients' losses, each counted once."""
    a, b = np.array([p.a for p in PEOPLE]), np.array([p.b for p in PEOPLE])
    return (a * b).sum(axis=0) / a.sum(axis=0)


@pytest.mark.slow
def test_scaffold_and_feddyn_reach_the_minimum_that_fedavg_misses():
    everybody = [range(len(PEOPLE))] * 400
    for rule, near in ((Scaffold(), True), (FedDyn(alpha=1.0), True), (FedAvg(), False)):
        last = simulate(rule, PEOPLE, everybody)[0][-1]
        assert (np.abs(last - minimum()).max() < 1e-4) == near, rule


def test_a_rate_of_zero_changes_nothing_of_what_scaffold_knows():
    local = QuadraticLocal(
        PEOPLE[0],
        np.ones(D, np.float32),
        0.0,
        {"control": np.ones(D, np.float32)},
        {"control": np.full(D, 2, np.float32)},
    )
    sent = Scaffold().client(local)
    assert not sent.vector.any()
    assert sent.state["control"].tolist() == [2.0] * D


# FedNova


def test_fednova_takes_the_mean_direction_for_the_mean_of_steps():
    # Changes 4 in 2 steps and 3 in 1 step, of 3 and 1 examples: directions 2 and 3, mean 2.25;
    # τ_eff = 3/4·2 + 1/4·1 = 1.75.
    mean = np.average([[2.0, 2.0], [3.0, 1.0]], axis=0, weights=[3, 1]).astype(np.float32)
    theta, _ = FedNova().apply(np.float32([1.0]), mean, {}, Turnout(0, 2, 2))
    assert theta.tolist() == [1.0 + 1.75 * 2.25]


def test_fednova_is_its_papers_loop():
    theta, rule = np.zeros(D), FedNova(lr=0.9)
    for cohort, found in zip(COHORTS, simulate(rule, PEOPLE, COHORTS)[0], strict=True):
        p, steps = shares(cohort), np.array([PEOPLE[i].steps for i in cohort])
        directions = [(theta - descend(i, theta)) / PEOPLE[i].steps for i in cohort]
        theta = theta - 0.9 * (p @ steps) * (p @ directions)
        assert_allclose(found, theta, **CLOSE)


def test_fednova_is_fedavg_where_all_take_as_many_steps():
    people = [Client(a=p.a, b=p.b, steps=3, examples=p.examples) for p in PEOPLE]
    averaged, normalised = (simulate(rule, people, COHORTS)[0] for rule in (FedAvg(), FedNova()))
    assert_allclose(normalised, averaged, **CLOSE)


# FedDyn


def test_feddyn_moves_as_its_paper_says_in_one_dimension():
    # h = 1 - 0.5·2/4·2 = 0.5; θ = 1 + 2 - 0.5/0.5 = 2.
    rule, state = FedDyn(alpha=0.5), {"h": np.float32([1.0])}
    theta, after = rule.apply(np.float32([1.0]), np.float32([2.0]), state, Turnout(0, 2, 4))
    assert after["h"].tolist() == [0.5]
    assert theta.tolist() == [2.0]


def test_feddyn_is_its_papers_loop_under_partial_participation():
    theta, h, own, alpha = np.zeros(D), np.zeros(D), np.zeros((len(PEOPLE), D)), 0.3
    models, server, states = simulate(FedDyn(alpha=alpha), PEOPLE, COHORTS)
    for cohort, found in zip(COHORTS, models, strict=True):
        ends = []
        for i in cohort:
            end = descend(i, theta, lambda now, i=i, at=theta: alpha * (now - at) - own[i])
            own[i] -= alpha * (end - theta)
            ends.append(end)
        h = h - alpha / len(PEOPLE) * np.sum(np.subtract(ends, theta), axis=0)
        theta = np.mean(ends, axis=0) - h / alpha
        assert_allclose(found, theta, rtol=1e-4, atol=1e-5)  # divided by alpha, round by round
    assert_allclose(server["h"], h, **CLOSE)
    assert_allclose([states[i]["gradient"] for i in range(len(PEOPLE))], own, **CLOSE)


# q-FedAvg


def test_qfedavg_weighs_a_client_by_its_loss_as_its_paper_says():
    # F = (θ - 2)²/2 at θ = 0 is 2; one step of 0.5 leads to 1, so that L = 2 and Δw = -2.
    # q = 2: Δ = 4·(-2) = -8, h = 2·2·4 + 2·4 = 24; sent divided by -2 and 2.
    local = QuadraticLocal(Client(a=np.float32([1]), b=np.float32([2])), np.float32([0]), 0.5)
    assert QFedAvg(q=2.0).client(local).vector.tolist() == [4.0, 12.0]


@pytest.mark.parametrize("q", [0.5, 1.0, 3.0])
def test_qfedavg_is_its_papers_loop(q):
    theta = np.zeros(D)
    for cohort, found in zip(COHORTS, simulate(QFedAvg(q=q), PEOPLE, COHORTS)[0], strict=True):
        top, bottom = 0.0, 0.0
        for i, p in zip(cohort, shares(cohort), strict=True):
            loss, step = PEOPLE[i].loss(theta), (theta - descend(i, theta)) / LR
            top = top + p * loss**q * step
            bottom += p * (q * loss ** (q - 1) * (step @ step) + loss**q / LR)
        theta = theta - top / bottom
        assert_allclose(found, theta, **CLOSE)


def test_qfedavg_with_q_0_is_fedavg():
    averaged, fair = (simulate(rule, PEOPLE, COHORTS)[0] for rule in (FedAvg(), QFedAvg(q=0.0)))
    assert_allclose(fair, averaged, **CLOSE)


def test_qfedavg_evens_the_losses_out():
    people = [Client(a=1.0, b=np.float32([b])) for b in (0.0, 0.0, 0.0, 1.0)]
    ends = [simulate(rule, people, [range(4)] * 300)[0][-1] for rule in (FedAvg(), QFedAvg(q=2.0))]
    worst = [max(p.loss(theta) for p in people) for theta in ends]
    assert worst[1] < 0.7 * worst[0]


def test_qfedavg_stays_where_no_client_has_a_loss():
    people = [Client(a=1.0, b=np.zeros(1, np.float32))] * 2
    assert simulate(QFedAvg(q=10.0), people, [(0, 1)])[0][0].tolist() == [0.0]


# Models of one's own


def test_ditto_trains_the_shared_model_as_fedavg_does():
    averaged, tied = (simulate(rule, PEOPLE, COHORTS)[0] for rule in (FedAvg(), Ditto()))
    assert np.array_equal(tied, averaged)


def test_ditto_is_its_papers_loop_for_the_models_of_clients():
    rule, theta, own = Ditto(lam=0.6), np.zeros(D), {}
    models, _, states = simulate(rule, PEOPLE, COHORTS)
    for cohort, found in zip(COHORTS, models, strict=True):
        for i in cohort:
            pulled = lambda now, at=theta: 0.6 * (now - at)  # noqa: E731
            own[i] = descend(i, own.get(i, theta), pulled)
        theta = found
    for i, expected in own.items():
        assert_allclose(rule.personal(theta, states[i]), expected, **CLOSE)


def test_dittos_second_training_draws_streams_of_its_own():
    local = QuadraticLocal(PEOPLE[0], np.zeros(D, np.float32), LR)
    Ditto().client(local)
    assert local.purposes == ["", "personal"]


def test_a_client_that_never_took_part_uses_the_shared_model():
    theta = np.ones(D, np.float32)
    for rule in (Ditto(), FedPer(head=np.arange(D) < 2), FedAvg()):
        assert rule.personal(theta, {}).tolist() == theta.tolist()


HEAD = np.array([False, True, False, True])


def test_fedper_averages_the_base_and_leaves_each_head_with_its_client():
    rule, theta = FedPer(head=HEAD), np.zeros(D)
    heads = {i: theta[HEAD] for i in range(len(PEOPLE))}
    models, _, states = simulate(rule, PEOPLE, COHORTS)
    for cohort, found in zip(COHORTS, models, strict=True):
        ends = []
        for i in cohort:
            start = theta.copy()
            start[HEAD] = heads[i]
            ends.append(descend(i, start))
            heads[i] = ends[-1][HEAD]
        theta = np.where(HEAD, theta, shares(cohort) @ ends)
        assert_allclose(found, theta, **CLOSE)
    for i, head in heads.items():
        own = rule.personal(models[-1], states[i])
        assert_allclose(own[HEAD], head, **CLOSE)
        assert np.array_equal(own[~HEAD], models[-1][~HEAD])


# Buffers


def test_fedbuff_discounts_by_age_and_divides_by_the_size_of_the_buffer():
    # Ages 0 and 3 count 1 and 1/2: (1·2 + 1/2·4)/2 = 2, at a rate of 1/2.
    rule, by_age = FedBuff(lr=0.5), StalenessSpec(name="polynomial")
    weights = [by_age.weight(age) for age in (0, 3)]
    mean = mean_of_rows(np.float32([[2.0], [4.0]]), weights)
    assert rule.apply(np.float32([1.0]), mean, {}, Turnout(0, 2, 9))[0].tolist() == [2.0]
    assert not rule.weighted


# Choices

LAYOUT = fc.ravel(
    nn.Sequential(nn.Linear(3, 2, key=0), nn.relu, nn.Linear(2, 2, key=1), nn.Linear(2, 1, key=2))
)[1].spec


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_choice_comes_back_from_what_it_writes_and_makes_its_algorithm(name):
    choice = AlgorithmChoice.read({"name": name}, "algorithm")
    assert AlgorithmChoice.read(choice.write(), "algorithm") == choice
    algorithm = choice.make(LAYOUT)
    sent = algorithm.client(
        QuadraticLocal(
            Client(a=1.0, b=np.ones(LAYOUT.size, np.float32)),
            theta := np.zeros(LAYOUT.size, np.float32),
            LR,
            algorithm.sent(theta, algorithm.start(LAYOUT.size)),
        )
    )
    assert sent.vector.shape == (algorithm.length(LAYOUT.size),)
    assert bool(sent.state) == algorithm.stateful


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ({"name": "scafold"}, "algorithm.name"),
        ({"name": "fedprox", "mu": -1.0}, "algorithm.mu"),
        ({"name": "fedprox", "nu": 1.0}, "algorithm.nu"),
        ({"name": "feddyn", "alpha": 0.0}, "algorithm.alpha"),
        ({"name": "qfedavg", "q": "one"}, "algorithm.q"),
        ({"name": "scaffold", "lr": 0.0}, "algorithm.lr"),
        ({"name": "fedper", "layers": 0}, "algorithm.layers"),
        ({"lr": 1.0}, "algorithm"),
    ],
)
def test_a_choice_that_is_none_is_refused_with_its_place(text, place):
    with pytest.raises(TaskError) as refused:
        AlgorithmChoice.read(text, "algorithm")
    assert refused.value.where == place


def test_an_option_out_of_range_is_refused_by_the_algorithm_itself():
    with pytest.raises(TaskError, match="alpha = -1"):
        FedDyn(alpha=-1.0)


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, ["3.weight", "3.bias"]),
        ({"layers": 2}, ["2.weight", "2.bias", "3.weight", "3.bias"]),
        ({"names": ["0", "3.bias"]}, ["0.weight", "0.bias", "3.bias"]),
    ],
)
def test_a_head_is_named_or_counted_from_the_end(options, paths):
    prefix = LAYOUT.entries[0].path.removesuffix("0.weight")
    if "names" in options:
        options = {"names": [prefix + name for name in options["names"]]}
    choice = AlgorithmChoice.read({"name": "fedper", **options}, "algorithm")
    head = choice.make(LAYOUT).head
    chosen = [entry.path for entry in LAYOUT if head[entry.offset]]
    assert chosen == [prefix + path for path in paths]
    assert head.sum() == sum(LAYOUT[path].size for path in chosen)


@pytest.mark.parametrize("options", [{"layers": 3}, {"names": ["nowhere"]}])
def test_a_head_that_is_no_part_of_the_model_is_refused(options):
    choice = AlgorithmChoice.read({"name": "fedper", **options}, "algorithm")
    with pytest.raises(TaskError) as refused:
        choice.make(LAYOUT)
    assert refused.value.fix
