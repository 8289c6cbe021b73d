"""`vmap`: each lane equals the loop, for every way of mapping, nesting and differentiating."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore as fc
from fedcore.autograd.tree import map_tree
from fedcore.errors import ArgumentError, ShapeError, TraceError
from fedcore.tensor.random import Key
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, interpreter, tensor

Array = np.ndarray[Any, Any]
EXACT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-13}  # float64; BLAS may order a sum differently


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return tensor(np.random.default_rng(seed).standard_normal(shape))


def layer(w: Any, x: Any) -> Any:
    """w (3, 2), x (..., 3) -> (..., 2); a matrix product, a broadcast and a reduction."""
    return ops.tanh(x @ w + w.sum(axis=0)) / (1.0 + (w * w).sum())


def loss(w: Any, x: Any) -> Any:
    return (layer(w, x) ** 2).sum()


# ---- which axes are mapped


@pytest.mark.parametrize("w_axis", [None, 0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("x_axis", [None, 0, 1, -1, -2])
def test_each_lane_equals_the_loop_whatever_axis_is_mapped(
    w_axis: int | None, x_axis: int | None
) -> None:
    if w_axis is None and x_axis is None:
        return
    w, x = drawn(4, 3, 2), drawn(4, 3, seed=1)
    ws = w[0] if w_axis is None else tensor(np.moveaxis(w.numpy(), 0, w_axis))
    xs = x[0] if x_axis is None else tensor(np.moveaxis(x.numpy(), 0, x_axis))
    found = fc.vmap(layer, (w_axis, x_axis))(ws, xs).numpy()
    for i in range(4):
        own = layer(w[0] if w_axis is None else w[i], x[0] if x_axis is None else x[i])
        np.testing.assert_allclose(found[i], own.numpy(), **EXACT)


@given(st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_the_number_of_lanes_may_equal_any_length(lanes: int, rows: int, shared: bool) -> None:
    """Also 1, and the length of a core axis: nothing is told apart by its size."""
    w, x = drawn(lanes, 3, 2), drawn(lanes, rows, 3, seed=1)
    ws = w[0] if shared else w
    found = fc.vmap(layer, (None if shared else 0, 0))(ws, x).numpy()
    assert found.shape == (lanes, rows, 2)
    for i in range(lanes):
        own = layer(w[0] if shared else w[i], x[i])
        np.testing.assert_allclose(found[i], own.numpy(), **EXACT)


def test_arguments_and_results_may_be_pytrees() -> None:
    tree = {"w": drawn(4, 3, 2), "rest": [drawn(4, 3, seed=1), None]}

    def function(t: Any, scale: Any) -> Any:
        return {"y": layer(t["w"], t["rest"][0]), "more": (t["rest"][0] * scale["s"], None)}

    found = fc.vmap(function, (0, None))(tree, {"s": 3.0})
    assert found["more"][1] is None
    for i in range(4):
        own = function(map_tree(lambda x, i=i: x[i], tree), {"s": 3.0})
        np.testing.assert_allclose(found["y"].numpy()[i], own["y"].numpy(), **EXACT)
        np.testing.assert_array_equal(found["more"][0].numpy()[i], own["more"][0].numpy())


def test_nested_levels_map_axes_of_their_own() -> None:
    w, x = drawn(2, 4, 3, 2), drawn(4, 5, 3, seed=1)
    inner = fc.vmap(layer, (None, 0))
    found = fc.vmap(fc.vmap(inner, (0, 0)), (0, None))(w, x).numpy()
    assert found.shape == (2, 4, 5, 2)
    for i, j, k in np.ndindex(2, 4, 5):
        np.testing.assert_allclose(found[i, j, k], layer(w[i][j], x[j][k]).numpy(), **EXACT)


def test_outer_values_are_seen_by_every_lane() -> None:
    """A constant, a lane of an outer level, and a value computed from it."""
    scale = drawn(3)

    def outer(a: Any) -> Any:
        shifted = a + 1.0
        return fc.vmap(lambda b: b * shifted * scale + a)(drawn(4, 3, seed=2))

    rows, bs = drawn(2, 3, seed=1), drawn(4, 3, seed=2).numpy()
    found = fc.vmap(outer)(rows).numpy()
    for i, j in np.ndindex(2, 4):
        a = rows.numpy()[i]
        np.testing.assert_allclose(found[i, j], bs[j] * (a + 1.0) * scale.numpy() + a, **EXACT)


def test_a_result_that_never_met_a_lane_is_repeated() -> None:
    constant = drawn(2)
    found = fc.vmap(lambda x: (constant * 2.0, 5.0, x))(drawn(3))
    np.testing.assert_array_equal(found[0].numpy(), np.tile(constant.numpy() * 2, (3, 1)))
    assert found[1].tolist() == [5.0, 5.0, 5.0]


def test_a_list_of_axes_is_as_good_as_a_tuple() -> None:
    x = drawn(2, 3)
    np.testing.assert_array_equal(
        fc.vmap(lambda a, b: a * b, [0, None])(x, 2.0).numpy(), x.numpy() * 2
    )


@pytest.mark.parametrize("chunk", [None, 2])
def test_no_lanes_give_no_results(chunk: int | None) -> None:
    w, x = drawn(3, 2), drawn(0, 3)
    assert fc.vmap(layer, (None, 0), chunk=chunk)(w, x).shape == (0, 2)
    assert fc.vmap(fc.grad(loss), (None, 0), chunk=chunk)(w, x).shape == (0, 3, 2)
    total = fc.grad(lambda w: fc.vmap(loss, (None, 0), chunk=chunk)(w, x).sum())(w)
    np.testing.assert_array_equal(total.numpy(), np.zeros((3, 2)))


# ---- derivatives


def lanes_and_loop(mapped: Any, single: Any, *args: tuple[Any, bool]) -> None:
    """`mapped` in lanes equals `single` in each, for arguments that are mapped or shared."""
    found = mapped(*[x for x, _ in args]).numpy()
    for i in range(found.shape[0]):
        own = single(*[x[i] if each else x for x, each in args]).numpy()
        np.testing.assert_allclose(found[i], own, **EXACT)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_gradients_of_any_order_in_lanes_equal_the_loop(order: int, shared: bool) -> None:
    function: Callable[..., Any] = loss
    for _ in range(order):
        last = function
        function = lambda w, x, f=last: (fc.grad(f)(w, x) ** 2).sum()  # noqa: E731
    w = drawn(3, 2) if shared else drawn(4, 3, 2)
    mapped = fc.vmap(function, (None if shared else 0, 0))
    lanes_and_loop(mapped, function, (w, not shared), (drawn(4, 3, seed=1), True))


@pytest.mark.parametrize("by", ["closure", "None", "mapped"])
@pytest.mark.parametrize("order", [1, 2])
def test_a_gradient_through_lanes_equals_that_of_the_loop(by: str, order: int) -> None:
    """A shared parameter gets the sum over the lanes, at second order too."""
    x = drawn(4, 3, seed=1)
    ways: dict[str, Callable[[Any], Any]] = {
        "closure": lambda w: fc.vmap(lambda x: loss(w, x))(x),
        "None": lambda w: fc.vmap(loss, (None, 0))(w, x),
        "mapped": lambda w: fc.vmap(loss)(ops.stack([w, 2.0 * w, w * w, -w]), x),
    }
    factors = [lambda w: w, lambda w: 2.0 * w, lambda w: w * w, lambda w: -w]

    def by_lanes(w: Any) -> Any:
        return (ways[by](w) * tensor(np.arange(1.0, 5.0))).sum()

    def by_loop(w: Any) -> Any:
        own = [f(w) if by == "mapped" else w for f in factors]
        return ops.stack([loss(own[i], x[i]) * float(i + 1) for i in range(4)]).sum()

    def twice(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda w: (fc.grad(f)(w) ** 2).sum()

    lanes, loop = (by_lanes, by_loop) if order == 1 else (twice(by_lanes), twice(by_loop))
    np.testing.assert_allclose(
        fc.grad(lanes)(drawn(3, 2)).numpy(), fc.grad(loop)(drawn(3, 2)).numpy(), **EXACT
    )


def test_a_gradient_of_mapped_gradients_equals_the_loop() -> None:
    """As when a penalty on per-example gradients is differentiated."""
    x, per_example = drawn(4, 3, seed=1), fc.vmap(fc.grad(loss), (None, 0))
    found = fc.grad(lambda w: (per_example(w, x) ** 2).sum())(drawn(3, 2))
    expected = fc.grad(
        lambda w: ops.stack([(fc.grad(loss)(w, x[i]) ** 2).sum() for i in range(4)]).sum()
    )(drawn(3, 2))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), **EXACT)


def test_a_penalty_that_meets_no_lane_counts_once_in_each() -> None:
    """The gradient of a loss that is the same in every lane, inside and outside."""
    penalty = lambda w, x: (w * w).sum()  # noqa: E731
    mixed = lambda w, x: loss(w, x) + penalty(w, x)  # noqa: E731
    w, x = drawn(3, 2), drawn(4, 3, seed=1)
    lanes = fc.vmap(fc.grad(penalty), (None, 0))(w, x).numpy()
    np.testing.assert_allclose(lanes, np.tile(2 * w.numpy(), (4, 1, 1)), **EXACT)
    lanes_and_loop(fc.vmap(fc.grad(mixed), (None, 0)), fc.grad(mixed), (w, False), (x, True))
    outside = fc.grad(lambda w: fc.vmap(penalty, (None, 0))(w, x).sum())(w)
    np.testing.assert_allclose(outside.numpy(), 4 * 2 * w.numpy(), **EXACT)


# ---- random numbers


def test_lanes_draw_alike_from_one_key_and_apart_from_their_own() -> None:
    def noise(words: Any, x: Any) -> Any:
        return x + ops.normal(words, (3,))

    key = Key(5, "test")
    one, own = key.words(), np.stack([key.fold(i).words() for i in range(4)])
    x = tensor(np.zeros((4, 3), np.float32))
    alike = fc.vmap(noise, (None, 0))(tensor(one), x).numpy()
    assert (alike == alike[0]).all()
    apart = fc.vmap(noise)(tensor(own), x).numpy()
    assert len({row.tobytes() for row in apart}) == 4
    for i in range(4):
        np.testing.assert_array_equal(apart[i], noise(tensor(own[i]), x[i]).numpy())


# ---- the state of a thread


def test_two_threads_map_and_differentiate_at_once() -> None:
    """Each holds its lanes open until the other has opened its own."""
    barrier = threading.Barrier(2, timeout=60)
    seen: dict[int, list[Any]] = {}

    def run(lanes: int) -> None:
        def inside(w: Any, x: Any) -> Any:
            barrier.wait()
            seen.setdefault(lanes, []).append(list(interpreter.lane_sizes))
            y = loss(w, x)
            barrier.wait()
            return y

        w, x = drawn(3, 2), drawn(lanes, 3, seed=lanes)
        found = fc.vmap(fc.grad(inside), (None, 0))(w, x).numpy()
        seen[lanes] += [found, [fc.grad(loss)(w, x[i]).numpy() for i in range(lanes)]]

    threads = [threading.Thread(target=run, args=(lanes,)) for lanes in (2, 3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for lanes in (2, 3):
        sizes, found, loop = seen[lanes]
        assert sizes == [lanes]
        np.testing.assert_allclose(found, np.stack(loop), **EXACT)


# ---- refusals


def test_lengths_that_disagree_are_named() -> None:
    with pytest.raises(ShapeError, match="argument 0 has 2, argument 1 has 3"):
        fc.vmap(lambda a, b: a)(drawn(2), drawn(3))


@pytest.mark.parametrize(("axis", "shape"), [(2, (3, 4)), (-3, (3, 4)), (0, ())])
def test_an_axis_that_is_missing_is_named_with_the_shape(axis: int, shape: Any) -> None:
    with pytest.raises(ShapeError, match=f"argument 0 of shape .* has no axis {axis}"):
        fc.vmap(lambda a: a, axis)(drawn(*shape))


@pytest.mark.parametrize("axes", [None, (None, None)])
def test_at_least_one_argument_is_mapped(axes: Any) -> None:
    with pytest.raises(ArgumentError, match="no argument is mapped"):
        fc.vmap(lambda a, b: a, axes)(drawn(2), drawn(2))


def test_a_function_without_arguments_cannot_be_mapped() -> None:
    with pytest.raises(ArgumentError, match="no argument is mapped"):
        fc.vmap(lambda: 1.0)()


def test_a_mapped_argument_holds_at_least_one_array() -> None:
    with pytest.raises(ShapeError, match="hold no arrays"):
        fc.vmap(lambda a: 1.0)({"nothing": None})


@pytest.mark.parametrize("axes", [(0,), (0, 0, 0), ()])
def test_there_is_one_axis_an_argument(axes: Any) -> None:
    with pytest.raises(ArgumentError, match="for 2 arguments"):
        fc.vmap(lambda a, b: a, axes)(drawn(2), drawn(2))


@pytest.mark.parametrize("axes", [0.0, (0.0, 0), "0", (0, "x"), True])
def test_an_axis_is_a_whole_number(axes: Any) -> None:
    with pytest.raises(ArgumentError, match="in_axes is"):
        fc.vmap(lambda a, b: a, axes)(drawn(2), drawn(2))


@pytest.mark.parametrize("chunk", [0, -1, 2.0, "2", True])
def test_a_chunk_is_a_whole_number_of_lanes(chunk: Any) -> None:
    with pytest.raises(ArgumentError, match="vmap: chunk is"):
        fc.vmap(lambda a: a, chunk=chunk)


@pytest.mark.parametrize("read", [float, bool, lambda x: x.item(), lambda x: x.tolist()])
def test_a_value_that_differs_from_lane_to_lane_is_not_read(read: Any) -> None:
    with pytest.raises(TraceError, match="lanes"):
        fc.vmap(lambda x: read(x) * x)(drawn(3))
    assert interpreter.lane_sizes == []
