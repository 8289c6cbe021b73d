"""The stand-in is no richer than CuPy, and refuses what CuPy refuses."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import fedcore  # noqa: F401  registers the primitives
from fedcore.tensor.primitive import primitives
from tests.gpu import stand_in
from tests.gpu.stand_in import FUNCTIONS, UFUNCS, make_cupy, ndarray

CUPY: Any = make_cupy()


@pytest.fixture
def real() -> Any:
    """CuPy itself, which can be imported and looked at without a GPU."""
    return pytest.importorskip("cupy", reason="CuPy is not installed (the extra 'gpu')")


def test_every_function_has_the_parameters_of_cupy(real: Any) -> None:
    for name, parameters in FUNCTIONS.items():
        theirs = list(inspect.signature(getattr(real, name)).parameters)
        assert theirs[: len(parameters)] == parameters, name


def test_functions_with_a_body_have_no_parameter_that_cupy_lacks(real: Any) -> None:
    ours = {name: f for name, f in vars(CUPY).items() if inspect.isfunction(f)}
    ours = {name: f for name, f in ours.items() if name not in FUNCTIONS and name != "matmul"}
    for name, own in ours.items():
        parameters = list(inspect.signature(own).parameters)
        theirs = list(inspect.signature(getattr(real, name)).parameters)
        assert parameters == theirs[: len(parameters)], name
    strided = inspect.signature(real.lib.stride_tricks.as_strided)
    assert list(strided.parameters) == list(inspect.signature(stand_in.as_strided).parameters)
    assert "out" in inspect.signature(real.matmul).parameters


def test_the_ufuncs_are_those_of_cupy(real: Any) -> None:
    known = {n for n, f in vars(np).items() if isinstance(f, np.ufunc) and f.nout == 1}
    assert set(UFUNCS) == {n for n in known if isinstance(getattr(real, n, None), real.ufunc)}
    assert not any(hasattr(real, name) for name in stand_in.MISSING - {"matmul"})


def test_the_ufuncs_that_the_core_uses_give_the_types_of_numpy(real: Any) -> None:
    """CuPy takes the first loop to which the operands can be cast."""
    kinds = [np.dtype(k) for k in ("uint8", "int32", "int64", "uint64", "float32", "float64")]
    for name in {p.ufunc for p in primitives.values() if p.ufunc}:
        ours = getattr(np, name)
        loops = [loop.split("->") for loop in getattr(real, name).types]
        for kind in kinds:
            try:
                expected = ours.resolve_dtypes((*[kind] * ours.nin, None))[-1]
            except TypeError:
                continue
            fitting = (out for given, out in loops if all(np.can_cast(kind, c) for c in given))
            assert expected in (np.dtype(np.float16), np.dtype(next(fitting))), (name, kind)


def test_arrays_have_no_attribute_that_cupy_lacks(real: Any) -> None:
    ours = {name for name in vars(ndarray) if not name.startswith("_")}
    assert ours <= set(dir(real.ndarray))


def test_an_array_meets_no_numpy_array() -> None:
    host = np.ones(3)
    x = CUPY.asarray(host)
    for meet in (
        lambda: x + host,
        lambda: CUPY.add(x, host),
        lambda: CUPY.where(host > 0, x, x),
        lambda: CUPY.concatenate([x, host]),
        lambda: np.asarray(x),
        lambda: np.array([x]),
        lambda: np.add(x, x),
        lambda: np.sum(x),
        lambda: host + x,
        lambda: bool(x[0]),
    ):
        with pytest.raises((TypeError, AssertionError)):
            meet()


def test_what_cupy_lacks_is_missing() -> None:
    x = CUPY.ones(3)
    assert not hasattr(CUPY, "vecdot") and not hasattr(CUPY.add, "reduce")
    for call in (
        lambda: CUPY.add(x, x, where=x > 0),
        lambda: CUPY.sum(x, where=x > 0),
        lambda: CUPY.take(x, x.astype("int64"), mode="clip"),
    ):
        with pytest.raises(TypeError):
            call()
