"""Whole pieces of work as tests that run on any device: operations, layers, optimisers, training.

As `agreement.py`: a module that imports them provides the fixture `device`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.autograd.tree import flatten
from fedcore.checkpoint import load_checkpoint, save_checkpoint
from fedcore.errors import DeviceError, DivergenceError, DtypeError
from fedcore.tensor.backend import Backend, current_backend, use_backend
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor
from fedcore.training import Fitted, evaluate, fit, predict
from tests.gpu.agreement import assert_agree
from tests.nn.test_every_layer import CASES, Case
from tests.tensor.valid_calls import CALLS, Call

__all__ = [
    "test_a_checkpoint_moves_a_model_between_devices",
    "test_a_label_that_is_no_class_gives_nan_and_stops_training",
    "test_a_model_and_data_of_two_devices_are_an_error_that_names_both",
    "test_a_tensor_is_read_only_when_asked",
    "test_arrays_of_the_device_are_taken_where_arrays_are",
    "test_every_layer_agrees_with_numpy",
    "test_every_operation_agrees_with_numpy",
    "test_every_optimizer_agrees_with_numpy",
    "test_new_tensors_lie_on_the_device",
    "test_the_choice_of_a_backend_is_one_thread_s",
    "test_training_agrees_with_numpy",
    "test_two_precisions_do_not_meet_in_a_convolution",
]

Array = np.ndarray[Any, Any]
Place = Callable[[Any], Any]


def on_both(work: Callable[[Place], Any], device: Backend) -> None:
    """`work`, given how to place an array, does the same on the device and with NumPy."""
    found, structure = flatten(work(device.asarray))
    with use_backend("numpy"):
        expected, same = flatten(work(np.asarray))
    assert structure == same
    for y, e in zip(found, expected, strict=True):
        if isinstance(e, Tensor):
            assert_agree(y, e, device)
        else:
            np.testing.assert_allclose(y, e, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_every_operation_agrees_with_numpy(device: Backend, call: Call) -> None:
    def work(place: Place) -> Any:
        def placed(x: Any) -> Any:
            if isinstance(x, list) and any(isinstance(v, np.ndarray) for v in x):
                return [placed(v) for v in x]
            return place(x) if isinstance(x, np.ndarray) else x

        args = [placed(x) for x in call.args]
        options = {name: placed(v) for name, v in call.options.items()}
        with np.errstate(all="ignore"):
            return getattr(operations, call.name)(*args, **options)

    on_both(work, device)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_layer_agrees_with_numpy(device: Backend, case: Case) -> None:
    """Forward, gradients, clients, per-example clipping, and a replay of it."""

    def work(place: Place) -> Any:
        model = case.make()
        theta, rebuild = fc.ravel(model)
        x, several = place(case.inputs(4)), place(case.inputs(2, 4))

        def loss(theta: Any, x: Any) -> Any:
            leaves, _ = flatten(rebuild(theta)(x))
            return sum((y * y).mean() for y in leaves)

        out = flatten(model(x))[0]
        if not theta.size:
            return out
        slope = fc.grad(loss)
        clients = fc.vmap(slope, (None, 0))(theta, several)
        clip = fc.clipped_sum(lambda theta, x: loss(theta, x[None]), clip_norm=0.5)
        return [out, slope(theta, x), clients, clip(theta, x), fc.compile(clip)(theta, x)]

    on_both(work, device)


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.SGD(lr=0.1, weight_decay=0.1),
        optim.SGD(lr=0.1, momentum=0.9, nesterov=True),
        optim.Adam(lr=0.1),
        optim.AdamW(lr=0.1),
        optim.Yogi(lr=0.1),
        optim.RMSprop(lr=0.1, momentum=0.5),
        optim.Adagrad(lr=0.1),
    ],
    ids=repr,
)
def test_every_optimizer_agrees_with_numpy(device: Backend, optimizer: optim.Optimizer) -> None:
    def work(place: Place) -> Any:
        theta, rebuild = fc.ravel(nn.Linear(3, 2, key=0))
        x = place(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))

        def step(theta: Any, state: Any, lr: float) -> Any:
            gradient = fc.factored_grad(lambda theta: (rebuild(theta)(x) ** 2).mean())(theta)
            return optimizer.step(theta, gradient, state, lr=lr)

        state, replay = optimizer.init(theta), fc.compile(step, donate=(0, 1))
        theta, state = step(theta, state, 0.1)
        for rate in (0.1, 0.05, 0.02):
            theta, state = replay(theta, state, rate)
        return theta, state

    on_both(work, device)


class Network(nn.Module):
    """Every kernel of our own in one small model, dropout and state besides."""

    def __init__(self) -> None:
        self.tiles = nn.Embedding(5, 3, key=0)
        self.conv = nn.Conv2d(3, 4, 3, key=1, padding="same")
        self.norm = nn.BatchNorm(4)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(4 * 2 * 3, 3, key=2)

    def forward(self, x: Any, ctx: Any) -> Any:
        y = nn.gelu(self.norm(self.conv(self.tiles(x, ctx=ctx), ctx=ctx), ctx=ctx))
        y = self.drop(nn.flatten(nn.max_pool2d(y, 2)), ctx=ctx)
        return self.out(y, ctx=ctx)


def data() -> tuple[Array, Array]:
    draw = np.random.default_rng(0)
    return draw.integers(0, 5, (22, 4, 6)), draw.integers(0, 3, 22)


def trained(**options: Any) -> Fitted[Network]:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "progress": False}
    return fit(
        Network(),
        options.pop("dataset", data()),
        loss=nn.cross_entropy,
        optimizer=optim.SGD(lr=0.05),
        **settings | options,
    )


def test_training_agrees_with_numpy(device: Backend) -> None:
    """The data stay on the host; each batch is brought to where the parameters are."""

    def work(place: Place) -> Any:
        fitted = trained(validation=data(), clip_norm=1.0)
        measures = evaluate(fitted.model, data(), loss=nn.cross_entropy)
        outputs = predict(fitted.model, data()[0])
        assert isinstance(outputs, np.ndarray)
        return fitted.history, fitted.model.parameters(), measures, outputs

    on_both(work, device)


def test_a_label_that_is_no_class_gives_nan_and_stops_training(device: Backend) -> None:
    """NumPy names the label; here to look for it would make the host wait for each batch."""
    x, labels = data()
    for wrong in (-1, 3):
        losses = nn.cross_entropy(
            fc.zeros((3, 3)), device.asarray(np.array([0, wrong, 2])), reduction="none"
        )
        assert np.isnan(losses.numpy()).tolist() == [False, True, False]
        with pytest.raises(DivergenceError):
            trained(dataset=(x, np.where(np.arange(22) == 5, wrong, labels)))


def test_new_tensors_lie_on_the_device(device: Backend) -> None:
    key = fc.random.Key(0, "test")
    made = [
        fc.tensor(1.0),
        fc.tensor([[1, 2], [3, 4]]),
        fc.tensor([fc.tensor(1.0), fc.tensor(2.0)]),
        fc.zeros((2, 3)),
        fc.arange(3),
        fc.eye(2),
        fc.random.normal(key, (3,)),
        fc.random.permutation(key, 4),
        nn.Linear(2, 3, key=0).weight,
        nn.init.orthogonal((2, 2), key=key),
        fc.ravel(nn.BatchNorm(2))[0],
        nn.ravel_state(nn.BatchNorm(2))[0],
        nn.ravel_state(nn.Linear(2, 2, key=0))[0],
        fc.ravel({})[0],
        fc.compile(lambda x: x * 2.0)(1.0),
    ]
    assert [x.backend.name for x in made] == [device.name] * len(made)
    with use_backend("numpy"):  # an array decides for itself
        x = fc.tensor(device.asarray(np.ones(2)))
        assert (x * 2.0 + 1).backend.name == device.name
        assert isinstance(x.data * x, Tensor) and (x.data * x).backend.name == device.name


def test_a_tensor_is_read_only_when_asked(device: Backend) -> None:
    x = fc.tensor([[1.0, 2.0]])
    assert isinstance(x.numpy(), np.ndarray) and isinstance(np.asarray(x), np.ndarray)
    assert (x.tolist(), x[0, 1].item(), float(x[0, 0]), bool((x > 0).all())) == (
        [[1.0, 2.0]],
        2.0,
        1.0,
        True,
    )
    assert repr(x) == "tensor([[1., 2.]], dtype=float32)"
    assert "4" in Network().summary((4, 6), dtype="int64")
    assert x[x > 1.0].tolist() == [2.0] and x[:, [1, 0]].tolist() == [[2.0, 1.0]]


def test_arrays_of_the_device_are_taken_where_arrays_are(device: Backend, tmp_path: Path) -> None:
    x, labels = (device.asarray(a) for a in data())
    assert trained(dataset=(x, labels)).history == trained().history
    assert np.array_equal(predict(Network(), x), predict(Network(), data()[0]))

    rows = device.asarray(np.arange(6.0).reshape(3, 2))
    assert fc.tensor([rows[0], rows[2]]).tolist() == [[0.0, 1.0], [4.0, 5.0]]
    for index in (np.array([2, 0]), device.asarray(np.array([2, 0])), [2, 0]):
        assert fc.tensor(rows)[index].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert fc.tensor(rows)[np.array([True, False, True])].shape == (2, 2)

    theta, rebuild = fc.ravel({"w": fc.tensor(rows)})
    parts = rebuild.spec.split(theta.data)
    assert rebuild.spec.join(parts).tolist() == theta.tolist()
    linear = nn.Linear(3, 2, key=0)
    changed = linear.with_state_dict(linear.state_dict() | {"weight": rows.astype(np.float32)})
    assert changed.weight.tolist() == rows.tolist()

    double = fc.compile(lambda x: x * 2.0, check=2)
    assert [double(rows).tolist() for _ in range(3)] == [(rows * 2).tolist()] * 3
    pytest.importorskip("safetensors")
    save_checkpoint(tmp_path / "rows.safetensors", {"rows": rows})
    assert load_checkpoint(tmp_path / "rows.safetensors").arrays["rows"].tolist() == rows.tolist()


def test_a_model_and_data_of_two_devices_are_an_error_that_names_both(device: Backend) -> None:
    model, host = nn.Linear(2, 2, key=0), np.ones((1, 2), np.float32)
    for call in (
        lambda: model(host),
        lambda: fc.tensor(host) + fc.tensor([1.0, 2.0]),
        lambda: fc.compile(fc.add)(fc.tensor(host), fc.tensor([1.0, 2.0])),
    ):
        with pytest.raises(DeviceError, match=rf"{device.name}.*numpy|numpy.*{device.name}"):
            call()
    assert model(device.asarray(host)).shape == (1, 2)
    assert isinstance(Backend("numpy", np).asarray(device.asarray(host)), np.ndarray)


def test_two_precisions_do_not_meet_in_a_convolution(device: Backend) -> None:
    x, w = np.ones((1, 3, 3, 1), np.float32), np.ones((2, 2, 1, 1))
    with pytest.raises(DtypeError, match="float32 and float64"):
        nn.conv2d(device.asarray(x), device.asarray(w))


def test_a_checkpoint_moves_a_model_between_devices(device: Backend, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = Network()
    save_checkpoint(tmp_path / "model.safetensors", model.state_dict())
    arrays = load_checkpoint(tmp_path / "model.safetensors").arrays
    with use_backend("numpy"):
        on_host = Network().with_state_dict(arrays)
    loaded = model.with_state_dict(arrays)
    for path, value in loaded.parameters().items():
        assert_agree(value, on_host.parameters()[path], device)
    assert {v.backend.name for v in on_host.parameters().values()} == {"numpy"}


def test_the_choice_of_a_backend_is_one_thread_s(device: Backend) -> None:
    names: list[str] = []

    def work() -> None:
        names.append(current_backend().name)
        with use_backend(device.name):
            names.append(fc.tensor(1.0).backend.name)
        names.append(fc.tensor(1.0).backend.name)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert names == ["numpy", device.name, "numpy"]
    assert current_backend().name == device.name
    device.synchronize()
