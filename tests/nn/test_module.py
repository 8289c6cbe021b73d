"""Modules are values: their parts are found by path and rebuilt with other leaves, none lost."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.autograd.tree import flatten, map_tree, unflatten
from fedcore.checkpoint import load_checkpoint, save_checkpoint
from fedcore.errors import (
    ArgumentError,
    CheckpointError,
    DtypeError,
    MutationError,
    ShapeError,
    TreeError,
)


class Mean(nn.Module):
    """Remembers the mean of what it has seen, and adds a trained shift to the input less it."""

    state_names = ("mean",)

    def __init__(self, size: int) -> None:
        self.mean = nn.init.zeros((size,))
        self.shift = nn.init.ones((size,))

    def forward(self, x: fc.Tensor, ctx: nn.Context) -> fc.Tensor:
        mean = ctx.read(self, "mean")
        if ctx.training:
            ctx.write(self, "mean", mean * 0.5 + x.mean(axis=0) * 0.5)
        return x - mean + self.shift


class Net(nn.Module):
    """Parts in an attribute, a list and a dict, beside options."""

    def __init__(self, *, width: int = 3) -> None:
        self.name = "net"
        self.first = nn.Linear(4, width, key=0)
        self.blocks = [nn.Linear(width, width, key=1), abs, Mean(width)]
        self.heads = {"b": nn.Linear(width, 2, key=2), "a": nn.init.ones((2,))}
        self.table = np.arange(3)

    def forward(self, x: fc.Tensor, ctx: nn.Context) -> fc.Tensor:
        linear, activation, mean = self.blocks
        x = activation(linear(self.first(x, ctx=ctx), ctx=ctx))
        return self.heads["b"](mean(x, ctx=ctx), ctx=ctx) * self.heads["a"]


PATHS = [
    "first.weight",
    "first.bias",
    "blocks.0.weight",
    "blocks.0.bias",
    "blocks.2.shift",
    "heads.a",
    "heads.b.weight",
    "heads.b.bias",
]
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def test_parameters_are_found_by_path_in_the_order_of_ravel() -> None:
    net = Net()
    theta, rebuild = fc.ravel(net)
    assert list(net.parameters()) == PATHS == [entry.path for entry in rebuild.spec]
    assert theta.shape == (sum(p.size for p in net.parameters().values()),)


def test_rebuilding_gives_the_same_function_and_the_same_options() -> None:
    net = Net()
    theta, rebuild = fc.ravel(net)
    again = rebuild(theta)
    assert again.name == "net" and again.blocks[1] is abs
    np.testing.assert_array_equal(again(X).numpy(), net(X).numpy())
    for path, value in again.parameters().items():
        assert np.shares_memory(value.numpy(), theta.numpy()), path


def test_rebuilding_leaves_the_original_as_it_was() -> None:
    net = Net()
    before = net.state_dict()
    theta, rebuild = fc.ravel(net)
    assert not rebuild(theta * 0.0)(X).numpy().any()
    for path, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[path])


class Shift(nn.Module):
    """Assigns the same attribute twice, as an `__init__` may."""

    def __init__(self, by: float) -> None:
        self.by = by
        self.by = 2.0 * by

    def forward(self, x: fc.Tensor, ctx: nn.Context) -> fc.Tensor:
        return x + self.by


class NamedShift(Shift):
    """Goes on to assign after the `__init__` that it inherits."""

    def __init__(self, by: float, name: str) -> None:
        super().__init__(by)
        self.name = name


class PlainShift(Shift):
    """Has no `__init__` of its own."""


@pytest.mark.parametrize(
    "model", [Shift(1.0), NamedShift(1.0, "a"), PlainShift(1.0), nn.Linear(2, 2, key=0)], ids=repr
)
@pytest.mark.parametrize(
    "again",
    [
        lambda m: m,
        copy.copy,
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: map_tree(lambda x: x * 2.0, m),
        lambda m: m.with_state({}),
    ],
)
def test_a_module_is_not_assigned_to_after_its_init(model: nn.Module, again: Any) -> None:
    made = again(model)
    before = dict(vars(made))
    for name in ("by", "fresh"):
        with pytest.raises(MutationError, match=rf"{type(model).__name__}\.{name}") as caught:
            setattr(made, name, 7.0)
        assert "test_module.py" in caught.value.where
    assert vars(made) == before


def test_structures_are_equal_for_equal_models_and_differ_with_options_and_state() -> None:
    net = Net()
    leaves, structure = flatten(net)
    assert flatten(unflatten(structure, leaves))[1] == structure
    assert flatten(map_tree(lambda x: x * 2.0, net))[1] == structure
    renamed = copy.copy(net)
    vars(renamed)["name"] = "other"
    assert flatten(renamed)[1] != structure
    assert flatten(Net(width=4))[1] != structure
    assert flatten(Net())[1] != structure  # another state: its program cannot be shared


def test_models_of_different_options_are_not_combined() -> None:
    one, other = nn.Sequential(nn.Linear(2, 2, key=0)), nn.Sequential(nn.Linear(2, 2, key=0), abs)
    with pytest.raises(TreeError):
        map_tree(lambda a, b: a + b, one, other)


def test_state_is_no_parameter_and_ravels_into_a_vector_of_its_own() -> None:
    net = Net()
    state, rebuild_state = nn.ravel_state(net)
    assert [entry.path for entry in rebuild_state.spec] == ["blocks.2.mean"]
    changed = rebuild_state(net, state + 2.0)
    assert changed.state_dict()["blocks.2.mean"].tolist() == [2.0, 2.0, 2.0]
    assert net.state_dict()["blocks.2.mean"].tolist() == [0.0, 0.0, 0.0]
    assert not np.shares_memory(state.numpy(), net.state_dict()["blocks.2.mean"])


def test_a_state_vector_of_another_size_is_refused_with_both_sizes() -> None:
    _, rebuild_state = nn.ravel_state(Net())
    with pytest.raises(ShapeError, match=r"\(2,\).* 3 "):
        rebuild_state(Net(), fc.tensor([1.0, 2.0]))
    net = Net()
    with pytest.raises(ShapeError, match=r"\(2,\).* 3 "):
        net(X, ctx=nn.Context(net, state=fc.tensor([1.0, 2.0])))


def test_the_context_reads_the_state_given_and_returns_the_state_after() -> None:
    net = Net()
    state, _ = nn.ravel_state(net)
    ctx = nn.Context(net, training=True, state=state + 1.0)
    assert ctx.state.tolist() == [1.0, 1.0, 1.0]
    net(X, ctx=ctx)
    hidden = abs(net.blocks[0](net.first(X))).mean(axis=0)
    np.testing.assert_allclose(ctx.state.numpy(), 0.5 + 0.5 * hidden.numpy(), rtol=1e-6)
    own = nn.Context(net, training=True)
    net(X, ctx=own)
    np.testing.assert_allclose(own.state.numpy(), 0.5 * hidden.numpy(), rtol=1e-6)


def test_without_a_context_nothing_is_updated() -> None:
    net = Net()
    ctx = nn.Context(net)
    net(X, ctx=ctx)
    assert ctx.state.tolist() == [0.0, 0.0, 0.0]


def test_each_lane_keeps_its_own_state_and_gradient() -> None:
    net = Net()
    theta, rebuild = fc.ravel(net)
    state, _ = nn.ravel_state(net)

    def loss(theta: Any, state: Any, x: Any) -> Any:
        model = rebuild(theta)
        ctx = nn.Context(model, training=True, state=state)
        return (model(x, ctx=ctx) ** 2).mean(), ctx.state

    draw = np.random.default_rng(1)
    thetas = theta.numpy() + draw.standard_normal((3, theta.size)).astype(np.float32)
    states = draw.standard_normal((3, 3)).astype(np.float32)
    xs = draw.standard_normal((3, 5, 4)).astype(np.float32)
    both = fc.value_and_grad(loss, has_aux=True)
    (_, after), slopes = fc.vmap(both)(thetas, states, xs)
    for lane in range(3):
        (_, one), slope = both(*[fc.tensor(a[lane]) for a in (thetas, states, xs)])
        np.testing.assert_array_equal(after.numpy()[lane], one.numpy())
        np.testing.assert_allclose(slopes.numpy()[lane], slope.numpy(), rtol=1e-5, atol=1e-6)
    shared, _ = fc.vmap(lambda x: loss(theta, state, x))(xs)
    assert shared.shape == (3,)


def test_a_replay_carries_the_state_on() -> None:
    net = Net()
    theta, rebuild = fc.ravel(net)
    state, _ = nn.ravel_state(net)

    def forward(theta: Any, state: Any, x: Any) -> Any:
        model = rebuild(theta)
        ctx = nn.Context(model, training=True, state=state)
        return model(x, ctx=ctx), ctx.state

    replayed = fc.compile(forward)
    ours = theirs = state
    for scale in (1.0, 2.0, -3.0):
        y, ours = replayed(theta, ours, X * np.float32(scale))
        expected, theirs = forward(theta, theirs, X * np.float32(scale))
        np.testing.assert_array_equal(y.numpy(), expected.numpy())
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert len(replayed.programs) == 1


def test_an_error_names_the_path_of_the_layer_and_both_shapes() -> None:
    net = Net()
    net.blocks[0] = nn.Linear(7, 3, key=0)
    with pytest.raises(ShapeError, match=r"blocks\.0 \(Linear\): .*\(5, 3\).*\(7, 3\)") as caught:
        net(X)
    assert caught.value.what.count("Linear") == 1
    assert caught.value.where


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
@pytest.mark.parametrize("layer", [nn.Linear(4, 2, key=0), nn.LayerNorm(4), nn.GRU(4, 2, key=0)])
def test_an_input_of_integers_is_refused_with_the_way_to_convert_it(
    dtype: str, layer: nn.Module
) -> None:
    with pytest.raises(DtypeError, match=rf"input is {dtype}.* computes in float32") as caught:
        layer(np.ones((3, 5, 4), dtype))
    assert "precision" not in str(caught.value)
    assert "x.astype('float32') / 255" in caught.value.fix


def test_a_double_input_is_refused() -> None:
    with pytest.raises(DtypeError, match=r"float64.*float32"):
        nn.Linear(4, 2, key=0)(np.ones((3, 4)))


def test_a_context_of_another_model_is_refused() -> None:
    with pytest.raises(ArgumentError, match="Mean"):
        Mean(3)(np.ones((2, 3), np.float32), ctx=nn.Context(Net()))


def test_a_state_cannot_change_its_shape() -> None:
    mean = Mean(3)
    with pytest.raises(ShapeError, match=r"mean.*\(3,\).*\(2,\)"):
        nn.Context(mean).write(mean, "mean", fc.tensor([1.0, 2.0]))


def test_a_model_survives_a_checkpoint(tmp_path: Path) -> None:
    net = Net()
    trained = nn.ravel_state(net)[1](net, fc.tensor([1.0, 2.0, 3.0]))
    save_checkpoint(tmp_path / "net.safetensors", trained.state_dict())
    loaded = Net().with_state_dict(load_checkpoint(tmp_path / "net.safetensors").arrays)
    assert loaded.state_dict().keys() == trained.state_dict().keys()
    for path, array in loaded.state_dict().items():
        np.testing.assert_array_equal(array, trained.state_dict()[path])
    np.testing.assert_array_equal(loaded(X).numpy(), trained(X).numpy())


def test_what_does_not_fit_a_model_is_listed() -> None:
    arrays: dict[str, Any] = Net().state_dict()
    arrays["extra"] = arrays.pop("heads.a")
    arrays["first.bias"] = np.zeros(9, np.float32)
    with pytest.raises(CheckpointError) as caught:
        Net().with_state_dict(arrays)
    for part in ("missing: heads.a", "unexpected: extra", "first.bias is float32 (9,)"):
        assert part in caught.value.why


def test_a_whole_checkpoint_is_no_mapping_but_has_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "net", Net().state_dict())
    with pytest.raises(ArgumentError, match="Checkpoint") as caught:
        Net().with_state_dict(load_checkpoint(tmp_path / "net"))  # type: ignore[arg-type]
    assert "load_checkpoint(path).arrays" in caught.value.fix


def test_the_loaded_model_does_not_share_memory_with_the_arrays() -> None:
    arrays = Net().state_dict()
    loaded = Net().with_state_dict(arrays)
    assert not np.shares_memory(arrays["heads.a"], loaded.state_dict()["heads.a"])


def test_the_printed_tree_shows_parts_shapes_and_options() -> None:
    assert repr(Net()) == "\n".join(
        [
            "Net(name=net, heads.a (2,), table=[0 1 2]",
            "  first: Linear(weight (4, 3), bias (3,))",
            "  blocks.0: Linear(weight (3, 3), bias (3,))",
            "  blocks.1: abs",
            "  blocks.2: Mean(shift (3,))",
            "  heads.b: Linear(weight (3, 2), bias (2,))",
            ")",
        ]
    )


def test_a_summary_counts_parameters_bytes_and_flops() -> None:
    lines = Net().summary((4,)).splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "bytes", "FLOPs"]
    assert lines[1].split() == ["first", "Linear", "(3,)", "15", "60", "24"]
    assert lines[-1].split() == ["total", "40", "160", "54"]
    assert len(lines) == 1 + 4 + 1


def test_a_sequence_refuses_what_cannot_be_called() -> None:
    with pytest.raises(ArgumentError, match="layer 1 is 3"):
        nn.Sequential(abs, 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="layer 0 is Linear"):
        nn.Sequential(nn.Linear)


def test_a_size_below_one_is_refused() -> None:
    for size in (0, -1, 2.0, True):
        with pytest.raises(ArgumentError, match="in_features"):
            nn.Linear(size, 3, key=0)  # type: ignore[arg-type]
