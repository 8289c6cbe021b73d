"""Random coordinates are right in the mean, add up, and lose nothing where errors are fed back."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ShapeError, TaskError
from fedsim.algorithms import State
from fedsim.algorithms.fednova import FedNova
from fedsim.compression import CompressionChoice
from fedsim.compression.random_k import RandomK, RandomKCode

SEED = 11


def vectors(count: int, length: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, length)).astype(np.float32)


@pytest.mark.parametrize(("dimension", "k"), [(1, 1), (4, 1), (6, 3), (8, 2), (5, 5)])
def test_over_all_choices_of_coordinates_the_mean_is_the_vector(dimension: int, k: int) -> None:
    # Small integers and a scale D/k: with sums of them no rounding comes in.
    vector = np.arange(1, dimension + 1, dtype=np.float32) * k
    codes = [
        RandomKCode(dimension=dimension, chosen=np.array(chosen), scale=dimension / k)
        for chosen in combinations(range(dimension), k)
    ]
    decoded = [code.decode(code.encode(vector, {})[0]) for code in codes]
    assert np.array_equal(np.sum(decoded, axis=0), len(codes) * vector)


@pytest.mark.slow
def test_codes_are_drawn_with_that_scale_and_each_coordinate_as_often() -> None:
    rule, rounds, dimension = RandomK(fraction=0.3), 4000, 10
    codes = [rule.code(dimension, seed=SEED, round=round) for round in range(rounds)]
    assert {code.scale for code in codes} == {10 / 3}
    counts = np.bincount(np.concatenate([code.chosen for code in codes]), minlength=dimension)
    assert counts.sum() == 3 * rounds
    deviation = np.sqrt(rounds * 0.3 * 0.7)
    assert np.abs(counts - 0.3 * rounds).max() < 4.5 * deviation
    pairs = {tuple(code.chosen) for code in codes}
    assert len(pairs) == 120  # every subset of 3 of 10 comes up


@given(
    st.integers(1, 40),
    st.floats(0.01, 1),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_the_mean_of_codes_is_the_code_of_the_mean(
    dimension: int, fraction: float, scalars: int, feedback: bool, seed: int
) -> None:
    rule, clients = RandomK(fraction=fraction, error_feedback=feedback), 5
    code = rule.code(dimension + scalars, scalars=scalars, seed=seed, round=3)
    given_vectors = vectors(clients, dimension + scalars, seed)
    residuals = vectors(clients, dimension, seed + 1)
    states: list[State] = [{"residual": r} for r in residuals] if feedback else [{}] * clients
    sent = [code.encode(v, s)[0] for v, s in zip(given_vectors, states, strict=True)]
    together = code.decode(np.mean(sent, axis=0))
    alone = np.mean([code.decode(s) for s in sent], axis=0)
    assert np.array_equal(together, alone)
    assert {s.shape for s in sent} == {(code.length,)}


@given(st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 3), st.integers(0, 1), st.booleans())
def test_a_code_has_the_length_that_it_promises(
    dimension: int, fraction: float, scalars: int, round: int, feedback: bool
) -> None:
    rule = RandomK(fraction=fraction, error_feedback=feedback)
    code = rule.code(dimension + scalars, scalars=scalars, seed=SEED, round=round)
    k = ceil(Fraction(str(fraction)) * dimension)
    assert code.length == k + scalars
    assert len(np.unique(code.chosen)) == k
    assert code.chosen.min() >= 0 and code.chosen.max() < dimension
    assert code.bytes_saved == 4 * (dimension + scalars) - 4 * code.length


def test_all_clients_of_a_round_draw_the_same_coordinates_and_rounds_others() -> None:
    rule = RandomK(fraction=0.1)
    chosen = [rule.code(200, seed=SEED, round=round).chosen for round in (0, 0, 1)]
    assert np.array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen[0], chosen[2])
    assert not np.array_equal(chosen[0], rule.code(200, seed=SEED + 1, round=0).chosen)


@given(st.integers(1, 30), st.floats(0.01, 1), st.integers(1, 12), st.integers(0, 2**32))
def test_with_error_feedback_nothing_is_lost(
    dimension: int, fraction: float, rounds: int, seed: int
) -> None:
    # Eighths of small integers, so that sums are exact.
    draw = np.random.default_rng(seed)
    given_vectors = np.float32(draw.integers(-99, 99, (rounds, dimension)) / 8)
    rule, state, arrived = RandomK(fraction=fraction, error_feedback=True), {}, 0.0
    for round, vector in enumerate(given_vectors):
        code = rule.code(dimension, seed=seed, round=round)
        sent, state = code.encode(vector, state)
        arrived = arrived + code.decode(sent)
        assert not state["residual"][code.chosen].any()
    assert np.array_equal(arrived + state["residual"], given_vectors.sum(axis=0))


def test_neither_vectors_nor_what_a_client_kept_are_written_to() -> None:
    vector, residual = vectors(2, 20)
    for array in (vector, residual):
        array.setflags(write=False)
    code = RandomK(fraction=0.2, error_feedback=True).code(20, seed=SEED, round=0)
    _, after = code.encode(vector, {"residual": residual})
    first, kept = code.encode(vector, {})
    code.decode(first)
    assert not np.shares_memory(kept["residual"], vector)
    assert not np.shares_memory(after["residual"], residual)


@pytest.mark.parametrize("feedback", [False, True])
def test_numbers_that_belong_to_no_parameter_always_arrive_as_they_are(feedback: bool) -> None:
    rule, scalars = RandomK(fraction=0.1, error_feedback=feedback), FedNova().scalars
    for round in range(20):
        vector = np.append(vectors(1, 30, round)[0], np.float32(17.0))
        code = rule.code(31, scalars=scalars, seed=SEED, round=round)
        sent, _ = code.encode(vector, {})
        assert sent[-1] == 17.0
        assert code.decode(sent)[-1] == 17.0


def test_the_whole_is_sent_as_it_is() -> None:
    code, vector = RandomK(fraction=1.0).code(9, seed=SEED, round=0), vectors(1, 9)[0]
    sent, _ = code.encode(vector, {})
    assert np.array_equal(sent, vector)
    assert code.bytes_saved == 0


def test_gradient_descent_with_error_feedback_comes_to_the_minimum() -> None:
    rule, theta, goal = RandomK(fraction=0.1, error_feedback=True), np.zeros(20), np.arange(20.0)
    state: State = {}
    for round in range(800):
        code = rule.code(20, seed=SEED, round=round)
        sent, state = code.encode(np.float32(0.05 * (goal - theta)), state)
        theta = theta + code.decode(sent)
    np.testing.assert_allclose(theta, goal, atol=1e-2)


def test_vectors_of_another_length_are_refused() -> None:
    code = RandomK(error_feedback=True).code(20, seed=SEED, round=0)
    vector = vectors(1, 20)[0]
    for call in (
        lambda: code.encode(vector[:-1], {}),
        lambda: code.encode(vector, {"residual": vector[:-1]}),
        lambda: code.decode(vector),
    ):
        with pytest.raises(ShapeError):
            call()


def test_a_choice_comes_back_from_what_it_writes_and_makes_its_compression() -> None:
    text = {"name": "random_k", "fraction": 0.1, "error_feedback": True}
    choice = CompressionChoice.read(text, "compression")
    assert choice.write() == text
    assert choice.make() == RandomK(fraction=0.1, error_feedback=True)
    assert choice.make().stateful
    assert not RandomK().stateful


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ({"name": "top_k"}, "compression.name"),
        ({"name": "random_k", "fraction": 0.0}, "compression.fraction"),
        ({"name": "random_k", "fraction": 1.5}, "compression.fraction"),
        ({"name": "random_k", "error_feedback": 1}, "compression.error_feedback"),
        ({"name": "random_k", "seed": 1}, "compression.seed"),
    ],
)
def test_a_choice_that_is_none_is_refused_with_its_place(text: Any, place: str) -> None:
    with pytest.raises(TaskError) as refused:
        CompressionChoice.read(text, "compression")
    assert refused.value.where == place
