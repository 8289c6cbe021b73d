"""Metrics count what they say, and refuse shapes and dtypes of which the count would be wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore as fc
from fedcore import nn, optim
from fedcore.errors import ArgumentError, DtypeError, FedcoreError, ShapeError
from fedcore.training import accuracy, binary_accuracy, evaluate, fit

DRAW = np.random.default_rng(5)
SCORES = DRAW.standard_normal((9, 3)).astype(np.float32)
LOGITS = DRAW.standard_normal(9).astype(np.float32)


@pytest.mark.parametrize(
    ("prediction", "target", "kind", "message"),
    [
        (SCORES, np.zeros((9, 3), np.float32), DtypeError, "float32"),
        (SCORES, np.zeros(9, bool), DtypeError, "bool"),
        (SCORES, np.zeros((9, 1), int), ShapeError, r"\(9, 3\).*\(9, 1\)"),
        (SCORES, np.zeros((9, 3), int), ShapeError, r"\(9, 3\).*\(9, 3\)"),
        (SCORES[:, :1], np.zeros(9, int), ShapeError, r"\(9, 1\).*\(9,\)"),
        (LOGITS, np.zeros(9, int), ShapeError, r"\(9,\).*\(9,\)"),
        (LOGITS, np.zeros((), int), ShapeError, r"\(9,\).*\(\)"),
    ],
)
def test_accuracy_refuses_what_is_no_score_a_class_and_names_the_binary_one(
    prediction: Any, target: Any, kind: type[FedcoreError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        accuracy(fc.tensor(prediction), fc.tensor(target))
    assert "binary_accuracy" in caught.value.fix


@given(st.booleans(), st.booleans(), st.sampled_from(["int64", "float32", "bool", "uint8"]))
def test_binary_accuracy_is_that_of_two_classes_whatever_the_layout(
    column: bool, target_column: bool, dtype: str
) -> None:
    target = DRAW.integers(0, 2, 9)
    two = accuracy(fc.tensor(np.stack([0 * LOGITS, LOGITS], 1)), fc.tensor(target))
    logits = LOGITS[:, None] if column else LOGITS
    targets = (target[:, None] if target_column else target).astype(dtype)
    one = binary_accuracy(fc.tensor(logits), fc.tensor(targets))
    assert one.tolist() == two.tolist()


@pytest.mark.parametrize(
    ("prediction", "target"),
    [(SCORES, np.zeros(9, int)), (LOGITS, np.zeros(8, int)), (LOGITS, np.zeros((9, 2), int))],
)
def test_binary_accuracy_refuses_more_than_one_number_an_example(
    prediction: Any, target: Any
) -> None:
    with pytest.raises(ShapeError, match="binary_accuracy"):
        binary_accuracy(fc.tensor(prediction), fc.tensor(target))


def test_by_default_accuracy_is_measured_where_targets_are_integers_and_nothing_elsewhere() -> None:
    model = nn.Linear(3, 2, key=0)
    assert list(evaluate(model, (SCORES, np.zeros(9, int)))) == ["accuracy"]
    regression = (SCORES, np.zeros((9, 2), np.float32))
    assert list(evaluate(model, regression, loss=nn.mse)) == ["loss"]
    assert evaluate(model, regression) == {}


def named(name: str) -> Callable[[fc.Tensor, fc.Tensor], fc.Tensor]:
    def metric(prediction: fc.Tensor, target: fc.Tensor) -> fc.Tensor:
        return accuracy(prediction, target)

    metric.__name__ = name
    return metric


@pytest.mark.parametrize(
    ("metrics", "shared"),
    [
        ([accuracy, accuracy], "accuracy"),
        ([lambda y, t: accuracy(y, t), lambda y, t: 1.0 - accuracy(y, t)], "<lambda>"),
        ([partial(accuracy), partial(accuracy)], "partial"),
        ([named("loss")], "loss"),
        ([accuracy, named("val_accuracy")], "val_accuracy"),
    ],
)
def test_measures_that_would_share_one_entry_of_the_history_are_refused(
    metrics: list[Any], shared: str
) -> None:
    model, data = nn.Linear(3, 2, key=0), (SCORES, np.zeros(9, int))
    with pytest.raises(ArgumentError, match=shared) as caught:
        evaluate(model, data, metrics=metrics)
    assert "def" in caught.value.fix
    with pytest.raises(ArgumentError, match=shared):
        fit(
            model,
            data,
            loss=nn.cross_entropy,
            optimizer=optim.SGD(lr=0.1),
            epochs=1,
            batch_size=9,
            metrics=metrics,
        )


def test_metrics_of_different_names_are_measured_each_by_itself() -> None:
    model, data = nn.Linear(3, 2, key=0), (SCORES, np.arange(9) % 2)
    both = evaluate(model, data, metrics=[accuracy, named("again")])
    assert both["accuracy"] == both["again"] == evaluate(model, data)["accuracy"]
