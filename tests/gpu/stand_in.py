"""A stand-in for CuPy 14 on machines without a GPU: NumPy behind CuPy's interface, and no more.

It knows only the functions, parameters and attributes that CuPy has and the core uses; whatever
else is asked of it is an error. An array of it meets a NumPy array nowhere: not in arithmetic, not
in a NumPy function, not by implicit conversion. In one thing it is stricter than CuPy: a value
comes to the host by `get`, `item`, `tolist`, `tobytes` and `asnumpy` alone, never by `bool` or
`float`, which on a GPU wait for the device without a word in the code.

`test_stand_in.py` compares it with CuPy itself where that is installed, which takes no GPU.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.gpu.host_kernels import RawKernel

__all__ = ["FUNCTIONS", "MISSING", "UFUNCS", "make_cupy", "ndarray"]

# CuPy has all of NumPy's ufuncs of one result but these.
MISSING = {"isnat", "matmul", "matvec", "spacing", "vecdot", "vecmat"}
UFUNCS = sorted(
    name
    for name, function in vars(np).items()
    if isinstance(function, np.ufunc) and function.nout == 1 and name not in MISSING
)
# Functions by CuPy's parameters, of which NumPy has more.
_PARAMETERS = {
    "a axis out keepdims": "all any max",
    "a axis dtype out keepdims": "argmax argmin mean prod sum",
    "a axis": "flip",
    "a axis1 axis2": "swapaxes",
    "array shape": "broadcast_to",
    "a1 a2 equal_nan": "array_equal",
    "tup axis out": "concatenate",
    "start stop step dtype": "arange",
    "shape dtype order": "ones zeros",
    "shape fill_value dtype order": "full",
    "a dtype order subok shape": "zeros_like",
    "prototype dtype order subok shape": "empty_like",
}
FUNCTIONS = {name: p.split() for p, names in _PARAMETERS.items() for name in names.split()}
_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
    "floordiv": "floor_divide", "mod": "remainder", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor", "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal",
    "gt": "greater", "ge": "greater_equal", "neg": "negative", "abs": "absolute",
    "invert": "invert",
}  # fmt: skip


def on_host(value: Any) -> Any:
    """The NumPy array of a stand-in, a number as it is; a NumPy array is refused, as by CuPy."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, tuple | list):
        return type(value)(map(on_host, value))
    return value


def on_device(value: Any) -> ndarray:
    """A result as an array, also where NumPy gives a scalar."""
    return ndarray(np.asarray(value))


class ndarray:
    """As `cupy.ndarray`."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray[Any, Any], base: ndarray | None = None) -> None:
        self._host, self.base = host, base

    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))

    @property
    def flags(self) -> Any:
        names = ("c_contiguous", "f_contiguous", "owndata")
        return SimpleNamespace(**{name: getattr(self._host.flags, name) for name in names})

    def __len__(self) -> int:
        return len(self._host)

    # ---- to the host: asked for, or not at all
    def get(self) -> np.ndarray[Any, Any]:
        return self._host.copy()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_function__(self, function: Any, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"numpy.{function.__name__} meets an array on the device")

    __array_ufunc__ = __array_function__

    def _waits(self, *_: Any) -> Any:
        raise AssertionError("a value comes to the host without being asked for")

    __bool__ = __int__ = __float__ = __index__ = __iter__ = __repr__ = __format__ = _waits

    # ---- views and copies
    def _view(self, host: np.ndarray[Any, Any]) -> ndarray:
        shares = np.may_share_memory(host, self._host)
        return ndarray(host, (self if self.base is None else self.base) if shares else None)

    def view(self, *dtype: Any) -> ndarray:
        return self._view(self._host.view(*dtype))

    def reshape(self, *shape: Any) -> ndarray:
        return self._view(self._host.reshape(*shape))

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._host.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return self._view(self._host.swapaxes(axis1, axis2))

    def __getitem__(self, key: Any) -> ndarray:
        return self._view(np.asarray(self._host[on_host(key)]))

    def copy(self, order: Any = "C") -> ndarray:
        return on_device(self._host.copy(order))

    def astype(self, dtype: Any, order: Any = "K", *, copy: bool = True) -> ndarray:
        same = self.dtype == dtype and not copy
        return self if same else on_device(self._host.astype(dtype, order))

    def nonzero(self) -> tuple[ndarray, ...]:
        return tuple(map(on_device, self._host.nonzero()))

    # ---- writing
    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[on_host(key)] = on_host(value)

    def fill(self, value: Any) -> None:
        self._host.fill(on_host(value))


for _name in ("shape", "dtype", "ndim", "size", "strides", "itemsize", "nbytes"):
    setattr(ndarray, _name, property(operator.attrgetter(f"_host.{_name}")))
for _name in ("item", "tolist", "tobytes"):
    setattr(ndarray, _name, lambda self, name=_name: getattr(self._host, name)())


class ufunc:
    """As `cupy.ufunc`: it takes `out`, `dtype` and `casting`, and knows no `where` or `reduce`."""

    def __init__(self, name: str) -> None:
        self._function = vars(np)[name]

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: Any = None) -> Any:
        count = self._function.nin
        inputs, (target, *_) = args[:count], (*args[count:], out)
        if not all(isinstance(x, ndarray | bool | int | float | np.generic) for x in inputs):
            raise TypeError(f"Unsupported type {[type(x) for x in inputs]}")
        options = {"dtype": dtype, "casting": casting or "same_kind"}
        return _answer(
            self._function(*map(on_host, inputs), out=_target(target), **options), target
        )


def _target(out: Any) -> Any:
    if out is not None and not isinstance(out, ndarray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    return on_host(out)


def _answer(result: Any, out: Any) -> Any:
    return on_device(result) if out is None else out


def _operator(of: ufunc, *, reflected: bool = False, inplace: bool = False) -> Any:
    def method(self: ndarray, *others: Any) -> Any:
        if any(not isinstance(x, ndarray | bool | int | float | np.generic) for x in others):
            return NotImplemented  # the other may know how; if not, Python raises TypeError
        operands = (*others, self) if reflected else (self, *others)
        return of(*operands, out=self if inplace else None)

    return method


for _name, _of in _OPERATORS.items():
    setattr(ndarray, f"__{_name}__", _operator(ufunc(_of)))
    if hasattr(operator, f"i{_name}"):
        setattr(ndarray, f"__r{_name}__", _operator(ufunc(_of), reflected=True))
        setattr(ndarray, f"__i{_name}__", _operator(ufunc(_of), inplace=True))


def _function(name: str, parameters: list[str]) -> Callable[..., Any]:
    def function(first: Any, *more: Any, **options: Any) -> Any:
        named = dict(zip(parameters[1:], more, strict=False)) | options
        if len(more) >= len(parameters) or not named.keys() <= set(parameters):
            raise TypeError(f"cupy.{name} takes {parameters}, not {[*named]}")
        out = named.get("out")
        _target(out)
        result = vars(np)[name](on_host(first), **{n: on_host(v) for n, v in named.items()})
        if out is None and isinstance(first, ndarray) and isinstance(result, np.ndarray):
            return first._view(result)
        return _answer(result, out)

    return function


# ---- functions that need more than a table


def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    return on_device(np.array(a, dtype=dtype, order=order))


def asnumpy(a: Any) -> Any:
    return a.get()


def empty(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    """Full of what must not shine through."""
    made = np.empty(shape, dtype, order)
    made.fill(True if made.dtype == bool else 93 if made.dtype.kind in "iu" else np.nan)
    return ndarray(made)


def copyto(dst: Any, src: Any, casting: Any = "same_kind", where: Any = None) -> None:
    np.copyto(dst._host, on_host(src), casting, where=True if where is None else where._host)


def where(condition: Any, x: Any = None, y: Any = None) -> ndarray:
    return on_device(np.where(on_host(condition), on_host(x), on_host(y)))


def take(a: Any, indices: Any, axis: Any = None, out: Any = None) -> Any:
    return _answer(np.take(a._host, on_host(indices), axis, _target(out), mode="wrap"), out)


def matmul(x1: Any, x2: Any, *, out: Any = None) -> Any:
    product = np.matmul(x1._host, x2._host)
    if out is None:
        return on_device(product)
    if out.shape != product.shape:
        raise ValueError("Output array has an invalid size")
    out._host[...] = product
    return out


def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """What CuPy returns is not `out`."""
    return on_device(np.cumsum(a._host, axis, dtype, _target(out)))


def min(a: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
    """With `out`, CuPy 14.2 asks NumPy whether two of its arrays are one dtype."""
    if out is not None:
        raise TypeError("operand type(s) all returned NotImplemented from __array_ufunc__")
    return on_device(np.min(a._host, axis, keepdims=keepdims))


def argsort(a: Any, axis: int = -1, kind: Any = None) -> ndarray:
    assert kind in (None, "stable"), "CuPy has no other"
    return on_device(np.argsort(a._host, axis, kind="stable"))


def may_share_memory(a: Any, b: Any) -> bool:
    return np.may_share_memory(a._host, b._host)


def as_strided(x: Any, shape: Any = None, strides: Any = None) -> Any:
    return x._view(np.lib.stride_tricks.as_strided(x._host, shape, strides))


def make_cupy() -> ModuleType:
    """The module, to be put into `sys.modules`."""
    cupy: Any = ModuleType("cupy")
    ndarray.__module__ = "cupy"
    own = (
        asarray, asnumpy, empty, copyto, where, take, matmul, cumsum, min, argsort,
        may_share_memory,
    )  # fmt: skip
    members = {function.__name__: function for function in (*own, ndarray, RawKernel)}
    members |= {name: _function(name, parameters) for name, parameters in FUNCTIONS.items()}
    vars(cupy).update(members, **{name: ufunc(name) for name in UFUNCS})
    cupy.lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=as_strided))
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
    stream = SimpleNamespace(synchronize=lambda: None)
    cupy.cuda = SimpleNamespace(runtime=runtime, get_current_stream=lambda: stream)
    return cupy
