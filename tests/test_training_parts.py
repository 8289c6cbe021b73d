"""What is given to `fit` may be a user's own; what cannot do its work is refused at once."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.errors import (
    ArgumentError,
    DatasetError,
    DtypeError,
    FedcoreError,
    ShapeError,
)
from fedcore.training import accuracy, evaluate, fit, predict
from tests.test_training import OPTIONS, X, Y, linear, squared


@pytest.mark.parametrize("loss", [nn.mse, nn.l1, nn.huber])
def test_a_column_against_a_row_names_both_ways_to_make_them_alike(loss: Any) -> None:
    with pytest.raises(ShapeError, match=r"\(32, 1\) with targets \(32,\)") as caught:
        fit(nn.Linear(5, 1, key=0), (X, Y[:, 0]), loss=loss, **OPTIONS)
    assert "y[..., None]" in caught.value.fix and "[..., 0]" in caught.value.fix
    with pytest.raises(ShapeError, match=r"\(32,\) with targets \(32, 1\)") as caught:
        first = nn.Sequential(linear(), lambda y: y[:, 0])
        fit(first, (X, Y[:, :1]), loss=loss, **OPTIONS)
    assert "y[..., 0]" in caught.value.fix


class Sign:
    """A user's own rule, which knows nothing of factored gradients."""

    lr = 0.01

    def init(self, theta: fc.Tensor) -> tuple[fc.Tensor, ...]:
        return (fc.zeros_like(theta),)

    def step(
        self, theta: fc.Tensor, gradient: fc.Tensor, state: tuple[fc.Tensor, ...], *, lr: Any = None
    ) -> tuple[fc.Tensor, tuple[fc.Tensor, ...]]:
        velocity = state[0] * 0.5 + fc.sign(gradient)
        return theta - velocity * lr, (velocity,)


class SignWithoutRate(Sign):
    lr = None  # type: ignore[assignment]


def test_an_optimizer_of_ones_own_gets_the_gradient_as_one_tensor() -> None:
    for clip_norm in (None, 100.0):
        options = OPTIONS | {"optimizer": Sign(), "epochs": 1, "batch_size": 70}
        fitted = fit(linear(), (X, Y), loss=squared, clip_norm=clip_norm, **options)
        slope = X.T @ (X @ linear().weight.numpy() - Y)
        expected = linear().weight.numpy() - 0.01 * np.sign(slope)
        np.testing.assert_allclose(fitted.model.weight.numpy(), expected, rtol=1e-6)


def test_a_schedule_serves_an_optimizer_without_a_rate() -> None:
    options = OPTIONS | {"optimizer": SignWithoutRate()}
    fitted = fit(linear(), (X, Y), loss=squared, schedule=optim.constant(0.01), **options)
    same = fit(linear(), (X, Y), loss=squared, **OPTIONS | {"optimizer": Sign()})
    np.testing.assert_array_equal(fitted.model.weight, same.model.weight)


def vector(prediction: fc.Tensor, target: fc.Tensor) -> fc.Tensor:
    return prediction.sum()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"loss": lambda prediction, target: 0.0}, "weight"),
        ({"loss": "cross_entropy"}, "loss is 'cross_entropy'"),
        ({"metrics": ["accuracy"]}, "metrics are"),
        ({"metrics": accuracy}, "metrics are"),
        ({"optimizer": optim.SGD}, "optimizer is"),
        ({"optimizer": None}, "optimizer is None"),
        ({"optimizer": SimpleNamespace(init=abs, step=abs, lr=0.1)}, "optimizer is namespace"),
        ({"optimizer": SignWithoutRate()}, "SignWithoutRate has the rate lr=None"),
        ({"schedule": 0.1}, r"schedule is 0\.1"),
        ({"schedule": lambda step: -0.1}, r"rate -0\.1 at step 0"),
        ({"schedule": lambda step: math.nan if step else 0.1}, "rate nan at step 1"),
        ({"schedule": lambda step: "0.1"}, r"rate '0\.1' at step 0"),
        ({"schedule": lambda step: None}, "rate None at step 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, r"seed is 1\.5"),
        ({"clip_norm": -1.0}, r"max_norm is -1\.0"),
        ({"clip_norm": math.nan}, "max_norm is nan"),
    ],
)
def test_a_part_that_cannot_do_its_work_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        fit(linear(), (X, Y), **{"loss": squared} | OPTIONS | option)
    assert caught.value.why and caught.value.fix


def test_a_rate_is_any_real_number() -> None:
    plain = fit(linear(), (X, Y), loss=squared, **OPTIONS)
    given = OPTIONS | {"optimizer": optim.SGD(lr=np.float64(0.1)), "epochs": np.int64(3)}
    np.testing.assert_array_equal(
        fit(linear(), (X, Y), loss=squared, **given).model.weight, plain.model.weight
    )


@pytest.mark.parametrize("model", [3, nn.Linear, lambda x: x, None])
def test_what_is_no_model_is_refused(model: Any) -> None:
    for run in (
        lambda: fit(model, (X, Y), loss=squared, **OPTIONS),
        lambda: evaluate(model, (X, Y)),
        lambda: predict(model, X),
    ):
        with pytest.raises(ArgumentError, match="the model is"):
            run()


def test_what_fit_gave_is_no_model_but_has_one() -> None:
    fitted = fit(linear(), (X, Y), loss=squared, **OPTIONS)
    with pytest.raises(ArgumentError) as caught:
        predict(fitted, X)  # type: ignore[arg-type]
    assert "fitted.model" in caught.value.fix


def test_a_model_without_parameters_cannot_be_trained() -> None:
    with pytest.raises(ArgumentError, match="Sequential has no parameters"):
        fit(nn.Sequential(nn.flatten, nn.relu), (X, X), loss=nn.mse, **OPTIONS)


def test_a_metric_gives_one_value_an_example() -> None:
    with pytest.raises(ShapeError, match=r"metric vector: .*\(\).*\(32,\)"):
        fit(linear(), (X, Y), loss=squared, metrics=[vector], **OPTIONS)
    with pytest.raises(ShapeError, match=r"metric vector: .*\(\).*\(70,\)"):
        evaluate(linear(), (X, Y), metrics=[vector])


def test_a_prediction_is_one_array() -> None:
    with pytest.raises(ArgumentError, match="LSTM gives a tuple") as caught:
        predict(nn.LSTM(5, 2, key=0), X[:, np.newaxis])
    assert "last_step" in caught.value.fix
    with pytest.raises(DatasetError, match="single value"):
        predict(linear(), 3.0)


def test_one_example_without_a_batch_axis_is_no_batch() -> None:
    model = nn.Linear(64, 10, key=0)
    with pytest.raises(ShapeError, match=r"\(10,\) for 64 examples of shape \(\)") as caught:
        predict(model, np.ones(64, np.float32))
    assert "x[None]" in caught.value.fix
    assert predict(model, np.ones(64, np.float32)[None]).shape == (1, 10)
    with pytest.raises(ShapeError, match=r"\(\) for 70 examples"):
        predict(nn.Sequential(linear(), fc.sum), X)


LABELS = np.arange(70) % 2


@pytest.mark.parametrize(
    ("x", "labels", "kind", "message"),
    [
        (X[:, :4], LABELS, ShapeError, r"Linear: expected 5 .*\(32, 4\)"),
        (X, LABELS + 1, FedcoreError, r"labels lie in \[1, 2\].* 2 classes"),
        (X, LABELS - 1, FedcoreError, r"labels lie in \[-1, 0\].* 2 classes"),
        (X, LABELS.astype(float), DtypeError, "labels are float32"),
        (X, LABELS.astype(str), DtypeError, "an array of <U.* is not a tensor\n  at test_training"),
        (X, np.eye(2)[LABELS], ShapeError, "cross_entropy: the labels look one-hot"),
        (X.astype(int), LABELS, DtypeError, "input is int64"),
        (X.astype(str), LABELS, DtypeError, "an array of <U32 is not a tensor\n  at test_training"),
        (X.astype(object), LABELS, DtypeError, "x is object"),
        (X[:9], LABELS, DatasetError, "9 examples, 70 targets"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(
    x: np.ndarray, labels: np.ndarray, kind: type[FedcoreError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        fit(linear(), (x, labels), loss=nn.cross_entropy, **OPTIONS)
    assert caught.value.why and caught.value.fix
