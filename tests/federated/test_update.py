"""What a client reports adds up: exactly, in any order, within its slots, to the weighted mean."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import UpdateError
from fedcore.federated.fields import STATISTIC_LIMIT, statistics_of
from fedcore.federated.update import UpdateLayout
from fedcore.secagg import new_accumulator, total_of
from fedcore.secagg.packing import pack
from tests.random_examples import thorough

SIZE = 15

vectors = st.lists(st.floats(-4, 4, width=32), min_size=SIZE, max_size=SIZE).map(np.float32)
reports = st.lists(st.tuples(vectors, st.integers(1, 5000)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def layout(small_task):
    return UpdateLayout.of(small_task())


def sums(layout, given):
    encoded = [layout.encode(vector, weight, {}) for vector, weight in given]
    return [np.sum(parts, axis=0) for parts in zip(*encoded, strict=True)]


@given(reports)
def test_the_mean_is_the_weighted_mean_within_half_a_step_a_client(layout, given):
    found = layout.mean(sums(layout, given), len(given))
    weights = np.array([min(weight, 1000) / 1000 for _, weight in given])
    wanted = np.average([np.float64(v) for v, _ in given], axis=0, weights=weights)
    half = float(layout.step) / 2 * len(given) / weights.sum()
    # Beside the grid, one rounding of the result to float32.
    np.testing.assert_allclose(found.vector, wanted, rtol=2.0**-23, atol=half * (1 + 1e-9))
    assert found.weight == pytest.approx(weights.sum())
    assert found.reports == len(given)


@given(reports)
def test_the_order_of_the_clients_never_matters(layout, given):
    bits = {
        layout.mean(sums(layout, order), len(given)).vector.tobytes()
        for order in itertools.islice(itertools.permutations(given), 6)
    }
    assert len(bits) == 1


@given(vectors)
def test_one_client_of_full_weight_comes_back_within_half_a_step(layout, vector):
    found = layout.mean(sums(layout, [(vector, 1000)]), 1)
    np.testing.assert_allclose(
        found.vector, vector, rtol=2.0**-23, atol=float(layout.step) / 2 * (1 + 1e-9)
    )


@settings(max_examples=thorough(20))
@given(st.sampled_from([18, 24, 32, 48]), st.sampled_from([1, 3, 100]))
def test_slots_hold_the_largest_cohort_at_its_worst(small_task, slot_bits, select):
    task = small_task(
        cohort={"goal": select, "minimum": 1}, update={"range": 0.3, "slot_bits": slot_bits}
    )
    layout = UpdateLayout.of(task)
    worst = np.full(SIZE, 9.0, np.float32)
    update, statistics = layout.encode(worst, 10**9, {"loss": np.inf})
    accumulator = new_accumulator(task.layout)
    blocks = task.layout.blocks
    words = [pack(b, v, 0, b.words) for b, v in zip(blocks, (update, statistics), strict=True)]
    for _ in range(select):
        accumulator += np.concatenate(words)
    totals = total_of(accumulator, task.layout)
    assert np.array_equal(totals[0], update * select)
    assert np.array_equal(totals[1], statistics * select)
    np.testing.assert_allclose(layout.mean(totals, select).vector, 0.3, rtol=1e-4)


def test_what_is_cut_to_the_range_is_counted(layout):
    vector = np.zeros(SIZE, np.float32)
    vector[[1, 5]] = 4.5, -100
    found = layout.mean(sums(layout, [(vector, 1000)]), 1)
    assert found.vector[[1, 5]].tolist() == [4.0, -4.0]
    assert found.statistics["saturated"] == 2


def test_weights_count_up_to_the_largest_and_alike_where_a_task_says_so(small_task):
    one, two = np.full(SIZE, 1.0, np.float32), np.full(SIZE, 2.0, np.float32)

    def mean(update):
        layout = UpdateLayout.of(small_task(update=update))
        return layout.mean(sums(layout, [(one, 10), (two, 90)]), 2).vector[0]

    assert mean({}) == pytest.approx(1.9, abs=1e-5)
    assert mean({"largest_weight": 30}) == pytest.approx(1.75, abs=1e-5)
    assert mean({"weighted": False}) == pytest.approx(1.5, abs=1e-5)


def test_statistics_come_back_as_means_over_examples(small_task):
    layout = UpdateLayout.of(small_task(evaluation={"every": 1, "metrics": ["accuracy"]}))
    zeros = np.zeros(SIZE, np.float32)
    measured = {"evaluation_examples": 10, "evaluation_loss": 5.0, "evaluation_accuracy": 7}
    blocks = [
        layout.encode(zeros, 10, {"loss": 20.0, **measured, "unknown": 1.0}),
        layout.encode(zeros, 30, {"loss": 20.0, **measured}),
    ]
    found = layout.mean([np.sum(part, axis=0) for part in zip(*blocks, strict=True)], 2)
    assert dict(found.statistics) == {
        "examples": 40,
        "loss": 1.0,
        "saturated": 0,
        "evaluation_examples": 20,
        "evaluation_loss": 0.5,
        "evaluation_accuracy": 0.7,
    }


def test_without_an_evaluation_there_is_no_mean_of_one(small_task):
    layout = UpdateLayout.of(small_task(evaluation={"every": 1, "metrics": ["accuracy"]}))
    zeros = np.zeros(SIZE, np.float32)
    found = layout.mean(layout.encode(zeros, 10, {"loss": 1.0}), 1)
    assert set(found.statistics) == {"examples", "loss", "saturated", "evaluation_examples"}


MEASURED = {"evaluation_examples": 10, "evaluation_loss": 5.0, "evaluation_accuracy": 9.0}
TRAINED = {"examples", "loss", "saturated"}


def mean_with(layout, lie, *, honest=9):
    """The mean of honest reports and of one that says something else beside its update."""
    said = {"weight": 10, "examples": 10, "loss": 5.0, **MEASURED}
    liar = layout.measured({**said, **lie})
    return layout.mean(
        [np.zeros(SIZE, np.int64), liar + honest * layout.measured(said)], honest + 1
    )


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ({"evaluation_examples": -95}, "evaluation_examples"),
        ({"evaluation_examples": -90}, "evaluation_accuracy"),
        ({"evaluation_accuracy": 1e308}, "evaluation_accuracy"),
        ({"evaluation_accuracy": -1e6}, "evaluation_accuracy"),
        ({"evaluation_loss": -1e308}, "evaluation_loss"),
        ({"loss": -1e9}, "loss"),
        ({"examples": -1000}, "examples"),
        ({"saturated": -1}, "saturated"),
    ],
)
def test_sums_that_no_honest_clients_have_are_told_and_not_shown_as_measured(small_task, lie, told):
    layout = UpdateLayout.of(small_task(evaluation={"every": 1, "metrics": ["accuracy"]}))
    found = mean_with(layout, lie)
    assert told in found.impossible
    spoilt = set(MEASURED) if told in MEASURED else TRAINED
    assert set(found.statistics) == {*TRAINED, *MEASURED} - spoilt


def test_what_honest_clients_can_say_is_shown_whatever_it_is(small_task):
    layout = UpdateLayout.of(small_task(evaluation={"every": 1, "metrics": ["accuracy"]}))
    for said in (
        {},
        {"loss": 1e300},
        {"evaluation_accuracy": 10 + 1e-6},
        dict.fromkeys(MEASURED, 0),
    ):
        found = mean_with(layout, said)
        assert not found.impossible and set(found.statistics) == {*TRAINED, *MEASURED}


def test_a_loss_that_may_be_negative_is_shown_and_an_accuracy_in_percent_is_not(small_task):
    training = {"program": "own", "loss": "mse"}
    layout = UpdateLayout.of(
        small_task(training=training, evaluation={"every": 1, "metrics": ["accuracy", "gain"]})
    )
    found = mean_with(layout, {"loss": -1e6, "evaluation_gain": -1e6})
    assert not found.impossible and found.statistics["loss"] < 0
    percent = mean_with(layout, {"evaluation_accuracy": 9e4})
    assert percent.impossible == ("evaluation_accuracy",)


def test_more_examples_than_any_float_counts_are_cut_like_others(layout):
    zeros = np.zeros(SIZE, np.float32)
    assert np.array_equal(layout.encode(zeros, 10**400, {})[1], layout.encode(zeros, 2**60, {})[1])


def test_a_statistic_is_cut_to_its_limit(small_task):
    task = small_task()
    layout = UpdateLayout.of(task)
    _, values = layout.encode(np.zeros(SIZE, np.float32), 1, {"loss": 1e300})
    place = [field.name for field in statistics_of(task)].index("loss")
    assert values[place] == STATISTIC_LIMIT


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_refused(layout, value):
    vector = np.zeros(SIZE, np.float32)
    vector[-1] = value
    with pytest.raises(UpdateError, match="NaN or infinity"):
        layout.encode(vector, 1, {})


def test_a_statistic_that_is_nan_is_refused(layout):
    with pytest.raises(UpdateError, match="'loss' is NaN"):
        layout.encode(np.zeros(SIZE, np.float32), 1, {"loss": np.nan})


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, None])
def test_a_weight_that_counts_no_examples_is_refused(layout, weight):
    with pytest.raises(UpdateError, match="weight"):
        layout.encode(np.zeros(SIZE, np.float32), weight, {})


@pytest.mark.parametrize("vector", [np.zeros(3, np.float32), np.zeros(SIZE, np.int64)])
def test_an_update_of_another_model_is_refused(layout, vector):
    with pytest.raises(UpdateError, match="15 floating numbers"):
        layout.encode(vector, 1, {})


def test_sums_that_no_reports_add_up_to_are_refused(layout):
    update, statistics = layout.encode(np.ones(SIZE, np.float32), 1000, {})
    with pytest.raises(UpdateError, match="do not have"):
        layout.mean([update * 0 + 2 * layout.limit, statistics], 1)
    with pytest.raises(UpdateError, match="do not have"):
        layout.mean([update, statistics * 0], 1)
    with pytest.raises(UpdateError, match="shapes"):
        layout.mean([update], 1)
    with pytest.raises(UpdateError, match="0 reports"):
        layout.mean([update, statistics], 0)
