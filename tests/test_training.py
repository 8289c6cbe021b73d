"""`fit` repeats bit for bit, weighs every example once an epoch, and stops when it diverges."""

from __future__ import annotations

import io
import math
import sys
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.data import Dataset, load_digits
from fedcore.errors import (
    ArgumentError,
    DatasetError,
    DivergenceError,
)
from fedcore.progress import Report
from fedcore.tensor import blas
from fedcore.training import accuracy, evaluate, fit, predict

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((70, 5)).astype(np.float32)
Y = (X @ DRAW.standard_normal((5, 2)).astype(np.float32)).astype(np.float32)
OPTIONS: dict[str, Any] = {
    "optimizer": optim.SGD(lr=0.1),
    "epochs": 3,
    "batch_size": 32,
    "progress": False,
}


def squared(prediction: fc.Tensor, target: fc.Tensor, *, weight: fc.Tensor) -> fc.Tensor:
    return (((prediction - target) ** 2).mean(axis=-1) * weight).sum() / weight.sum()


def linear() -> nn.Linear:
    return nn.Linear(5, 2, key=0)


def by_hand(epochs: int) -> np.ndarray:
    """The same training with one plain loop over unpadded batches in float64."""
    model = linear()
    w, b = model.weight.numpy().astype(float), np.zeros(2)
    for epoch in range(epochs):
        for batch in Dataset(X, Y).batches(32, key=0, epoch=epoch):
            real = batch.weight > 0
            x, y = batch.x[real].astype(float), batch.y[real].astype(float)
            slope = (x @ w + b - y) / len(x)
            w, b = w - 0.1 * x.T @ slope, b - 0.1 * slope.sum(0)
    return w


def test_padding_of_the_last_batch_counts_for_nothing() -> None:
    fitted = fit(linear(), (X, Y), loss=squared, **OPTIONS)
    np.testing.assert_allclose(fitted.model.weight.numpy(), by_hand(3), rtol=1e-4, atol=1e-6)


def test_a_run_depends_on_its_seed_alone() -> None:
    one, same, other = (
        fit(linear(), (X, Y), loss=squared, seed=seed, **OPTIONS) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.model.weight.numpy(), same.model.weight.numpy())
    assert one.history == same.history
    assert one.history != other.history


def test_the_model_given_is_left_as_it_was() -> None:
    model = linear()
    before = model.weight.numpy().copy()
    fit(model, (X, Y), loss=squared, **OPTIONS)
    np.testing.assert_array_equal(model.weight.numpy(), before)


def test_double_precision_data_train_as_their_single_precision() -> None:
    one = fit(linear(), (X, Y), loss=squared, **OPTIONS)
    two = fit(linear(), (X.astype(np.float64), Y.astype(np.float64)), loss=squared, **OPTIONS)
    np.testing.assert_array_equal(one.model.weight.numpy(), two.model.weight.numpy())


def test_the_history_has_one_value_an_epoch_of_every_measure() -> None:
    def worst(prediction: fc.Tensor, target: fc.Tensor) -> fc.Tensor:
        return abs(prediction - target).max(axis=-1)

    fitted = fit(
        linear(), (X, Y), loss=squared, validation=(X[:9], Y[:9]), metrics=[worst], **OPTIONS
    )
    assert sorted(fitted.history) == ["loss", "val_loss", "val_worst", "worst"]
    assert {len(values) for values in fitted.history.values()} == {3}
    assert fitted.history["loss"] == sorted(fitted.history["loss"], reverse=True)
    last = evaluate(fitted.model, (X[:9], Y[:9]), loss=squared, metrics=[worst])
    assert fitted.history["val_loss"][-1] == pytest.approx(last["loss"])
    assert fitted.history["val_worst"][-1] == pytest.approx(last["worst"])


def test_a_schedule_replaces_the_rate_of_the_optimizer() -> None:
    still = fit(linear(), (X, Y), loss=squared, schedule=optim.constant(0.0), **OPTIONS)
    np.testing.assert_array_equal(still.model.weight.numpy(), linear().weight.numpy())
    steps: list[int] = []

    def rate(step: int) -> float:
        steps.append(step)
        return 0.1

    fitted = fit(linear(), (X, Y), loss=squared, schedule=rate, **OPTIONS)
    assert steps == list(range(9))
    np.testing.assert_allclose(fitted.model.weight.numpy(), by_hand(3), rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_part_of_the_trained_model() -> None:
    model = nn.Sequential(nn.BatchNorm(5, momentum=0.5), linear())
    fitted = fit(model, (X * 3 + 2, Y), loss=squared, **OPTIONS | {"batch_size": 70, "epochs": 12})
    mean, var = (fitted.model.state_dict()[f"layers.0.{name}"] for name in ("mean", "var"))
    rows = X * 3 + 2
    # each epoch halves what is left of the start: 2^-12 of it after twelve
    np.testing.assert_allclose(mean, rows.mean(0), atol=3 * 2**-11)
    np.testing.assert_allclose(var, rows.var(0, ddof=1), atol=10 * 2**-11)
    assert not model.state_dict()["layers.0.mean"].any()


def test_a_clipped_step_is_no_longer_than_rate_times_norm() -> None:
    options = OPTIONS | {"epochs": 1, "batch_size": 70}
    fitted = fit(linear(), (X, Y * 1000), loss=squared, clip_norm=0.5, **options)
    moved = np.concatenate(
        [
            (fitted.model.weight.numpy() - linear().weight.numpy()).ravel(),
            fitted.model.bias.numpy(),
        ]
    )
    assert np.linalg.norm(moved) == pytest.approx(0.1 * 0.5, rel=1e-4)


@pytest.mark.parametrize("rule", [optim.SGD(lr=1e30), optim.SGD(lr=1e30, momentum=0.9)])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(rule: optim.Optimizer) -> None:
    with pytest.raises(DivergenceError, match=r"epoch 1 at step [23]\b"):  # and no warning
        fit(linear(), (X, Y), loss=squared, **OPTIONS | {"optimizer": rule})


def test_a_nan_in_the_data_is_met_at_its_step() -> None:
    bad = X.copy()
    bad[:] = math.nan
    with pytest.raises(DivergenceError, match="epoch 1 at step 1"):
        fit(linear(), (bad, Y), loss=squared, **OPTIONS)


@pytest.mark.parametrize("option", [{"epochs": 0}, {"epochs": 1.5}, {"batch_size": 0}])
def test_a_count_below_one_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        fit(linear(), (X, Y), loss=squared, **OPTIONS | option)


def test_an_empty_dataset_is_refused_everywhere() -> None:
    with pytest.raises(DatasetError, match="empty"):
        fit(linear(), (X[:0], Y[:0]), loss=squared, **OPTIONS)
    with pytest.raises(DatasetError, match="empty"):
        evaluate(linear(), (X[:0], Y[:0]))
    with pytest.raises(DatasetError, match="empty"):
        predict(linear(), X[:0])


def test_what_is_no_dataset_is_refused() -> None:
    with pytest.raises(ArgumentError, match="ndarray"):
        fit(linear(), X, loss=squared, **OPTIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 32, 70, 1000])
def test_predictions_do_not_depend_on_the_batch_size(size: int) -> None:
    found = predict(linear(), X, batch_size=size)
    np.testing.assert_allclose(found, linear()(X).numpy(), rtol=1e-5, atol=1e-6)


def test_the_measures_weigh_every_example_alike_in_a_ragged_last_batch() -> None:
    target = np.arange(70) % 2
    whole = evaluate(linear(), (X, target), batch_size=70)
    ragged = evaluate(linear(), (X, target), batch_size=32)
    right = (predict(linear(), X).argmax(-1) == target).mean()
    assert whole["accuracy"] == pytest.approx(right)
    assert ragged["accuracy"] == pytest.approx(right)


def test_accuracy_of_sequences_is_the_share_of_right_positions() -> None:
    scores = fc.tensor(np.eye(3, dtype=np.float32)[[[0, 1], [2, 2]]])
    assert accuracy(scores, fc.tensor([[0, 1], [2, 0]])).tolist() == [1.0, 0.5]


def test_a_function_is_called_after_each_epoch() -> None:
    reports: list[Report] = []
    fitted = fit(linear(), (X, Y), loss=squared, **OPTIONS | {"progress": reports.append})
    assert [report.epoch for report in reports] == [0, 1, 2]
    assert [report.measures["loss"] for report in reports] == fitted.history["loss"]


@pytest.mark.parametrize("yes", [True, np.True_])
def test_training_ends_after_the_epoch_at_which_the_function_returns_true(yes: Any) -> None:
    options = OPTIONS | {"epochs": 9, "progress": lambda report: yes if report.epoch == 2 else None}
    fitted = fit(linear(), (X, Y), loss=squared, validation=(X, Y), **options)
    whole = fit(linear(), (X, Y), loss=squared, validation=(X, Y), **OPTIONS)
    assert fitted.history == whole.history and len(fitted.history["loss"]) == 3
    np.testing.assert_array_equal(fitted.model.weight.numpy(), whole.model.weight.numpy())


@pytest.mark.parametrize("answer", [None, False, 1, "done", 0.5])
def test_anything_but_true_goes_on(answer: Any) -> None:
    options = OPTIONS | {"progress": lambda report: answer}
    assert len(fit(linear(), (X, Y), loss=squared, **options).history["loss"]) == 3


def test_a_file_gets_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    fit(linear(), (X, Y), loss=squared, **OPTIONS | {"progress": True})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["epoch", f"{n}/3", "loss"] for n in (1, 2, 3)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_the_epochs_line_replaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    fit(linear(), (X, Y), loss=squared, **OPTIONS | {"progress": True})
    assert "\r" in terminal.getvalue() and "[" in terminal.getvalue()
    shown = [line.rsplit("\r\x1b[K", 1)[-1] for line in terminal.getvalue().split("\n")[:-1]]
    assert [line.split()[:2] for line in shown] == [["epoch", f"{n}/3"] for n in (1, 2, 3)]


def test_digits_are_told_apart_after_seconds_of_training() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits (the extra 'demo')")
    digits = load_digits().dataset
    digits = Dataset(digits.x.reshape(len(digits), -1), digits.y)
    train, test = digits.split(0.8, seed=0)
    model = nn.Sequential(nn.Linear(64, 128, key=0), nn.relu, nn.Linear(128, 10, key=1))
    fitted = fit(
        model,
        train,
        loss=nn.cross_entropy,
        optimizer=optim.Adam(lr=3e-3),
        epochs=20,
        batch_size=32,
        metrics=[accuracy],
        progress=False,
    )
    assert evaluate(fitted.model, test)["accuracy"] >= 0.97
    assert fitted.history["accuracy"][-1] > 0.99


def test_a_run_does_not_depend_on_the_number_of_blas_threads() -> None:
    """With more threads than one a large product orders its sums otherwise."""
    before = blas.get_threads()
    if before is None:
        pytest.skip("the threads of this NumPy's BLAS cannot be set")
    x = DRAW.standard_normal((128, 784)).astype(np.float32)
    y = DRAW.integers(0, 10, 128)
    model = nn.Sequential(nn.Linear(784, 512, key=0), nn.relu, nn.Linear(512, 10, key=1))
    options = OPTIONS | {"batch_size": 128, "loss": nn.cross_entropy}
    found = []
    try:
        for threads in (1, 2):
            blas.set_threads(threads)
            found.append(fit(model, (x, y), **options).model.state_dict())
            assert blas.get_threads() == threads
    finally:
        blas.set_threads(before)
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])
