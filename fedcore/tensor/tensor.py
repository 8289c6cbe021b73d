"""`Tensor`: an array, the number of its leading lane axes, and the tape node that made it.

The lanes are hidden: `shape` and `ndim` describe one lane, and every operation means what it says
for one lane. Operators are spelled out by hand and call the registered operations by name.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from fedcore.errors import DtypeError, MutationError, ShapeError, TraceError, user_line
from fedcore.tensor.backend import Backend, backend_of, current_backend, is_array, to_host
from fedcore.tensor.registry import operations

if TYPE_CHECKING:
    from fedcore.tensor.primitive import Primitive

__all__ = ["Axis", "Interpreter", "Node", "Tensor", "interpreter", "tensor"]

Axis = int | tuple[int, ...] | None


class Recorder(Protocol):
    """Receives every kernel call while a program is recorded."""

    def record(
        self, prim: Primitive, xs: list[Tensor], params: dict[str, Any], y: Tensor
    ) -> None: ...


class Interpreter(threading.local):
    """What the current thread is doing: open `vmap` sizes, open `grad` calls, a recording.

    It is per thread because simulators train clients in threads.
    """

    def __init__(self) -> None:
        self.lane_sizes: list[int] = []
        self.open_grads = 0
        self.tape_paused = False
        self.recorder: Recorder | None = None


interpreter = Interpreter()
_sequence = itertools.count()


class Node:
    """One taped call. It keeps the output's array, not the output, so that no cycle arises.

    `lane_sizes` are the lanes that were open when it ran: its derivative runs in the same ones.
    """

    __slots__ = ("data", "lane_sizes", "lanes", "params", "prim", "seq", "xs")

    def __init__(
        self, prim: Primitive, xs: list[Tensor], params: dict[str, Any], data: Any, lanes: int
    ) -> None:
        self.prim, self.xs, self.params = prim, xs, params
        self.data, self.lanes = data, lanes
        self.lane_sizes = tuple(interpreter.lane_sizes)
        self.seq = next(_sequence)

    def output(self) -> Tensor:
        """The tensor that the call returned."""
        return Tensor(self.data, self.lanes, self)


class Tensor:
    """An immutable n-dimensional array that can be differentiated, mapped over lanes and recorded.

    Make one with `fedcore.tensor(values)`. Arithmetic follows NumPy, except that float32 stays
    float32 and that nothing is assigned in place.

    >>> x = tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> x.shape, x.dtype
    ((2, 2), dtype('float32'))
    """

    __slots__ = ("data", "lanes", "node")
    __array_ufunc__ = None  # numpy_array * tensor becomes tensor.__rmul__(numpy_array)

    def __init__(self, data: Any, lanes: int = 0, node: Node | None = None) -> None:
        self.data, self.lanes, self.node = data, lanes, node

    # ---- what it is
    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one lane."""
        return self.data.shape[self.lanes :]  # type: ignore[no-any-return]

    @property
    def lane_shape(self) -> tuple[int, ...]:
        """The sizes of the lane axes; 1 also stands for "the same in every lane"."""
        return self.data.shape[: self.lanes]  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        """The number of axes of one lane."""
        return self.data.ndim - self.lanes  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """The number of elements of one lane."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self.data.dtype  # type: ignore[no-any-return]

    @property
    def backend(self) -> Backend:
        """The array library that holds the values."""
        return backend_of(self.data)

    def __repr__(self) -> str:
        if self.lanes:
            return f"Tensor(shape={self.shape}, dtype={self.dtype}, lanes={self.lane_shape})"
        text = np.array2string(to_host(self.data), separator=", ", prefix="tensor(", threshold=40)
        return f"tensor({text}, dtype={self.dtype})"

    def __len__(self) -> int:
        if self.ndim == 0:
            raise ShapeError("len() of a 0-d tensor", why="it has no first axis", fix="use .size")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    # ---- leaving the core: values become Python or NumPy objects
    def _read(self, what: str) -> Any:
        if interpreter.recorder is not None:
            raise TraceError(
                f"{what} reads a value while a program is being recorded",
                where=user_line(),
                why="the value would be frozen into every replay",
                fix="compute it with operations (where, maximum, ...) or outside of compile",
            )
        if self.lanes:
            raise TraceError(
                f"{what} reads one value of a tensor that has {self.lane_shape} lanes",
                where=user_line(),
                why="inside vmap a tensor holds a value per lane",
                fix="return it from the mapped function and read it outside",
            )
        return to_host(self.data)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array in main memory; do not write to it, it may be shared."""
        return self._read("numpy()")  # type: ignore[no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self._read("numpy.asarray"), dtype=dtype, copy=copy)

    def item(self) -> Any:
        """The only element as a Python number."""
        if self.size != 1:
            raise ShapeError(
                f"item() of a tensor of shape {self.shape}",
                where=user_line(),
                why="only a tensor of one element is one number",
                fix="index it, or use .numpy()",
            )
        return self._read("item()").item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return self._read("tolist()").tolist()

    def __float__(self) -> float:
        self._read("float()")
        return float(self.item())

    def __int__(self) -> int:
        self._read("int()")
        return int(self.item())

    def __index__(self) -> int:
        if not np.issubdtype(self.dtype, np.integer):
            raise TypeError(f"a tensor of {self.dtype} is no index")
        return int(self)

    def __bool__(self) -> bool:
        self._read("bool()")
        return bool(self.item())

    # ---- mutation is refused
    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise MutationError(
            "a tensor cannot be assigned to",
            where=user_line(),
            why="derivatives and replays need the value that was there",
            fix="use fedcore.set(x, index, value), which returns a new tensor",
        )

    # ---- operators
    def __add__(self, other: Any) -> Tensor:
        return operations.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return operations.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return operations.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return operations.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return operations.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return operations.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return operations.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return operations.divide(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return operations.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return operations.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return operations.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return operations.remainder(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return operations.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return operations.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return operations.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return operations.matmul(other, self)

    def __neg__(self) -> Tensor:
        return operations.negative(self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return operations.absolute(self)

    def __invert__(self) -> Tensor:
        return operations.logical_not(self)

    def __and__(self, other: Any) -> Tensor:
        return operations.logical_and(self, other)

    def __or__(self, other: Any) -> Tensor:
        return operations.logical_or(self, other)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return operations.equal(self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return operations.not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return operations.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return operations.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return operations.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return operations.greater_equal(self, other)

    __hash__ = object.__hash__

    def __getitem__(self, index: Any) -> Tensor:
        return operations.index(self, index)

    # ---- methods: the names that NumPy users look for
    @property
    def T(self) -> Tensor:
        """The axes reversed."""
        return operations.permute_dims(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return operations.swapaxes(self, -1, -2)

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape; one length may be -1."""
        return operations.reshape(self, shape[0] if len(shape) == 1 else shape)

    def flatten(self) -> Tensor:
        """All elements in one axis."""
        return operations.reshape(self, (self.size,))

    def transpose(self, *axes: int) -> Tensor:
        """The axes permuted, or reversed when none is given."""
        return operations.permute_dims(self, axes or None)

    def swapaxes(self, first: int, second: int) -> Tensor:
        """Two axes exchanged."""
        return operations.swapaxes(self, first, second)

    def squeeze(self, axis: Axis = None) -> Tensor:
        """Axes of length 1 removed."""
        return operations.squeeze(self, axis)

    def astype(self, dtype: Any) -> Tensor:
        """The values converted to `dtype`."""
        return operations.cast(self, dtype=np.dtype(dtype))

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The sum along `axis`, or of everything."""
        return operations.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The mean along `axis`, or of everything."""
        return operations.mean(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The population variance along `axis`, or of everything."""
        return operations.var(self, axis=axis, keepdims=keepdims)

    def std(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The population standard deviation along `axis`, or of everything."""
        return operations.std(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The largest value along `axis`, or of everything."""
        return operations.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The smallest value along `axis`, or of everything."""
        return operations.min(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The product along `axis`, or of everything."""
        return operations.prod(self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int = -1) -> Tensor:
        """Running sums along `axis`."""
        return operations.cumsum(self, axis=axis)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether any value along `axis` is true."""
        return operations.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether all values along `axis` are true."""
        return operations.all(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None) -> Tensor:
        """The index of the first largest value along `axis`, or in the flattened tensor."""
        return operations.argmax(self, axis=axis)

    def argmin(self, axis: int | None = None) -> Tensor:
        """The index of the first smallest value along `axis`, or in the flattened tensor."""
        return operations.argmin(self, axis=axis)

    def clip(self, low: Any = None, high: Any = None) -> Tensor:
        """The values limited to [low, high]."""
        return operations.clip(self, low, high)

    def dot(self, other: Any) -> Tensor:
        """The matrix product, as `@`."""
        return operations.matmul(self, other)


def tensor(values: Any, *, dtype: Any = None) -> Tensor:
    """A tensor of `values`: a number, nested lists, an array, or a tensor (returned unchanged).

    Python floats become float32; an array keeps its dtype and device. Lists go to the backend that
    `use_backend` chose.

    >>> tensor([1, 2, 3]).dtype.name, tensor(0.5).dtype.name
    ('int64', 'float32')
    """
    if isinstance(values, Tensor):
        return values if dtype is None else values.astype(dtype)
    if is_array(values):
        return Tensor(values if dtype is None else values.astype(dtype))
    if _holds_tensors(values):  # read as numbers they would lose their derivatives
        joined = operations.stack([tensor(v) for v in values])
        return joined if dtype is None else joined.astype(dtype)
    host = np.asarray(values)
    if dtype is None and host.dtype == np.float64 and not isinstance(values, np.generic):
        dtype = np.float32
    if host.dtype.kind not in "biufc":
        raise DtypeError(
            f"a {type(values).__name__} is not a tensor",
            where=user_line(),
            why="only numbers and arrays of numbers can be computed with",
            fix="encode text and objects as numbers first",
        )
    return Tensor(current_backend().asarray(host, dtype=dtype or host.dtype))


def _holds_tensors(values: Any) -> bool:
    return isinstance(values, list | tuple) and any(
        isinstance(v, Tensor) or _holds_tensors(v) for v in values
    )
