"""`compile`: every guard that keeps a replay from giving what the function would not give."""

from __future__ import annotations

import gc
import math
import threading
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn, optim
from fedcore.autograd.program import dense
from fedcore.autograd.tape import factored_grad
from fedcore.errors import ArgumentError, AxisError, TraceError
from fedcore.tensor.cotangent import as_array
from fedcore.tensor.random import Key
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, interpreter, tensor
from tests.autograd.replayed import counted, drawn


def is_clean() -> bool:
    return interpreter.recorder is None and interpreter.open_grads == 0


# ---- reading a value while recording


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        int,
        np.asarray,
        lambda t: t.item(),
        lambda t: t.tolist(),
        lambda t: t.numpy(),
        lambda t: [1, 2][t.astype("int64")],
        lambda t: math.sqrt(t),
        lambda t: "x" if t > 0.0 else "y",
    ],
)
def test_a_value_that_is_read_while_recording_is_refused_with_the_line(read: Any) -> None:
    step = fc.compile(lambda t: (read(t), t)[1])
    with pytest.raises(TraceError, match="while a program is being recorded") as caught:
        step(1.0)
    assert "test_replay.py" in caught.value.where and is_clean()


@pytest.mark.parametrize("show", [str, repr, "{}".format])
def test_a_tensor_shows_no_values_while_recording(show: Any) -> None:
    shown: list[str] = []
    fc.compile(lambda x: (shown.append(show(x * 2.0)), x)[1])(drawn(2, 3))
    assert shown == ["Tensor(shape=(2, 3), dtype=float32)"]


def test_a_mask_whose_values_choose_the_shape_is_refused() -> None:
    with pytest.raises(TraceError, match="mask"):
        fc.compile(lambda x: x[x > 0.0])(drawn(4))


# ---- captures


def test_an_undeclared_large_array_is_refused_and_a_declared_one_is_listed() -> None:
    large = tensor(drawn(200, 200))
    with pytest.raises(TraceError, match=r"160,000 bytes and shape \(200, 200\) was captured"):
        fc.compile(lambda x: x @ large)(drawn(2, 200))
    step = fc.compile(lambda x: x @ large, captures=[large])
    step(drawn(2, 200))
    assert [c is large.data for c in step.programs[0].captures] == [True]


def test_a_model_is_declared_as_a_whole() -> None:
    model = nn.Linear(300, 300, key=0)
    step = fc.compile(lambda x: model(x), captures=[model])
    np.testing.assert_array_equal(step(drawn(2, 300)).numpy(), model(drawn(2, 300)).numpy())


def test_parameters_of_a_declared_vector_are_declared() -> None:
    theta, rebuild = fc.ravel({"w": drawn(300, 300)})
    model = rebuild(theta)
    step = fc.compile(lambda x: x @ model["w"], captures=[theta])
    assert step(drawn(2, 300)).shape == (2, 300)


def test_captured_numbers_that_the_caller_may_change_stay_apart() -> None:
    a, b = np.array(2.0, np.float32), np.array(2.0, np.float32)
    c = tensor(np.array(2.0, np.float32))
    function = lambda x: (x * a, x * b, x * c, x * b.reshape(()), x * 2.0)  # noqa: E731
    step, x = fc.compile(function), drawn(3)
    for value in (2.0, 3.0, 4.0):
        b[...] = value
        for y, e in zip(step(x), function(tensor(x)), strict=True):
            np.testing.assert_array_equal(y.numpy(), e.numpy())
    assert len(step.programs) == 1


# ---- random numbers


def test_a_replay_draws_fresh_numbers_from_its_key() -> None:
    model = nn.Sequential(nn.Linear(8, 8, key=0), nn.Dropout(0.5))

    def forward(x: Any, words: Any) -> Any:
        return model(x, ctx=nn.Context(model, training=True, key=words))

    compiled, x = fc.compile(forward), tensor(drawn(4, 8))
    draws = []
    for seed in range(4):
        words = tensor(Key(seed, "test").words())
        draws.append(compiled(x, words).numpy().tobytes())
        assert draws[-1] == forward(x, words).numpy().tobytes()
    assert len(set(draws)) == 4 and len(compiled.programs) == 1


def test_a_key_that_is_no_argument_is_refused() -> None:
    with pytest.raises(TraceError, match="Key"):
        fc.compile(lambda x: x + ops.normal(Key(0, "test"), (2,)))(drawn(2))


# ---- check


def test_check_passes_on_changed_inputs_and_then_stops() -> None:
    function, runs = counted(lambda x, rate: x * rate + 1.0 * rate)
    step = fc.compile(function, check=2)
    for seed in range(5):
        step(drawn(3, seed=seed), 0.1 * seed)
    assert len(runs) == 1 + 3  # recorded, and compared at that call and two replays


def test_check_finds_a_function_that_depends_on_something_else() -> None:
    state = {"scale": 1.0}
    step = fc.compile(lambda x: x * state["scale"], check=1)
    step(drawn(3))
    state["scale"] = 2.0
    with pytest.raises(TraceError, match=r"output 0 .*differs"):
        step(drawn(3))


def test_check_finds_a_result_that_changes_with_every_call() -> None:
    count = [0]

    def step(x: Any) -> Any:
        count[0] += 1
        return x, count[0]

    with pytest.raises(TraceError, match=r"output 1 .*differs"):
        fc.compile(step, check=1)(drawn(3))


def test_check_covers_every_program() -> None:
    state = {"scale": 1.0}
    step = fc.compile(lambda x: x * state["scale"], check=1)
    for _ in range(3):
        step(drawn(3))
    step(drawn(4))
    state["scale"] = 2.0
    step(drawn(3))  # its checks are used up
    with pytest.raises(TraceError, match="differs"):
        step(drawn(4))


def test_check_compares_before_donated_memory_is_overwritten() -> None:
    step = fc.compile(lambda x, rate: x - x * rate, donate=(0,), check=3)
    x = tensor(drawn(5))
    for _ in range(6):
        x = step(x, 0.1)


def test_check_finds_a_stale_intermediate_of_an_outer_level() -> None:
    """A value computed outside of lanes and used inside: all inputs are changed."""

    def function(a: Any, b: Any) -> Any:
        shifted = ops.tanh(a)
        return fc.vmap(lambda v: fc.grad(lambda u: (u * shifted).sum() * shifted.sum())(v))(b)

    step = fc.compile(function, check=4)
    for seed in range(5):
        step(drawn(3, seed=seed), drawn(4, 3, seed=seed + 9))


@pytest.mark.parametrize(
    "spread",
    [
        lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: x[::-1],
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 3, axis=0).T[:, ::3].T,
    ],
)
@pytest.mark.parametrize("donate", [(), (0,)])
def test_a_replay_has_the_bits_of_the_function_on_dense_copies(spread: Any, donate: Any) -> None:
    """And a check asks for no more: the order of addition follows the memory of an argument."""
    function = lambda x: (x.sum(), x.sum(axis=-1), x.mean(axis=0), x.T @ x)  # noqa: E731
    step = fc.compile(function, donate=donate, check=2)
    for seed in range(4):
        x = spread(drawn(37, 53, seed=seed))
        expected = function(tensor(dense(x).copy(order="K")))
        for y, e in zip(step(x), expected, strict=True):
            np.testing.assert_array_equal(y.numpy(), e.numpy())


@pytest.mark.parametrize("check", [-1, -5])
def test_a_negative_check_is_refused(check: int) -> None:
    with pytest.raises(ArgumentError, match="check is"):
        fc.compile(lambda x: x, check=check)


# ---- transformations and nesting


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: fc.grad(lambda x: f(x).sum()),
        lambda f: fc.grad(lambda x: (fc.grad(lambda y: f(y).sum())(x) ** 2).sum()),
        lambda f: fc.vmap(f),
        lambda f: fc.vmap(fc.grad(lambda x: f(x).sum())),
        lambda f: fc.grad(lambda x: fc.vmap(f)(x).sum()),
        lambda f: lambda x: fc.vjp(f, x)[1](np.ones_like(x))[0],
        lambda f: fc.compile(lambda x: f(x) * 3.0),
        lambda f: fc.compile(fc.vmap(fc.grad(lambda x: f(x).sum()))),
    ],
)
def test_inside_a_transformation_the_function_itself_is_seen(transform: Any) -> None:
    plain = lambda x: ops.tanh(x) * x  # noqa: E731
    compiled = fc.compile(plain)
    compiled(drawn(3, 2))  # a program is there, but has no derivative
    for seed in range(3):
        x = drawn(3, 2, seed=seed)
        found, expected = transform(compiled)(x), transform(plain)(x)
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_of_clients_and_clipped_sums_replay(chunk: int | None) -> None:
    model = nn.Sequential(nn.Linear(6, 5, key=0), nn.relu, nn.Linear(5, 3, key=1))
    theta, rebuild = fc.ravel(model)
    loss = lambda t, x, y: nn.cross_entropy(rebuild(t)(x), y)  # noqa: E731
    clients = fc.vmap(fc.grad(loss), (None, 0, 0), chunk=chunk)
    clipped = fc.clipped_sum(loss, clip_norm=0.5, chunk=chunk)
    for function in (clients, clipped):
        compiled = fc.compile(function, check=2)
        for seed in range(4):
            x, labels = drawn(5, 2, 6, seed=seed), np.arange(10).reshape(5, 2) % 3
            compiled(tensor(drawn(theta.size, seed=seed)), x, labels)
        assert len(compiled.programs) == 1


@pytest.mark.parametrize(
    "optimizer", [optim.SGD(lr=0.1), optim.SGD(lr=0.1, momentum=0.9), optim.Adam(lr=0.01)]
)
def test_an_optimiser_that_feeds_itself_back_equals_the_eager_run(optimizer: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 5, key=0), nn.LayerNorm(5), nn.Linear(5, 3, key=1))
    start, rebuild = fc.ravel(model)

    def step(theta: Any, state: Any, x: Any, y: Any, rate: Any) -> Any:
        loss = lambda t: nn.cross_entropy(rebuild(t)(x), y)  # noqa: E731
        return optimizer.step(theta, fc.factored_grad(loss)(theta), state, lr=rate)

    compiled = fc.compile(step, donate=(0, 1))
    theta, state = tensor(start.numpy().copy()), optimizer.init(start)
    own, own_state = start, optimizer.init(start)
    for now in range(5):
        batch = (tensor(drawn(4, 6, seed=now)), np.arange(4) % 3)
        rate = np.float32(0.1 / (now + 1))
        theta, state = compiled(theta, state, *batch, float(rate))
        own, own_state = step(own, own_state, *batch, tensor(rate))
        np.testing.assert_array_equal(theta.numpy(), own.numpy())
    assert len(compiled.programs) == 1


# ---- errors on the way


def test_an_error_while_recording_leaves_nothing_behind() -> None:
    fails = [True]

    def function(x: Any) -> Any:
        y = fc.compile(lambda v: v * 2.0)(x)
        if fails[0]:
            raise KeyError("mine")
        return y

    compiled = fc.compile(function)
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            compiled(drawn(2))
        assert is_clean() and compiled.programs == ()
    fails[0] = False
    np.testing.assert_array_equal(compiled(drawn(2)).numpy(), drawn(2) * 2)


def test_a_function_that_calls_its_own_replay_is_recorded_through() -> None:
    def power(x: Any, n: int) -> Any:
        return x if n == 0 else x * compiled(x, n - 1)

    compiled = fc.compile(power)
    for seed in range(2):
        x = drawn(3, seed=seed)
        np.testing.assert_array_equal(compiled(x, 3).numpy(), x * (x * (x * x)))


def test_a_value_that_is_out_of_range_in_a_replay_is_named_with_the_line() -> None:
    loss = fc.compile(lambda s, y: nn.cross_entropy(s, y))
    scores = drawn(3, 4)
    good = loss(scores, np.array([0, 1, 2])).item()
    with pytest.raises(AxisError, match="labels") as caught:
        loss(scores, np.array([0, 1, 9]))
    assert "test_replay.py" in caught.value.where
    assert loss(scores, np.array([0, 1, 2])).item() == good


# ---- threads and memory


def test_threads_share_the_programs_and_have_arenas_of_their_own() -> None:
    def function(x: Any, w: Any) -> Any:
        for _ in range(5):
            x = ops.tanh(x @ w)
        return x, x.sum()

    w = drawn(40, 40, seed=99)
    run, runs = counted(function)
    compiled = fc.compile(run)
    compiled(drawn(30, 40), w)
    work = [[drawn(30, 40, seed=10 * t + i) for i in range(8)] for t in range(4)]
    expected = [[function(tensor(x), w)[0].numpy() for x in xs] for xs in work]
    barrier = threading.Barrier(4, timeout=60)
    found: dict[int, list[Tensor]] = {}

    def replay_all(t: int) -> None:
        barrier.wait()
        found[t] = [compiled(x, w)[0] for x in work[t]]

    threads = [threading.Thread(target=replay_all, args=(t,)) for t in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(runs) == 1
    for t in range(4):
        for y, e in zip(found[t], expected[t], strict=True):
            np.testing.assert_array_equal(y.numpy(), e)


def test_a_program_keeps_none_of_its_arguments_or_results_alive() -> None:
    """But for what was donated: a binding works in it."""
    step = fc.compile(lambda m, x, parts: (m(x) * parts["a"], fc.grad(lambda m: m(x).sum())(m)))
    model, x, parts = nn.Linear(3, 3, key=0), tensor(drawn(2, 3)), {"a": drawn(2, 3)}
    for _ in range(2):
        y, gradient = step(model, x, parts)
    kept = [model.weight.data, x.data, parts["a"], y.data, gradient.weight.data]
    references = [weakref.ref(array) for array in kept]
    del model, x, parts, y, gradient, kept
    gc.collect()
    assert all(reference() is None for reference in references)


def test_release_gives_the_memory_back_and_keeps_the_program_and_its_bits() -> None:
    double, x = fc.compile(lambda x: ops.exp(x * 2.0) + x), drawn(1000, 1000)
    tracemalloc.start()
    try:
        before = double(x).numpy().copy()
        arena = tracemalloc.get_traced_memory()[0]
        double.release()
        assert arena - tracemalloc.get_traced_memory()[0] >= x.nbytes
    finally:
        tracemalloc.stop()
    assert np.array_equal(double(x).numpy(), before) and len(double.programs) == 1


def test_a_recorded_run_takes_no_more_memory_than_its_living_values() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(20):
            x = x * 2.0
        return x

    x = drawn(1000, 1000)
    tracemalloc.start()
    try:
        fc.compile(chain)(x)
        assert tracemalloc.get_traced_memory()[1] < 4 * x.nbytes
    finally:
        tracemalloc.stop()


def test_while_recording_nothing_outside_of_a_gradient_is_taped() -> None:
    theta, rebuild = fc.ravel(nn.Sequential(nn.Linear(3, 4, key=0), nn.Linear(4, 2, key=1)))
    taped: list[bool] = []

    def step(theta: Tensor, x: Tensor) -> Tensor:
        gradient = factored_grad(lambda t: rebuild(t)(x).sum())(theta)
        after = theta - as_array(gradient)  # the outer products have activations as operands
        taped.append(after.node is not None)
        return after

    fc.compile(step)(theta, drawn(5, 3))
    assert taped == [False] and not interpreter.tape_paused


def test_a_replay_allocates_less_than_a_megabyte() -> None:
    """An MLP step on 2 MB of parameters, given back in the memory that was donated."""
    model = nn.Sequential(nn.Linear(784, 600, key=0), nn.relu, nn.Linear(600, 62, key=1))
    start, rebuild = fc.ravel(model)
    loss = lambda t, x, y: nn.cross_entropy(rebuild(t)(x), y)  # noqa: E731

    def step(theta: Any, x: Any, y: Any, rate: Any) -> Any:
        return theta - fc.grad(loss)(theta, x, y) * rate

    compiled = fc.compile(step, donate=(0,))
    x, y = drawn(128, 784), np.arange(128) % 62
    theta = compiled(tensor(start.numpy().copy()), x, y, 0.1)
    tracemalloc.start()
    try:
        for rate in (0.1, 0.05):
            theta = compiled(theta, x, y, rate)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20
