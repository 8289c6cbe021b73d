"""A model is built from names and options alone, the same wherever it is built."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore.federated.models as models
from fedcore import nn
from fedcore.autograd.ravel import ravel
from fedcore.errors import FedcoreError, ProgramError, TaskError
from fedcore.federated.choices import LayerSpec
from fedcore.federated.layers import LAYERS, layer_size
from fedcore.federated.models import build_model, initial_theta, sizes_of
from fedcore.federated.spec import ArraySpec, ModelSpec
from fedcore.settings import read_settings
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import tensor

# One layer of every kind, and an input that it takes.
EXAMPLES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "attention": ({"features": 4, "heads": 2}, (2, 3, 4)),
    "avg_pool1d": ({}, (2, 4, 3)),
    "avg_pool2d": ({"window": [2, 1]}, (2, 4, 4, 3)),
    "batch_norm": ({"channels": 3}, (2, 3)),
    "conv1d": ({"inputs": 3, "outputs": 2, "kernel_size": 3}, (2, 5, 3)),
    "conv2d": ({"inputs": 2, "outputs": 4, "kernel_size": [3, 2], "groups": 2}, (2, 5, 5, 2)),
    "dropout": ({"rate": 0.5}, (2, 3)),
    "embedding": ({"count": 5, "features": 3}, (2,)),
    "flatten": ({}, (2, 3, 4)),
    "global_avg_pool": ({}, (2, 4, 3)),
    "global_max_pool": ({}, (2, 4, 3)),
    "group_norm": ({"groups": 2, "channels": 4}, (2, 4)),
    "gru": ({"features": 3, "hidden": 2}, (2, 4, 3)),
    "layer_norm": ({"features": 3}, (2, 3)),
    "leaky_relu": ({"slope": 0.1}, (2, 3)),
    "linear": ({"inputs": 3, "outputs": 2}, (2, 3)),
    "lstm": ({"features": 3, "hidden": 2}, (2, 4, 3)),
    "max_pool1d": ({"padding": "same"}, (2, 4, 3)),
    "max_pool2d": ({"padding": [[0, 1], [0, 1]]}, (2, 3, 3, 3)),
    "reshape": ({"shape": [2, 2, 1]}, (2, 4)),
    "rms_norm": ({"features": 3}, (2, 3)),
    "rnn": ({"features": 3, "hidden": 2, "activation": "relu"}, (2, 4, 3)),
    "transformer_encoder": ({"features": 4, "heads": 2, "hidden": 8}, (2, 3, 4)),
}
PLAIN = sorted(set(LAYERS) - set(EXAMPLES) - {"every_step", "last_step"})


def layer(kind: str, **options: Any) -> LayerSpec:
    return LayerSpec.read({"kind": kind, **options}, "model.layers[0]")


@pytest.mark.parametrize("kind", sorted(EXAMPLES) + PLAIN)
def test_a_layer_of_every_kind_is_built_and_called(kind: str) -> None:
    options, shape = EXAMPLES.get(kind, ({}, (2, 3)))
    spec = ModelSpec(layers=(layer(kind, **options),))
    model = build_model(spec, 1)
    x = tensor(np.ones(shape, np.int64 if kind == "embedding" else np.float32))
    assert model(x) is not None
    _, state = sizes_of(spec, 1)
    parts, _ = sizes_of(spec, 1)
    assert ravel(model)[0].size + nn.ravel_state(model)[0].size == sum(parts)
    assert state == (6 if kind == "batch_norm" else 0)
    [found] = spec.layers
    assert sum(parts) <= layer_size(kind, dict(found.options))


def test_a_recurrent_classifier_reads_the_last_step() -> None:
    kinds = (layer("lstm", features=3, hidden=4), layer("last_step"))
    x = tensor(np.ones((2, 5, 3), np.float32))
    assert build_model(ModelSpec(layers=kinds), 1)(x).shape == (2, 4)


def test_a_recurrent_layer_on_another_reads_every_step() -> None:
    under, over = layer("lstm", features=3, hidden=4), layer("gru", features=4, hidden=5)
    every = layer("every_step")
    x = tensor(np.ones((2, 6, 3), np.float32))
    stacked = ModelSpec(layers=(under, every, over, every))
    assert build_model(stacked, 1)(x).shape == (2, 6, 5)


def test_the_first_model_depends_on_the_seed_alone(small_task: Any) -> None:
    one, same = (initial_theta(small_task(task={"name": "a", "seed": 5})) for _ in range(2))
    other = initial_theta(small_task(task={"name": "a", "seed": 6}))
    assert one.dtype == np.float32
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_state_stands_behind_the_parameters_of_the_first_model(small_task: Any) -> None:
    layers = [{"kind": "linear", "inputs": 4, "outputs": 3}, {"kind": "batch_norm", "channels": 3}]
    task = small_task(model={"layers": layers})
    theta, model = initial_theta(task), build_model(task.model, task.seed)
    parameters = ravel(model)[0].numpy()
    assert theta.size == task.dimension == 15 + 6 + 6
    assert np.array_equal(theta[: parameters.size], parameters)
    assert np.array_equal(theta[parameters.size :], nn.ravel_state(model)[0].numpy())


def every_option() -> list[tuple[str, str]]:
    return [
        (kind, name)
        for kind, (options, _) in sorted(EXAMPLES.items())
        for name in dict(layer(kind, **options).options)
    ]


@pytest.mark.parametrize(("kind", "name"), every_option(), ids=str)
def test_a_misspelt_option_is_refused_with_the_right_one(kind: str, name: str) -> None:
    options, _ = EXAMPLES[kind]
    complete = dict(layer(kind, **options).options)
    wrong = {**complete, name + "x": complete[name]}
    del wrong[name]
    with pytest.raises(TaskError) as caught:
        layer(kind, **wrong)
    assert f"model.layers[0].{name}x is no setting" in caught.value.what
    assert f"did you mean {name}?" in caught.value.fix


def test_a_misspelt_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(TaskError) as caught:
        layer("conv2")
    assert "'conv2d'" in caught.value.fix


VALUES = st.one_of(
    st.booleans(),
    st.integers(-3, 10),
    st.just(2**62),
    st.floats(),
    st.sampled_from(["same", "relu", "x"]),
    st.lists(st.integers(-2, 4), max_size=3),
)


@given(st.sampled_from(sorted(EXAMPLES)), st.data())
def test_whatever_options_say_the_error_is_of_the_task(kind: str, data: st.DataObject) -> None:
    options = dict(EXAMPLES[kind][0])
    names = [name for name in inspect.signature(LAYERS[kind]).parameters if name != "key"]
    for name in data.draw(st.lists(st.sampled_from([*names, "other"]), max_size=2)):
        options[name] = data.draw(VALUES)
    try:
        model = build_model(ModelSpec(layers=(layer(kind, **options),)), 1)
    except TaskError:
        return
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(layers=(layer("linear", inputs=2**31, outputs=2**31),)),
        ModelSpec(layers=(layer("embedding", count=10**6, features=1001),)),
        ModelSpec(
            layers=(
                layer("linear", inputs=40_000, outputs=40_000),
                layer("linear", inputs=-40_000, outputs=40_000),
            )
        ),
        ModelSpec(arrays=(ArraySpec(name="w", shape=(10**5, 10**5)),)),
    ],
    ids=["linear", "embedding", "negative", "arrays"],
)
def test_a_model_that_is_too_large_is_refused_before_it_is_made(spec: ModelSpec) -> None:
    with pytest.raises(TaskError, match="numbers"):
        sizes_of(spec, 1)


def test_more_layers_than_sixty_four_are_refused() -> None:
    table = {"layers": [{"kind": "relu"}] * 65}
    with pytest.raises(TaskError, match=r"model\.layers"):
        read_settings(table, ModelSpec, path="model")


def test_arrays_are_counted_and_not_built() -> None:
    spec = ModelSpec(arrays=(ArraySpec(name="w", shape=(3, 4)), ArraySpec(name="b", shape=())))
    assert sizes_of(spec, 1) == ((12, 1), 0)
    with pytest.raises(ProgramError, match="plain arrays"):
        build_model(spec, 1)


def small(*, width: int, key: Key) -> nn.Module:
    return nn.Linear(width, 2, key=key)


def no_module() -> int:
    return 3


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"small": small, "no_module": no_module}
    found = EntryPoints(EntryPoint(name, "x:y", models.MODEL_GROUP) for name in made)
    monkeypatch.setattr(models, "entry_points", lambda group: found)
    monkeypatch.setattr(EntryPoint, "load", lambda self: made[self.name])


@pytest.mark.usefixtures("installed")
def test_an_installed_model_is_built_by_its_name_and_options() -> None:
    spec = ModelSpec(name="small", options=(("width", 3),))
    assert sizes_of(spec, 1) == ((6, 2), 0)
    assert np.array_equal(
        ravel(build_model(spec, 1))[0].numpy(),
        ravel(small(width=3, key=Key(1, "model")))[0].numpy(),
    )


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (ModelSpec(name="other"), ProgramError, "no model 'other'"),
        (ModelSpec(name="small"), TaskError, "width"),
        (ModelSpec(name="small", options=(("depth", 1), ("width", 1))), TaskError, "depth"),
        (ModelSpec(name="no_module"), ProgramError, "is a int"),
    ],
    ids=["missing", "without", "unknown", "no module"],
)
def test_what_is_not_installed_or_refuses_is_told(
    spec: ModelSpec, kind: type[FedcoreError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        build_model(spec, 1)
    if kind is ProgramError and spec.name == "other":
        assert "no_module, small" in caught.value.why
