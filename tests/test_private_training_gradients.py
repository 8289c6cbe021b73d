"""Sums of records: each clipped by itself, and one that cannot be computed is as one that is not.

A record's integers depend on that record alone, whatever it holds and beside whom it stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fedcore import nn
from fedcore.autograd.ravel import ravel
from fedcore.errors import ArgumentError, FedcoreError, PlanError, ShapeError
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.quantise import quantise
from fedcore.privacy.values import squared_norm
from fedcore.private_training import RecordGradients
from fedcore.tensor.ops.elementwise import sqrt
from fedcore.tensor.random import Key
from tests.private_terms import examples, linear, planned
from tests.random_examples import thorough
from tests.variants import mostly_slow


def conv() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, key=Key(0, "a")), nn.relu, nn.flatten, nn.Linear(64, 3, key=Key(1, "b"))
    )


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (linear, (5,)),
    "two layers": (
        lambda: nn.Sequential(
            nn.Linear(50, 17, key=Key(0, "a")), nn.relu, nn.Linear(17, 3, key=Key(1, "b"))
        ),
        (50,),
    ),
    "convolution": (conv, (6, 6, 1)),
    "normalised": (
        lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3, key=Key(0, "a"))),
        (5,),
    ),
}


def sums(
    name: str, *, grade: Grade = Grade.EXACT, chunk: int | None = None, loss: Any = nn.cross_entropy
) -> tuple[Any, NDArray[np.float32], PrivacyPlan]:
    """What adds up gradients of a model, and where."""
    theta, rebuild = ravel(MODELS[name][0]())
    plan = planned(dimension=theta.size, grade=grade)
    gradients = RecordGradients(rebuild, loss=loss, plan=plan, chunk=chunk)
    moved = np.random.default_rng(5).normal(size=theta.size).astype(np.float32)

    def total(x: Any, y: Any) -> NDArray[np.int64]:
        found = gradients.total(moved, x, y, key=Key(0, "forward"))
        vector: NDArray[np.int64] = found.vector
        return vector

    return total, moved, plan


@pytest.mark.parametrize(
    "name", mostly_slow(["two layers", "convolution", "linear", "normalised"], quick=2)
)
def test_an_exact_sum_has_the_same_bits_in_every_order_and_for_every_chunk(name: str) -> None:
    """A record's integers depend on that record alone; else removing it would change others'."""
    data = examples(37, MODELS[name][1])
    reference, _, plan = sums(name, chunk=8)
    whole = reference(data.x, data.y)
    one_by_one = sum(reference(data.x[i : i + 1], data.y[i : i + 1]) for i in range(37))
    assert whole.any() and np.array_equal(whole, one_by_one)
    for chunk in (None, 1, 2, 3, 7, 16, 31, 37, 64):
        total, _, _ = sums(name, chunk=chunk)
        assert np.array_equal(total(data.x, data.y), whole), chunk
    order = np.random.default_rng(1).permutation(37)
    assert np.array_equal(reference(data.x[order], data.y[order]), whole)
    for start in range(0, 37, 5):  # each neighbour, by what it lacks
        rest = np.delete(np.arange(37), start)
        assert squared_norm(whole - reference(data.x[rest], data.y[rest])) <= plan.grid**2


@pytest.mark.parametrize("grade", list(Grade))
def test_a_sum_of_gradients_is_that_of_a_loop_over_the_formula(grade: Grade) -> None:
    """Softmax regression, by hand in float64: (p - y) x and p - y, each clipped."""
    data = examples(23)
    total, theta, plan = sums("linear", grade=grade, chunk=8)
    weight, bias = theta[:15].reshape(5, 3).astype(np.float64), theta[15:].astype(np.float64)
    expected = np.zeros(18)
    for x, y in zip(data.x.astype(np.float64), data.y, strict=True):
        error = np.exp(x @ weight + bias)
        error /= error.sum()
        error[y] -= 1
        gradient = np.concatenate([np.outer(x, error).reshape(-1), error])
        expected += quantise(gradient, clipping_norm=0.5, grid_steps=plan.grid).vector
    assert np.abs(total(data.x, data.y) - expected).max() < 23 * 2e-6 * plan.grid


@pytest.mark.parametrize("grade", list(Grade))
def test_rows_that_fill_up_a_chunk_contribute_nothing(grade: Grade) -> None:
    """Even where zeros have no gradient: the root of the score has an infinite one at 0."""

    def rooted(prediction: Any, target: Any, *, weight: Any) -> Any:
        return (sqrt((prediction * prediction).sum()) * weight).sum()

    theta, rebuild = ravel(nn.Linear(5, 3, bias=False, key=Key(0, "a")))
    data = examples(5)
    found = []
    for chunk in (5, 8):
        plan = planned(dimension=15, grade=grade)
        gradients = RecordGradients(rebuild, loss=rooted, plan=plan, chunk=chunk)
        found.append(gradients.total(theta.numpy(), data.x, data.y, key=Key(0, "forward")).vector)
    assert found[0].any() and np.abs(found[0] - found[1]).max() <= (
        0 if grade is Grade.EXACT else 1
    )


def test_no_examples_make_a_sum_of_zeros() -> None:
    for grade in Grade:
        total, _, _ = sums("linear", grade=grade)
        assert not total(np.zeros((0, 5), np.float32), np.zeros(0, np.int64)).any()


@settings(max_examples=thorough(25))
@given(
    st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e38, 1e-40, 0.0]), max_size=5),
    st.sampled_from(list(Grade)),
    st.integers(0, 20),
)
def test_a_record_that_holds_anything_moves_a_sum_no_further_than_declared(
    odd: list[float], grade: Grade, place: int
) -> None:
    total, _, plan = sums("two layers", grade=grade, chunk=8)
    data = examples(20, (50,))
    record = np.random.default_rng(place).normal(size=(1, 50)).astype(np.float32)
    record[0, : len(odd)] = odd
    x = np.insert(data.x, place, record, axis=0)
    y = np.insert(data.y, place, 0)
    moved = total(x, y) - total(data.x, data.y)
    assert squared_norm(moved) <= plan.squared_sensitivity
    if not np.isfinite(odd).all():
        assert np.abs(moved).max() <= (0 if grade is Grade.EXACT else 1)


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True])
def test_a_chunk_is_a_number_of_examples(chunk: Any) -> None:
    with pytest.raises(ArgumentError):
        sums("linear", chunk=chunk)


# Records that cannot be computed


def tokens() -> Any:
    return nn.Sequential(nn.Embedding(7, 4, key=Key(0, "a")), nn.flatten, nn.Linear(4, 3, key=1))


def binary() -> Any:
    return nn.Sequential(nn.Linear(5, 1, key=Key(0, "a")), lambda y: y[..., 0])


def inputs(count: int) -> NDArray[np.float64]:
    return np.random.default_rng(count).normal(size=(count, 5))


# What makes a record one that cannot be computed: model, loss, and data in which one is to be set.
BAD: dict[str, tuple[Any, Any, Any, Any, Any]] = {
    "a label below the classes": (linear, nn.cross_entropy, inputs, int, ("y", -1)),
    "a label past the classes": (linear, nn.cross_entropy, inputs, int, ("y", 3)),
    "a label far off": (linear, nn.nll, inputs, np.int32, ("y", 2**31 - 1)),
    "a target that is no probability": (
        binary,
        nn.binary_cross_entropy_with_logits,
        inputs,
        float,
        ("y", 7.0),
    ),
    "a target of NaN": (binary, nn.binary_cross_entropy_with_logits, inputs, float, ("y", np.nan)),
    "a token that is none": (
        tokens,
        nn.cross_entropy,
        lambda count: np.arange(count).reshape(count, 1) % 7,
        int,
        ("x", 7),
    ),
    "an input of NaN": (linear, nn.cross_entropy, inputs, int, ("x", np.nan)),
    "an input beyond float32": (linear, nn.cross_entropy, inputs, int, ("x", 1e300)),
}


@pytest.mark.parametrize("grade", list(Grade))
@pytest.mark.parametrize("chunk", mostly_slow([8, 2, 64]))
@pytest.mark.parametrize("case", BAD)
def test_a_record_that_cannot_be_computed_adds_what_no_record_does(
    case: str, chunk: int, grade: Grade
) -> None:
    """Warnings are errors here: none may tell of it either (float64 data narrowed to float32)."""
    make, loss, inputs_of, kind, (part, value) = BAD[case]
    theta, rebuild = ravel(make())
    plan = planned(dimension=theta.size, grade=grade)
    gradients = RecordGradients(rebuild, loss=loss, plan=plan, chunk=chunk)
    x, y = inputs_of(20), (np.arange(20) % 2).astype(kind)

    def total(rows: Any, **changed: Any) -> NDArray[np.int64]:
        given = {"x": x, "y": y} | changed
        found = gradients.total(theta.numpy(), given["x"][rows], given["y"][rows], key=Key(0, "f"))
        vector: NDArray[np.int64] = found.vector
        return vector

    bad = np.array([0, 3, 4, 17])
    spoilt = (x if part == "x" else y).copy()
    spoilt[bad] = value
    without = total(np.setdiff1d(np.arange(20), bad))
    beside = total(np.arange(20), **{part: spoilt})
    assert without.any()
    # in the other grade the order of additions differs, and is declared
    assert np.abs(beside - without).max() <= (0 if grade is Grade.EXACT else 1)
    assert not total(bad, **{part: spoilt}).any()


def test_a_bad_record_does_not_decide_what_its_neighbours_add() -> None:
    data = examples(37)
    reference, _, _ = sums("linear", chunk=8)
    whole = reference(data.x, data.y)
    for place in range(0, 37, 3):
        y = np.insert(data.y, place, 99)
        assert np.array_equal(reference(np.insert(data.x, place, 1.0, axis=0), y), whole)


def test_a_gradient_in_float64_has_the_same_bits_wherever_its_record_stands() -> None:
    """Seen by sums in which all others are zeros, for they hold NaN."""
    data = examples(24, (50,))
    total, _, _ = sums("two layers", grade=Grade.SUM, chunk=8)
    alone = total(data.x[:1], data.y[:1])
    for place in range(24):
        x = np.full_like(data.x, np.nan)
        x[place] = data.x[0]
        assert np.array_equal(total(x, np.full(24, data.y[0])), alone), place


SECRETS = ("98765", "43210", "12345")


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.full((12345, 4), 98765.0), np.full(12345, 43210)),  # another width than the model's
        (np.full((12345, 5), 98765.0), np.full((12345, 2), 43210)),
        (np.full((12345, 5), 98765.0), np.full(12345, 43210.0)),
        (np.full((12345, 5), 98765), np.full(12345, 43210)),
        (np.full((12345, 5), "98765"), np.full(12345, 43210)),
        (np.full((12345, 5), 98765.0), np.full(12344, 43210)),
    ],
)
def test_an_error_tells_of_shapes_and_never_of_what_records_hold(x: Any, y: Any) -> None:
    theta, rebuild = ravel(linear())
    gradients = RecordGradients(rebuild, loss=nn.cross_entropy, plan=planned())
    with pytest.raises((FedcoreError, TypeError)) as found:
        gradients.total(theta.numpy(), x, y, key=Key(0, "f"))
    assert not any(secret in str(found.value) for secret in SECRETS)


def test_parameters_of_another_length_are_refused_and_not_taken_for_bad_records() -> None:
    theta, rebuild = ravel(linear())
    gradients = RecordGradients(rebuild, loss=nn.cross_entropy, plan=planned())
    data = examples(3)
    with pytest.raises(ShapeError):
        gradients.total(theta.numpy()[:-1], data.x, data.y, key=Key(0, "f"))


def test_lack_of_memory_is_not_taken_for_a_bad_record(monkeypatch: pytest.MonkeyPatch) -> None:
    theta, rebuild = ravel(linear())
    gradients = RecordGradients(rebuild, loss=nn.cross_entropy, plan=planned())
    data = examples(3)
    gradients.rehearse(data.x, data.y)

    def exhausted(*args: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(gradients, "_run", exhausted)
    with pytest.raises(MemoryError):
        gradients.total(theta.numpy(), data.x, data.y, key=Key(0, "f"))


# Grade.SUM, for what it is declared for


SEVERAL_ROWS: dict[str, Any] = {
    "a dense layer over a sequence": (
        lambda: nn.Sequential(nn.Linear(50, 40, key=0), nn.flatten, nn.Linear(160, 3, key=1)),
        np.zeros((2, 4, 50), np.float32),
    ),
    "an embedding of several tokens": (
        lambda: nn.Sequential(nn.Embedding(100, 8, key=0), nn.flatten, nn.Linear(40, 3, key=1)),
        np.zeros((2, 5), np.int64),
    ),
    "a recurrence": (
        lambda: nn.Sequential(nn.LSTM(30, 40, key=0), nn.last_step, nn.Linear(40, 3, key=1)),
        np.zeros((2, 3, 30), np.float32),
    ),
    "one layer that is used twice": (
        lambda: (lambda layer: nn.Sequential(Twice(layer), nn.Linear(40, 3, key=1)))(
            nn.Linear(40, 40, key=0)
        ),
        np.zeros((2, 40), np.float32),
    ),
}


class Twice(nn.Module):
    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def forward(self, x: Any, ctx: Any) -> Any:
        return self.layer(self.layer(x, ctx=ctx), ctx=ctx)


@pytest.mark.parametrize("case", SEVERAL_ROWS)
def test_the_sum_grade_is_refused_where_a_weight_meets_several_rows(case: str) -> None:
    make, x = SEVERAL_ROWS[case]
    theta, rebuild = ravel(make())
    y = np.zeros(2, np.int64)
    for grade in Grade:
        plan = planned(dimension=theta.size, grade=grade)
        gradients = RecordGradients(rebuild, loss=nn.cross_entropy, plan=plan)
        if grade is Grade.EXACT:
            assert gradients.total(theta.numpy(), x, y, key=Key(0, "f")).vector.any()
            continue
        with pytest.raises(PlanError) as found:
            gradients.rehearse(x, y)
        assert "Grade.EXACT" in found.value.fix


def test_the_sum_grade_takes_convolutions_and_layers_on_one_row() -> None:
    for name, (_, shape) in MODELS.items():
        total, _, _ = sums(name, grade=Grade.SUM)
        assert total(np.ones((3, *shape), np.float32), np.zeros(3, np.int64)).any(), name
