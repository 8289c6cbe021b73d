"""A model and its flat vector: one memory, one layout, under every transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore as fc
from fedcore import nn
from fedcore.autograd.tree import flatten, flatten_paths
from fedcore.errors import DtypeError, ShapeError, TreeError
from fedcore.tensor.primitive import Primitive
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, interpreter, tensor

Array = np.ndarray[Any, Any]
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-13}  # float64; the sums may differ in order


def filled(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape)


MODELS = st.recursive(
    SHAPES.map(filled),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
        st.tuples(inner, st.none()),
    ),
    max_leaves=6,
)


def mlp(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = ((5, 4), (4,), (4, 3))
    w, b, v = (tensor(rng.standard_normal(size)) for size in sizes)
    return {"layers": [(w, b), (v, None)], "scale": tensor(np.float64(1.5))}


def loss(model: dict[str, Any], x: Any) -> Any:
    (w, b), (v, _) = model["layers"]
    return (ops.tanh(ops.tanh(x @ w + b) @ v) ** 2).sum() * model["scale"]


def inputs(*lead: int) -> Tensor:
    return tensor(np.random.default_rng(1).standard_normal((*lead, 2, 5)))


# ---- layout


@given(MODELS)
def test_a_vector_holds_the_parameters_in_order_and_gives_the_model_back(model: Any) -> None:
    theta, rebuild = fc.ravel(model)
    pairs, structure = flatten_paths(model)
    assert theta.shape == (sum(a.size for _, a in pairs),) == (rebuild.spec.size,)
    back, its = flatten(rebuild(theta))
    assert its == structure
    for (path, a), b, entry in zip(pairs, back, rebuild.spec, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
        assert (entry.path, entry.shape, entry.size) == (path, a.shape, a.size)
        part = theta.numpy()[entry.offset : entry.offset + entry.size]
        np.testing.assert_array_equal(part, a.ravel())


@given(MODELS)
def test_split_and_join_are_inverse(model: Any) -> None:
    theta, rebuild = fc.ravel(model)
    spec = rebuild.spec
    parts = spec.split(theta.numpy())
    assert list(parts) == [path for path, _ in flatten_paths(model)[0]]
    np.testing.assert_array_equal(spec.join(parts), theta.numpy())
    many = np.stack([theta.numpy(), -theta.numpy()])
    for path, part in spec.split(many).items():
        assert part.shape == (2, *spec[path].shape)
        np.testing.assert_array_equal(part[1], -parts[path])


def test_the_parameters_are_views_of_the_vector_which_owns_its_memory() -> None:
    model = mlp()
    theta, rebuild = fc.ravel(model)
    assert theta.data.base is None
    for before, now in zip(flatten(model)[0], flatten(rebuild(theta))[0], strict=True):
        assert np.shares_memory(theta.data, now.data)
        assert not np.shares_memory(before.data, theta.data)
    for part in rebuild.spec.split(theta.numpy()).values():
        assert np.shares_memory(part, theta.data)
    other = np.zeros_like(theta.numpy())
    rebuilt = rebuild(other)
    other[0] = 7.0
    assert rebuilt["layers"][0][0].numpy()[0, 0] == 7.0


def test_numbers_and_nested_floats_are_parameters_too() -> None:
    theta, rebuild = fc.ravel({"a": 1.5, "b": [2.0, np.float32(3.0)]})
    assert (theta.tolist(), theta.dtype) == ([1.5, 2.0, 3.0], np.float32)
    assert rebuild(theta)["b"][1].item() == 3.0


def test_a_model_without_parameters_is_an_empty_vector() -> None:
    theta, rebuild = fc.ravel({"none": None, "empty": []})
    assert theta.shape == (0,) and rebuild.spec.size == 0
    assert rebuild(theta) == {"none": None, "empty": []}


def test_an_entry_is_found_by_its_path() -> None:
    _, rebuild = fc.ravel(mlp())
    assert rebuild.spec["layers.1.0"].shape == (4, 3)
    with pytest.raises(KeyError):
        rebuild.spec["layers.7"]


# ---- transformations


def flat_loss(rebuild: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda theta, x: loss(rebuild(theta), x)


def raveled(tree: Any) -> Array:
    return fc.ravel(tree)[0].numpy()


def test_the_gradient_of_the_vector_is_that_of_the_pytree() -> None:
    theta, rebuild = fc.ravel(mlp())
    found = fc.grad(flat_loss(rebuild))(theta, inputs())
    np.testing.assert_allclose(found.numpy(), raveled(fc.grad(loss)(mlp(), inputs())), **EXACT)


def test_the_second_derivative_of_the_vector_is_that_of_the_pytree() -> None:
    theta, rebuild = fc.ravel(mlp())
    along, tree_along = fc.ravel(mlp(seed=5))[0], mlp(seed=5)

    def slope(theta: Any) -> Any:
        return (fc.grad(flat_loss(rebuild))(theta, inputs()) * along).sum()

    def tree_slope(model: Any) -> Any:
        gradient = fc.grad(loss)(model, inputs())
        terms = zip(flatten(gradient)[0], flatten(tree_along)[0], strict=True)
        return ops.stack([(g * d).sum() for g, d in terms]).sum()

    expected = raveled(fc.grad(tree_slope)(mlp()))
    np.testing.assert_allclose(fc.grad(slope)(theta).numpy(), expected, **EXACT)


@pytest.mark.parametrize("levels", [1, 2])
def test_each_lane_rebuilds_its_own_model(levels: int) -> None:
    """With parameters per lane; at two levels the gradient nests too."""
    _, rebuild = fc.ravel(mlp())
    lead = (3, 2)[:levels]
    count = int(np.prod(lead))
    thetas = np.stack([fc.ravel(mlp(seed=i))[0].numpy() for i in range(count)])
    x = inputs(*lead)
    mapped: Callable[..., Any] = fc.grad(flat_loss(rebuild))
    for _ in lead:
        mapped = fc.vmap(mapped)
    found = mapped(tensor(thetas.reshape(*lead, -1)), x).numpy().reshape(count, -1)
    for i in range(count):
        own = raveled(fc.grad(loss)(mlp(seed=i), tensor(x.numpy().reshape(count, 2, 5)[i])))
        np.testing.assert_allclose(found[i], own, **EXACT)


def test_a_shared_vector_gives_one_gradient_a_lane_and_their_sum_outside() -> None:
    theta, rebuild = fc.ravel(mlp())
    x, own = inputs(4), flat_loss(rebuild)
    lanes = fc.vmap(fc.grad(own), (None, 0))(theta, x).numpy()
    for i in range(4):
        np.testing.assert_allclose(lanes[i], raveled(fc.grad(loss)(mlp(), x[i])), **EXACT)
    total = fc.grad(lambda theta: fc.vmap(own, (None, 0))(theta, x).sum())(theta)
    np.testing.assert_allclose(total.numpy(), lanes.sum(0), **EXACT)


def test_a_hessian_in_lanes_equals_that_of_each_lane() -> None:
    theta, rebuild = fc.ravel(mlp())
    x = inputs(3)

    def slope(theta: Any, x: Any) -> Any:
        return (fc.grad(flat_loss(rebuild))(theta, x) ** 2).sum()

    lanes = fc.vmap(fc.grad(slope), (None, 0))(theta, x).numpy()
    for i in range(3):
        np.testing.assert_allclose(lanes[i], fc.grad(slope)(theta, x[i]).numpy(), **EXACT)


def test_a_gradient_is_assembled_once_and_never_a_chain_of_slices() -> None:
    """No call but the assembly has the length of the vector."""
    calls: list[tuple[str, tuple[int, ...]]] = []

    class Shapes:
        def record(self, prim: Primitive, xs: Any, params: Any, y: Tensor) -> None:
            calls.append((prim.name, y.shape))

    theta, rebuild = fc.ravel(mlp())
    interpreter.recorder = Shapes()
    try:
        fc.grad(flat_loss(rebuild))(theta, inputs())
    finally:
        interpreter.recorder = None
    assert [name for name, shape in calls if shape == theta.shape] == ["alias", "assemble"]


# ---- refusals


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ([np.ones(2, np.float32), np.ones(2)], "float32, float64"),
        ([np.ones(2, np.int64)], "int64"),
        ({"a": 1.0, "b": True}, "bool"),
    ],
)
def test_one_vector_has_one_floating_dtype(model: Any, named: str) -> None:
    with pytest.raises(DtypeError, match=named):
        fc.ravel(model)


def test_two_parameters_of_one_path_are_refused() -> None:
    with pytest.raises(TreeError, match=r"'a\.b'"):
        fc.ravel({"a.b": 1.0, "a": {"b": 2.0}})


@pytest.mark.parametrize("shape", [(0,), (36,), (38,), ()])
def test_a_vector_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    _, rebuild = fc.ravel(mlp())
    for take in (rebuild, rebuild.spec.split):
        with pytest.raises(ShapeError, match="37 parameters"):
            take(np.zeros(shape))


def test_the_vectors_of_many_clients_are_rebuilt_by_vmap_only() -> None:
    theta, rebuild = fc.ravel(mlp())
    with pytest.raises(ShapeError, match="vmap"):
        rebuild(ops.stack([theta, theta]))


def test_join_refuses_what_is_missing_or_misshapen() -> None:
    theta, rebuild = fc.ravel(mlp())
    parts = rebuild.spec.split(theta.numpy())
    for wrong in ({**parts, "scale": np.ones(2)}, {k: parts[k] for k in parts if k != "scale"}):
        with pytest.raises(ShapeError, match="'scale'"):
            rebuild.spec.join(wrong)


def shared_twice() -> list[Any]:
    layer = nn.Linear(3, 3, key=0)

    class Tied(nn.Module):
        def __init__(self) -> None:
            self.encoder, self.inner = layer, {"decoder": layer}

    return [(Tied(), "encoder", "inner.decoder"), (nn.Sequential(layer, abs, layer), "0", "2")]


@pytest.mark.parametrize(("model", "first", "second"), shared_twice())
def test_one_module_at_two_places_is_refused_with_both(model: Any, first: str, second: str) -> None:
    with pytest.raises(TreeError, match=rf"{first}' and '[^']*{second}' .*same Linear") as caught:
        fc.ravel(model)
    assert "call it twice" in caught.value.fix


def test_a_module_held_once_and_called_twice_has_one_set_of_parameters() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(3, 3, key=0)

        def forward(self, x: Any, ctx: nn.Context) -> Any:
            return self.layer(self.layer(x, ctx=ctx), ctx=ctx)

    theta, rebuild = fc.ravel(Twice())
    assert theta.shape == (12,)
    assert rebuild(theta)(np.ones((1, 3), np.float32)).shape == (1, 3)


def test_a_module_without_parameters_or_state_may_stand_anywhere() -> None:
    pool = nn.MaxPool2d(2)
    theta, rebuild = fc.ravel(nn.Sequential(pool, abs, pool, nn.BatchNorm(1)))
    x = np.ones((1, 4, 4, 1), np.float32)
    assert theta.shape == (2,) and rebuild(theta)(x).shape == (1, 1, 1, 1)


def test_state_shared_by_two_places_is_refused_with_both() -> None:
    class Count(nn.Module):
        state_names = ("count",)

        def __init__(self) -> None:
            self.count = fc.tensor(0.0)

        def forward(self, x: Any, ctx: nn.Context) -> Any:
            ctx.write(self, "count", ctx.read(self, "count") + 1.0)
            return x

    count = Count()
    with pytest.raises(TreeError, match=r"'layers\.0' and 'layers\.1' are the same Count"):
        nn.ravel_state(nn.Sequential(count, count))


def test_two_equal_arrays_stay_two_parameters() -> None:
    w = fc.tensor([1.0, 2.0])
    theta, rebuild = fc.ravel({"a": w, "b": w})
    moved = rebuild(theta + fc.tensor([0.0, 0.0, 1.0, 1.0]))
    assert theta.shape == (4,) and moved["a"].tolist() == [1.0, 2.0]
    assert moved["b"].tolist() == [2.0, 3.0]
