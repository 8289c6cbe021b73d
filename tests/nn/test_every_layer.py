"""What holds of every layer: names, shapes, lanes, per-example gradients, replays, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.errors import FedcoreError

Shape = tuple[int, ...]
N, P = 3, 2  # examples in a batch, clients


@dataclass(frozen=True)
class Case:
    """A layer, the shape of one example and of what becomes of it, and the parameters in order."""

    make: Callable[[], Any]
    example: Shape
    outputs: tuple[Shape, ...]
    parameters: dict[str, Shape] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def inputs(self, *lead: int) -> np.ndarray:
        draw = np.random.default_rng(0)
        if self.options.get("integers"):
            return draw.integers(0, 7, (*lead, *self.example))
        return draw.standard_normal((*lead, *self.example)).astype(np.float32)


def affine(count: int, *names: str) -> dict[str, Shape]:
    parts = {name: {"weight": (count, count), "bias": (count,)} for name in names}
    return {f"{name}.{part}": shape for name, of in parts.items() for part, shape in of.items()}


def scale(*names: str) -> dict[str, Shape]:
    return {f"{name}.{part}": (6,) for name in names for part in ("weight", "bias")}


HEADS = affine(6, "query", "key", "value", "output")
CASES = {
    "Linear": Case(
        lambda: nn.Linear(4, 3, key=0), (5, 4), ((5, 3),), {"weight": (4, 3), "bias": (3,)}
    ),
    "Linear without bias": Case(
        lambda: nn.Linear(4, 3, key=0, bias=False), (4,), ((3,),), {"weight": (4, 3)}
    ),
    "Embedding": Case(
        lambda: nn.Embedding(7, 3, key=0),
        (5,),
        ((5, 3),),
        {"weight": (7, 3)},
        {"integers": True},
    ),
    "Conv1d": Case(
        lambda: nn.Conv1d(4, 6, 3, key=0, stride=2, padding=1, groups=2),
        (8, 4),
        ((4, 6),),
        {"weight": (3, 2, 6), "bias": (6,)},
    ),
    "Conv2d": Case(
        lambda: nn.Conv2d(2, 3, (3, 2), key=0, padding="same", dilation=2),
        (6, 5, 2),
        ((6, 5, 3),),
        {"weight": (3, 2, 2, 3), "bias": (3,)},
    ),
    "ConvTranspose1d": Case(
        lambda: nn.ConvTranspose1d(2, 4, 3, key=0, stride=2, output_padding=1, groups=2),
        (4, 2),
        ((10, 4),),
        {"weight": (3, 2, 2), "bias": (4,)},
    ),
    "ConvTranspose2d": Case(
        lambda: nn.ConvTranspose2d(2, 3, 3, key=0, stride=2, output_padding=1),
        (3, 4, 2),
        ((8, 10, 3),),
        {"weight": (3, 3, 3, 2), "bias": (3,)},
    ),
    "MaxPool1d": Case(lambda: nn.MaxPool1d(3, stride=2), (7, 2), ((3, 2),)),
    "AvgPool1d": Case(lambda: nn.AvgPool1d(2, padding=1), (6, 2), ((4, 2),)),
    "MaxPool2d": Case(lambda: nn.MaxPool2d((2, 3), padding="same"), (5, 6, 2), ((3, 2, 2),)),
    "AvgPool2d": Case(lambda: nn.AvgPool2d(2), (4, 6, 2), ((2, 3, 2),)),
    "GlobalMaxPool": Case(nn.GlobalMaxPool, (4, 3, 2), ((2,),)),
    "GlobalAvgPool": Case(nn.GlobalAvgPool, (5, 2), ((2,),)),
    "Dropout": Case(lambda: nn.Dropout(0.5), (4,), ((4,),)),
    "LayerNorm": Case(lambda: nn.LayerNorm(4), (3, 4), ((3, 4),), {"weight": (4,), "bias": (4,)}),
    "RMSNorm": Case(lambda: nn.RMSNorm(4), (3, 4), ((3, 4),), {"weight": (4,)}),
    "GroupNorm": Case(
        lambda: nn.GroupNorm(2, 4), (3, 5, 4), ((3, 5, 4),), {"weight": (4,), "bias": (4,)}
    ),
    "BatchNorm": Case(lambda: nn.BatchNorm(4), (3, 4), ((3, 4),), {"weight": (4,), "bias": (4,)}),
    "RNN": Case(
        lambda: nn.RNN(4, 3, key=0),
        (5, 4),
        ((5, 3), (3,)),
        {"input_weight": (4, 3), "state_weight": (3, 3), "bias": (3,)},
    ),
    "LSTM": Case(
        lambda: nn.LSTM(4, 3, key=0),
        (5, 4),
        ((5, 3), (3,), (3,)),
        {"input_weight": (4, 12), "state_weight": (3, 12), "bias": (12,)},
    ),
    "GRU": Case(
        lambda: nn.GRU(4, 3, key=0),
        (5, 4),
        ((5, 3), (3,)),
        {"input_weight": (4, 9), "state_weight": (3, 9), "bias": (9,), "state_bias": (9,)},
    ),
    "MultiHeadAttention": Case(
        lambda: nn.MultiHeadAttention(6, 2, key=0), (5, 6), ((5, 6),), HEADS
    ),
    "TransformerEncoderBlock": Case(
        lambda: nn.TransformerEncoderBlock(6, 2, 8, key=0, causal=True),
        (5, 6),
        ((5, 6),),
        {f"attention.{name}": shape for name, shape in HEADS.items()}
        | scale("attention_norm", "network_norm")
        | {"wide.weight": (6, 8), "wide.bias": (8,), "narrow.weight": (8, 6), "narrow.bias": (6,)},
    ),
    "Sequential": Case(
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, key=0), nn.relu, nn.MaxPool2d(2), nn.flatten, nn.Linear(8, 3, key=1)
        ),
        (6, 6, 1),
        ((3,),),
        {
            "layers.0.weight": (3, 3, 1, 2),
            "layers.0.bias": (2,),
            "layers.4.weight": (8, 3),
            "layers.4.bias": (3,),
        },
    ),
}
every = pytest.mark.parametrize("name", CASES)


def leaves(result: Any) -> Iterator[fc.Tensor]:
    if isinstance(result, tuple):
        for part in result:
            yield from leaves(part)
    else:
        yield result


def gradient(case: Case) -> tuple[fc.Tensor, Callable[[Any, Any], fc.Tensor]]:
    """Parameters other than the first, and the gradient at (theta, x) of a loss of all outputs.

    It is with respect to the parameters, or to x for a layer that has none.
    """
    theta, rebuild = fc.ravel(case.make())
    shift = np.random.default_rng(1).standard_normal(theta.shape).astype(np.float32)

    def loss(theta: Any, x: Any) -> fc.Tensor:
        parts = [fc.sin(y * 1.5).sum() for y in leaves(rebuild(theta)(x))]
        return fc.stack(parts).sum()

    if theta.size:
        return theta + 0.1 * shift, fc.grad(loss)
    return theta, lambda theta, x: fc.grad(lambda x: loss(theta, x))(x)


def assert_close(given: Any, expected: Any) -> None:
    """Equal up to the rounding of sums in another order, seen against the largest element."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


def test_every_layer_is_tried() -> None:
    layers = {
        name
        for name in nn.__all__
        if isinstance(kind := getattr(nn, name), type) and issubclass(kind, nn.Module)
    }
    assert layers - {"Module"} <= {name.split()[0] for name in CASES}


@every
def test_parameters_have_their_documented_names_order_and_shapes(name: str) -> None:
    case = CASES[name]
    found = {path: value.shape for path, value in case.make().parameters().items()}
    assert list(found.items()) == list(case.parameters.items())
    assert [(e.path, e.shape) for e in fc.ravel(case.make())[1].spec] == list(found.items())


@every
def test_an_output_has_the_documented_shape_and_the_dtype_of_the_parameters(name: str) -> None:
    case = CASES[name]
    outputs = list(leaves(case.make()(case.inputs(N))))
    assert [y.shape for y in outputs] == [(N, *shape) for shape in case.outputs]
    assert {y.dtype for y in outputs} == {np.dtype(np.float32)}


@every
def test_the_models_of_many_clients_compute_as_each_alone(name: str) -> None:
    case = CASES[name]
    theta, slope = gradient(case)
    thetas = np.stack([theta.numpy() * factor for factor in (1.0, 0.7)])
    xs = case.inputs(P, N)
    lanes = fc.vmap(slope)(thetas, xs).numpy()
    for client in range(P):
        assert_close(lanes[client], slope(fc.tensor(thetas[client]), xs[client]))


@every
def test_the_gradient_of_each_example_is_that_of_the_example_alone(name: str) -> None:
    case = CASES[name]
    theta, slope = gradient(case)
    xs = case.inputs(N, 1)  # lanes of one example each
    lanes = fc.vmap(slope, in_axes=(None, 0))(theta, xs).numpy()
    for example in range(N):
        assert_close(lanes[example], slope(theta, xs[example]))


@every
def test_examples_of_each_client_map_twice(name: str) -> None:
    case = CASES[name]
    theta, slope = gradient(case)
    thetas = np.stack([theta.numpy() * factor for factor in (1.0, 0.7)])
    xs = case.inputs(P, N, 1)
    both = fc.vmap(fc.vmap(slope, in_axes=(None, 0)))(thetas, xs).numpy()
    for client in range(P):
        for example in range(N):
            alone = slope(fc.tensor(thetas[client]), xs[client, example])
            assert_close(both[client, example], alone)


@every
def test_a_replay_has_the_bits_of_the_call(name: str) -> None:
    case = CASES[name]
    theta, slope = gradient(case)
    step, x = fc.compile(slope), case.inputs(N)
    step(theta, x)
    again = x[::-1].copy()
    np.testing.assert_array_equal(step(theta * 0.9, again), slope(theta * 0.9, again))


@every
def test_a_layer_survives_its_state_dict_and_prints_its_parameters(name: str) -> None:
    case = CASES[name]
    layer, x = case.make(), case.inputs(N)
    loaded = layer.with_state_dict({k: v + 0 for k, v in layer.state_dict().items()})
    for one, other in zip(leaves(layer(x)), leaves(loaded(x)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(str(shape) in repr(layer) for shape in case.parameters.values())


@every
def test_a_summary_lists_parameters_and_output_shapes(name: str) -> None:
    case = CASES[name]
    dtype = "int64" if case.options.get("integers") else "float32"
    table = case.make().summary(case.example, dtype=dtype)
    total = sum(int(np.prod(shape)) for shape in case.parameters.values())
    *rows, last = table.splitlines()[1:]
    assert last.split()[:2] == ["total", f"{total:,}"]
    assert all(str(shape) in rows[-1] for shape in case.outputs), table


ANY_AXES = {"Linear", "Embedding", "Dropout", "LayerNorm", "RMSNorm", "BatchNorm"}
ANY_CHANNELS = {kind for kind in dir(nn) if "Pool" in kind} | {"Dropout", "Embedding"}


def wrong_inputs(name: str) -> Iterator[tuple[str, Any]]:
    x, kind = CASES[name].inputs(N), name.split()[0]
    yield from [("a text", "text"), ("None", None), ("a list", x.tolist()), ("a number", 1.0)]
    if kind not in ANY_AXES:
        yield "one axis", x.ravel()[: x.shape[-1]]
    if kind not in ANY_CHANNELS:
        yield "channels", x[..., :-1]
        yield from [("doubles", x.astype(np.float64)), ("integers", x.astype(np.int64))]
    if kind == "Embedding":
        yield from [("floats", x.astype(np.float32)), ("too large", x + 7), ("negative", x - 70)]


@every
def test_a_wrong_input_is_refused_with_the_layers_path(name: str) -> None:
    model = nn.Sequential(lambda x: x, CASES[name].make())
    for what, bad in wrong_inputs(name):
        with pytest.raises(FedcoreError) as caught:
            model(bad)
            pytest.fail(f"{what} was taken")
        assert caught.value.what.startswith("layers.1"), (what, caught.value.what)
        assert caught.value.where and caught.value.why and caught.value.fix, what
