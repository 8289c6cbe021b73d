"""Derivatives of functions of pytrees, of any order, and the state that a pass leaves behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore as fc
from fedcore.autograd.tree import flatten
from fedcore.errors import DerivativeError, DtypeError, ShapeError
from fedcore.tensor.ops.flat import leaf
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, interpreter, tensor

Array = np.ndarray[Any, Any]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return tensor(np.random.default_rng(seed).standard_normal(shape))


def is_clean() -> bool:
    return (
        interpreter.open_grads == 0
        and not interpreter.tape_paused
        and interpreter.lane_sizes == []
        and interpreter.recorder is None
    )


# ---- values against formulas


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=6))
def test_a_polynomial_has_its_derivatives_up_to_the_third(coefficients: list[float]) -> None:
    def p(x: Any) -> Any:
        y: Any = tensor(np.float64(0.0))
        for c in coefficients:
            y = y * x + c
        return y

    poly, at, derived = np.polynomial.Polynomial(coefficients[::-1]), 0.7, p
    for order in range(4):
        expected = poly.deriv(order)(at) if order else poly(at)
        np.testing.assert_allclose(
            derived(tensor(np.float64(at))).item(), expected, rtol=1e-12, atol=1e-12
        )
        derived = fc.grad(derived)


def test_a_gradient_of_a_pytree_has_its_structure() -> None:
    tree = {"w": drawn(2, 3), "rest": [drawn(3, seed=1), (drawn(seed=2), None)]}

    def loss(t: Any) -> Any:
        return (t["w"] @ t["rest"][0]).sum() * t["rest"][1][0]

    gradient = fc.grad(loss)(tree)
    assert flatten(gradient)[1] == flatten(tree)[1]
    w, b, c = tree["w"].numpy(), tree["rest"][0].numpy(), tree["rest"][1][0].item()
    np.testing.assert_allclose(gradient["w"].numpy(), np.tile(b, (2, 1)) * c)
    np.testing.assert_allclose(gradient["rest"][0].numpy(), w.sum(0) * c)
    np.testing.assert_allclose(gradient["rest"][1][0].numpy(), (w @ b).sum())


def test_auxiliary_results_come_back_beside_value_and_gradient() -> None:
    def loss(x: Any, scale: float) -> Any:
        return (x * x).sum() * scale, {"doubled": x * 2.0, "note": "kept", "none": None}

    (value, aux), gradient = fc.value_and_grad(loss, has_aux=True)(tensor([1.0, 2.0]), 3.0)
    assert (value.item(), gradient.tolist()) == (15.0, [6.0, 12.0])
    assert aux["doubled"].tolist() == [2.0, 4.0] and aux["note"] == "kept" and aux["none"] is None
    assert fc.grad(loss, has_aux=True)(tensor([1.0, 2.0]), 3.0)[0].tolist() == [6.0, 12.0]


def test_a_pullback_is_the_transpose_of_the_linear_map() -> None:
    a = drawn(3, 2)
    y, pullback = fc.vjp(lambda t: {"y": a @ t["x"], "z": t["x"] * 2.0}, {"x": drawn(2, seed=1)})
    assert set(y) == {"y", "z"}
    g = {"y": drawn(3, seed=2), "z": drawn(2, seed=3)}
    expected = a.numpy().T @ g["y"].numpy() + 2 * g["z"].numpy()
    np.testing.assert_allclose(pullback(g)[0]["x"].numpy(), expected, rtol=1e-12)
    again = pullback(g)[0]["x"].numpy()
    np.testing.assert_array_equal(again, pullback(g)[0]["x"].numpy())


def test_a_pullback_takes_numbers_and_arrays_for_cotangents() -> None:
    _, pullback = fc.vjp(lambda x: x * x, tensor([1.0, 2.0]))
    assert pullback(np.ones(2))[0].tolist() == [2.0, 4.0]
    assert pullback([1.0, 0.5][0] * np.ones(2, np.float32))[0].dtype == np.float32


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_mapped_pullback_gives_the_rows_of_the_jacobian(rows: int) -> None:
    """Also where their number equals a length of the input."""
    a, x = drawn(rows, 3), drawn(3, seed=1)
    y, pullback = fc.vjp(lambda x: ops.tanh(a @ x), x)
    jacobian = fc.vmap(lambda g: pullback(g)[0])(tensor(np.eye(rows)))
    expected = (1 - y.numpy() ** 2)[:, None] * a.numpy()
    np.testing.assert_allclose(jacobian.numpy(), expected, rtol=1e-12)


def test_a_pullback_that_meets_the_lanes_of_its_function_is_refused() -> None:
    x = drawn(3, 2)
    _, pullback = fc.vjp(lambda x: fc.vmap(lambda v: (v * v).sum())(x), x)
    with pytest.raises(DerivativeError, match="pullback"):
        fc.vmap(lambda g: pullback(g)[0])(drawn(2, 3))
    assert is_clean()


def test_a_hessian_equals_that_of_the_quadratic_form() -> None:
    a = drawn(4, 4)
    hessian = [
        fc.grad(lambda x, i=i: fc.grad(lambda x: x @ (a @ x))(x)[i])(drawn(4, seed=1)).numpy()
        for i in range(4)
    ]
    np.testing.assert_allclose(np.stack(hessian), a.numpy() + a.numpy().T, rtol=1e-12)


# ---- which paths count


def test_what_does_not_influence_the_loss_has_a_zero_gradient_whatever_it_holds() -> None:
    unused = tensor(np.array([np.inf, np.nan, -1.0]))
    gradient = fc.grad(lambda t: (t["x"] * t["x"]).sum())({"x": drawn(2), "unused": unused})
    assert gradient["unused"].tolist() == [0.0, 0.0, 0.0]
    assert not np.signbit(gradient["unused"].numpy()).any()
    assert fc.vjp(lambda a, b: a * 2.0, drawn(2), unused)[1](np.ones(2))[1].tolist() == [0, 0, 0]
    assert fc.grad(lambda x: 3.0)(drawn(2)).tolist() == [0.0, 0.0]


def test_the_identity_has_the_gradient_one() -> None:
    assert fc.grad(lambda x: x)(tensor(3.0)).item() == 1.0
    assert fc.vjp(lambda x: x, drawn(2))[1](np.array([5.0, 6.0]))[0].tolist() == [5.0, 6.0]


def test_the_same_tensor_passed_twice_is_two_variables() -> None:
    x = tensor(3.0)
    a, b = fc.grad(lambda t: t[0] * t[0] * t[1])([x, x])
    assert (a.item(), b.item()) == (18.0, 9.0)


@pytest.mark.parametrize("uses", [1, 2, 50])
def test_cotangents_of_many_uses_add_up(uses: int) -> None:
    x = drawn(3)
    gradient = fc.grad(lambda x: ops.stack([(x * float(i)).sum() for i in range(uses)]).sum())
    total = float(sum(range(uses)))
    np.testing.assert_allclose(gradient(x).numpy(), np.full(3, total))


def test_no_derivative_passes_through_stop_gradient() -> None:
    loss = lambda x: (fc.stop_gradient(x * x) * x).sum()  # noqa: E731
    x = drawn(3)
    np.testing.assert_allclose(fc.grad(loss)(x).numpy(), x.numpy() ** 2)
    second = fc.grad(lambda x: fc.grad(loss)(x).sum())(x)
    assert second.tolist() == [0.0, 0.0, 0.0]


def test_a_list_of_tensors_keeps_their_derivatives() -> None:
    gradient = fc.grad(lambda x: (tensor([x, [x * 2.0, 1.0][0]]) ** 2).sum())(tensor(3.0))
    assert gradient.item() == 30.0


@pytest.mark.parametrize("order", ["inner", "outer", "both"])
def test_an_inner_gradient_does_not_see_the_outer_perturbation(order: str) -> None:
    """d/dx [x * d/dy (x + y)] = 1, and not 2 (Siskind and Pearlmutter, 2005)."""
    if order == "inner":
        f = lambda x: x * fc.grad(lambda y: x + y)(tensor(1.0))  # noqa: E731
        expected = 1.0
    elif order == "outer":
        f = lambda x: x * fc.grad(lambda y: x * y)(x)  # noqa: E731
        expected = 6.0
    else:
        f = lambda x: fc.grad(lambda y: fc.grad(lambda z: x * y * z)(x))(x)  # noqa: E731
        expected = 1.0
    assert fc.grad(f)(tensor(3.0)).item() == expected


def test_a_variable_of_an_outer_gradient_passes_through_an_inner_value() -> None:
    def outer(x: Any) -> Any:
        value, gradient = fc.value_and_grad(lambda y: (y * y * x).sum())(x * 2.0)
        return value + gradient.sum()

    # value = 4x^3, gradient = 2 * 2x * x = 4x^2
    np.testing.assert_allclose(fc.grad(outer)(tensor(np.float64(1.5))).item(), 12 * 2.25 + 8 * 1.5)


# ---- size and memory


def test_a_chain_of_ten_thousand_operations_needs_no_recursion() -> None:
    def loss(x: Any) -> Any:
        for _ in range(10_000):
            x = x * 1.0001
        return x

    np.testing.assert_allclose(fc.grad(loss)(tensor(np.float64(2.0))).item(), 1.0001**10_000)


def test_a_wide_sum_of_shared_terms_is_visited_once_a_node() -> None:
    """Doubling forty times by x + x has 2^40 paths."""

    def loss(x: Any) -> Any:
        for _ in range(40):
            x = x + x
        return x

    assert fc.grad(loss)(tensor(np.float64(1.0))).item() == 2.0**40


def watched(references: list[Any], x: Tensor) -> Tensor:
    """`x`, whose array reports its end; ndarray takes weak references, Tensor does not."""
    references.append(weakref.ref(x.data))
    return x


@pytest.mark.parametrize("order", [1, 2])
def test_a_step_is_freed_without_the_garbage_collector(order: int) -> None:
    references: list[Any] = []

    def loss(x: Any) -> Any:
        h = watched(references, ops.tanh(x))
        return watched(references, (h * h).sum())

    function: Callable[..., Any] = fc.value_and_grad(loss)
    if order == 2:
        function = fc.value_and_grad(lambda x: fc.grad(loss)(x).sum())
    gc.collect()
    gc.disable()
    try:
        value, gradient = function(drawn(50))
        own = [value.data, gradient.data]
        alive = [r() for r in references if r() is not None]
        assert all(any(a is b for b in own) for a in alive)
        del alive, own, value, gradient
        assert [r() for r in references] == [None] * len(references)
    finally:
        gc.enable()


def test_a_loss_that_is_kept_does_not_keep_its_tape() -> None:
    (value, aux), _ = fc.value_and_grad(lambda x: ((x * x).sum(), [x * 2.0]), has_aux=True)(
        drawn(3)
    )
    y, _ = fc.vjp(lambda x: x * x, drawn(3))
    assert [t.node for t in (value, aux[0], y)] == [None, None, None]


def test_pullback_may_be_called_after_its_value_is_gone() -> None:
    _, pullback = fc.vjp(lambda x: x * x, tensor([3.0]))
    gc.collect()
    assert pullback(np.ones(1))[0].tolist() == [6.0]


# ---- the state of the interpreter


@pytest.mark.parametrize(
    "transform",
    [
        fc.grad,
        fc.value_and_grad,
        lambda f: fc.grad(fc.grad(f)),
        fc.vmap,
        lambda f: fc.vmap(fc.grad(f)),
        lambda f: fc.grad(lambda x: fc.vmap(f)(x).sum()),
        lambda f: fc.vmap(fc.vmap(f)),
        lambda f: fc.compile(f),
        lambda f: fc.compile(fc.vmap(fc.grad(f))),
        lambda f: lambda x: fc.vjp(f, x),
    ],
)
def test_an_exception_leaves_the_interpreter_clean(transform: Any) -> None:
    def breaks(x: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        transform(breaks)(drawn(2, 2))
    assert is_clean()
    assert fc.grad(lambda x: (x * x).sum())(tensor([1.0])).tolist() == [2.0]


def test_a_failing_derivative_leaves_the_interpreter_clean() -> None:
    def loss(x: Any) -> Any:
        return (x * x)[0]

    with pytest.raises(DerivativeError):
        fc.grad(loss)(drawn(2, 2))
    assert is_clean()
    _, pullback = fc.vjp(lambda x: x * x, drawn(3))
    with pytest.raises(ShapeError, match="cotangent"):
        pullback(np.ones(2))
    with pytest.raises(DerivativeError, match="structure"):
        pullback([np.ones(3)])
    assert is_clean()


def test_four_threads_differentiate_at_once() -> None:
    def own(seed: int) -> Callable[[], Array]:
        x = drawn(6, 4, seed=seed)
        rows = lambda x: fc.vmap(fc.grad(lambda v: (ops.tanh(v) * v).sum()))(x)  # noqa: E731
        return lambda: fc.grad(lambda x: (rows(x) ** 2).sum())(x).numpy()

    work = [own(seed) for seed in range(4)]
    expected = [f() for f in work]
    found: list[list[Array]] = [[] for _ in work]
    barrier = threading.Barrier(4)

    def run(i: int) -> None:
        barrier.wait()
        for _ in range(20):
            found[i].append(work[i]())

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [len(f) for f in found] == [20] * 4
    assert all(np.array_equal(g, e) for f, e in zip(found, expected, strict=True) for g in f)


def test_a_thread_starts_without_the_lanes_and_tape_of_another() -> None:
    states: list[bool] = []

    def loss(x: Any) -> Any:
        t = threading.Thread(target=lambda: states.append(is_clean()))
        t.start()
        t.join()
        return x.sum()

    fc.vmap(fc.grad(loss))(drawn(2, 2))
    assert states == [True]


# ---- refusals


def test_a_gradient_of_integers_is_refused() -> None:
    with pytest.raises(DtypeError, match=r"cannot differentiate.*int64"):
        fc.grad(lambda x: x.sum())(tensor([1, 2]))


def test_a_loss_that_is_no_floating_number_is_refused_with_its_shape() -> None:
    with pytest.raises(DerivativeError, match=r"float64 tensor of shape \(2,\)"):
        fc.grad(lambda x: x * 2.0)(drawn(2))
    with pytest.raises(DerivativeError, match="int64"):
        fc.grad(lambda x: x.argmax())(drawn(2))


@pytest.mark.parametrize("args", [(), ({},), (None,)])
def test_a_gradient_needs_something_to_differentiate(args: tuple[Any, ...]) -> None:
    with pytest.raises(DerivativeError):
        fc.grad(lambda *a: 1.0)(*args)


def test_auxiliary_results_must_come_in_a_pair() -> None:
    with pytest.raises(DerivativeError, match="auxiliary"):
        fc.grad(lambda x: x.sum(), has_aux=True)(drawn(2))


# ---- values that leave the tape


READINGS: list[Callable[[Any], Any]] = [
    np.asarray,
    np.linalg.norm,
    lambda t: np.dot(t, t),
    lambda t: np.einsum("i->", t),
    lambda t: np.clip(t, -1.0, 1.0).sum(),
    lambda t: np.where(t > 0, t, 0.0).sum(),
    lambda t: np.concatenate([t, t]).sum(),
    lambda t: np.array([t, t]).sum(),
    lambda t: t.numpy().sum(),
    lambda t: sum(t.tolist()),
]


@pytest.mark.parametrize("read", READINGS)
def test_numpy_does_not_read_a_tensor_that_is_being_differentiated(read: Any) -> None:
    for function in (lambda t: read(t * 2.0), lambda t: fc.grad(read)(t).sum(), read):
        with pytest.raises(DerivativeError, match="is being differentiated"):
            fc.grad(function)(drawn(3))
    with pytest.raises(DerivativeError, match="is being differentiated"):
        fc.vjp(read, drawn(3))
    assert is_clean()


@pytest.mark.parametrize("read", READINGS)
def test_numpy_reads_constants_inside_a_gradient(read: Any) -> None:
    c = drawn(3, seed=1)

    def loss(t: Any) -> Any:
        read(c), read(fc.stop_gradient(t)), read((t * 2.0).astype("int64"))
        return (t * c).sum()

    np.testing.assert_array_equal(fc.grad(loss)(drawn(3)).numpy(), c.numpy())


def test_control_flow_may_read_one_number_inside_a_gradient() -> None:
    def loss(t: Any) -> Any:
        y = (t * t).sum()
        steps = int(y) + (y.item() > 1.0) + (float(y) > 2.0) + bool(y > 3.0)
        return y * steps

    assert fc.grad(loss)(tensor([2.0])).tolist() == [4.0 * 7]


# ---- factored gradients


def test_a_factored_gradient_is_that_of_grad() -> None:
    def loss(theta: Any) -> Any:
        w = leaf(theta, offset=0, shape=(2, 3))
        return (ops.tanh(x @ w) ** 2).sum() + leaf(theta, offset=6, shape=(2,)).sum()

    x, theta = drawn(4, 2), drawn(9, seed=1)
    value, factored = fc.value_and_factored_grad(loss)(theta)
    plain_value, plain = fc.value_and_grad(loss)(theta)
    assert value.item() == plain_value.item()
    np.testing.assert_array_equal(fc.factored_grad(loss)(theta).array().numpy(), plain.numpy())
    np.testing.assert_array_equal(factored.array().numpy(), plain.numpy())


def test_a_factored_gradient_of_a_matrix_is_refused() -> None:
    with pytest.raises(ShapeError, match="flat vector"):
        fc.factored_grad(lambda x: x.sum())(drawn(2, 2))
