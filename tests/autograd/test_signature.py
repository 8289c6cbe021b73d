"""What makes another program of a compiled function, and which arguments it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.autograd import replay
from fedcore.errors import ArgumentError, DtypeError, MutationError, TraceError
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import tensor
from tests.autograd.replayed import counted, drawn


def test_the_function_itself_runs_once_a_signature() -> None:
    function, runs = counted(lambda x: x * 2.0)
    double = fc.compile(function)
    for seed in range(3):
        x = drawn(3, seed=seed)
        np.testing.assert_array_equal(double(x).numpy(), x * 2)
    assert (len(runs), len(double.programs)) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        (drawn(4), 2.0),
        (drawn(3, 1), 2.0),
        (drawn(3).astype(np.float64), 2.0),
        (np.arange(3), 2.0),
        (drawn(3), drawn(3)),
        (drawn(3), 2),
        (drawn(3), True),
        (drawn(3), [2.0]),
        (np.asfortranarray(drawn(3, 2)), 2.0),
    ],
)
def test_another_shape_dtype_layout_or_structure_records_a_program(other: Any) -> None:
    function, runs = counted(lambda x, s: x * (s[0] if isinstance(s, list) else s))
    scaled = fc.compile(function)
    scaled(drawn(3), 2.0)
    scaled(drawn(3, 2), 2.0)
    expected = np.asarray(other[0]) * np.asarray(other[1], np.asarray(other[0]).dtype)
    if other[0].dtype == np.int64:
        expected = other[0] * np.float32(2.0)
    for _ in range(2):
        np.testing.assert_allclose(scaled(*other).numpy(), expected.reshape(other[0].shape))
    assert len(runs) == 3


def test_a_schedule_is_not_baked_in() -> None:
    """Python floats and NumPy scalars are inputs, and all of them are one."""
    function = lambda x, rate: x - rate * x  # noqa: E731
    step, x = fc.compile(function), drawn(3)
    for rate in (0.1, 0.2, math.pi, np.float64(0.3), np.float32(0.4)):
        np.testing.assert_array_equal(step(x, rate).numpy(), function(tensor(x), rate).numpy())
    assert (len(step.programs), step(x, 0.5).dtype) == (1, np.float32)


def test_a_float_beside_float64_is_as_precise() -> None:
    step, x = fc.compile(lambda x, rate: x * rate), np.ones(2)
    np.testing.assert_array_equal(step(x, 0.1).numpy(), [0.1, 0.1])


def test_integers_strings_booleans_and_none_are_part_of_the_signature() -> None:
    def function(x: Any, times: int, mode: str | None, negate: bool) -> Any:
        for _ in range(times):
            x = x * 2.0 if mode == "double" else x + 1.0
        return -x if negate else x

    run, runs = counted(function)
    compiled, x = fc.compile(run), drawn(3)
    for static in [(2, "double", True), (2, None, True), (3, "double", False), (True, None, 1)]:
        for _ in range(2):
            expected = function(tensor(x), *static)
            np.testing.assert_array_equal(compiled(x, *static).numpy(), expected.numpy())
    assert len(runs) == 4


def test_integers_of_numpy_are_inputs() -> None:
    take, x = fc.compile(lambda x, i: x * i), drawn(3)
    for i in (np.int64(2), np.int64(5)):
        np.testing.assert_array_equal(take(x, i).numpy(), x * np.float32(i))
    assert len(take.programs) == 1


def test_arguments_by_name_are_arguments() -> None:
    function, runs = counted(lambda x, *, scale, parts: x * scale + parts["a"])
    compiled, x = fc.compile(function, donate=(0,)), drawn(3)
    for scale in (2.0, 3.0):
        found = compiled(x.copy(), scale=scale, parts={"a": tensor(x)})
        np.testing.assert_array_equal(found.numpy(), x * np.float32(scale) + x)
    assert len(runs) == 1


def test_pytrees_and_models_go_in_and_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2, key=0), nn.relu)

    def step(model: Any, batch: dict[str, Any]) -> Any:
        gradient = fc.grad(lambda m: (m(batch["x"]) ** 2).sum())(model)
        return gradient, {"n": batch["x"].sum(), "note": "kept", "none": None}

    compiled, x = fc.compile(step), tensor(drawn(4, 3))
    for _ in range(2):
        (gradient, more), (own, _) = compiled(model, {"x": x}), step(model, {"x": x})
        assert (more["note"], more["none"]) == ("kept", None)
        for path, value in own.parameters().items():
            np.testing.assert_array_equal(gradient.parameters()[path].numpy(), value.numpy())
    assert len(compiled.programs) == 1


def test_a_memory_map_is_an_array(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", drawn(4, 3))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    double = fc.compile(lambda x, y: x * y)
    for rows in (slice(0, 2), slice(2, 4)):
        np.testing.assert_array_equal(double(x[rows], drawn(2, 3)).numpy(), x[rows] * drawn(2, 3))


REFUSED = {
    "masked": np.ma.masked_array(drawn(3), [True, False, False]),
    "complex": np.ones(3, np.complex64),
    "objects": np.array([1.0, None, "x"], object),
    "strings": np.array(["a", "b", "c"]),
    "times": np.array(["2024-01-01"], "datetime64[D]"),
    "records": np.zeros(3, [("a", "f4"), ("b", "i4")]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_array_that_is_no_tensor_is_refused_as_by_tensor(name: str) -> None:
    array = REFUSED[name]
    with pytest.raises(DtypeError) as eager:
        tensor(array)
    for compiled in (fc.compile(lambda x: x * 2.0), fc.compile(lambda x: x * 2.0, donate=(0,))):
        with pytest.raises(DtypeError) as caught:
            compiled(array)
        assert (caught.value.what, caught.value.fix) == (eager.value.what, eager.value.fix)
        assert compiled.programs == ()


@pytest.mark.parametrize("scalar", [1j, np.complex64(1j)])
def test_a_scalar_that_is_no_real_number_fails_as_in_the_function(scalar: Any) -> None:
    for function in (lambda x, s: x * s, fc.compile(lambda x, s: x * s)):
        with pytest.raises(DtypeError, match="multiply"):
            function(tensor(drawn(3)), scalar)


@pytest.mark.parametrize("donate", [(), (0,)])
@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4"])
def test_an_array_of_foreign_byte_order_computes_as_its_tensor(dtype: str, donate: Any) -> None:
    w = np.float32([1.5, -2.0, 3.0]).astype(np.dtype(dtype).newbyteorder("="))
    step = fc.compile(lambda x, w: x * w + 1, donate=donate)
    for seed in range(3):
        x = (10 * drawn(3, seed=seed)).astype(dtype)
        y, expected = step(x, w), tensor(x) * w + 1
        np.testing.assert_array_equal(y.numpy(), expected.numpy())
        assert y.dtype == expected.dtype and len(step.programs) == 1


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,)])
def test_arrays_of_no_axes_or_no_elements_replay(shape: Any) -> None:
    function = lambda x: (x * 2.0, x.sum(), x.reshape(x.size))  # noqa: E731
    compiled = fc.compile(function)
    for seed in range(3):
        x = np.asarray(drawn(*shape, seed=seed))
        for y, e in zip(compiled(x), function(tensor(x)), strict=True):
            np.testing.assert_array_equal(y.numpy(), e.numpy())


def test_a_function_without_arguments_or_results_replays() -> None:
    assert fc.compile(lambda: ops.ones(2) * 3.0)().tolist() == [3.0, 3.0]
    nothing = fc.compile(lambda x: None)
    assert nothing(drawn(2)) is None and nothing(drawn(2)) is None


def test_too_many_programs_are_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_PROGRAMS", 3)
    step = fc.compile(lambda x, count: x * count)
    for count in range(3):
        step(drawn(2), count)
    with pytest.raises(TraceError, match="3 programs were recorded"):
        step(drawn(2), 3)
    assert step(drawn(2), 1).shape == (2,)


def test_an_argument_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"signature.*unhashable"):
        fc.compile(lambda x, s: x)(drawn(2), {1, 2})


# ---- modules


class Scaled(nn.Module):
    """A layer whose static attributes enter the program as constants."""

    def __init__(self, scale: float, sizes: list[float]) -> None:
        self.weight = tensor(drawn(3))
        self.scale, self.sizes = scale, sizes

    def forward(self, x: Any, ctx: nn.Context) -> Any:
        return x * self.weight * self.scale + sum(self.sizes)


def test_an_equal_module_replays_and_one_of_other_options_is_recorded() -> None:
    step, x = fc.compile(lambda m, x: m(x)), drawn(3)
    for scale, sizes, programs in [(2.0, [1.0], 1), (2.0, [1.0], 1), (3.0, [1.0], 2), (2, [], 3)]:
        model = Scaled(scale, sizes)
        np.testing.assert_array_equal(step(model, x).numpy(), model(tensor(x)).numpy())
        assert len(step.programs) == programs


def test_a_list_of_a_module_that_is_changed_in_place_is_seen() -> None:
    model, x = Scaled(2.0, [1.0]), drawn(3)
    step = fc.compile(lambda m, x: m(x))
    for _ in range(3):
        model.sizes.append(1.0)
        np.testing.assert_array_equal(step(model, x).numpy(), model(tensor(x)).numpy())


def test_a_module_that_a_program_has_captured_cannot_be_changed() -> None:
    model = Scaled(2.0, [])
    step = fc.compile(lambda x: model(x))
    step(drawn(3))
    with pytest.raises(MutationError, match=r"Scaled\.scale"):
        model.scale = 7.0
