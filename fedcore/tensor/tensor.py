"""`Tensor`: an array, the number of its leading lane axes, and the tape node that made it.

The lanes are hidden: `shape` and `ndim` describe one lane, and every operation means what it says
for one lane.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from fedcore.errors import (
    DerivativeError,
    DtypeError,
    MutationError,
    ShapeError,
    TraceError,
    user_line,
)
from fedcore.tensor.backend import Backend, backend_of, current_backend, is_array, to_host
from fedcore.tensor.interop import Interop
from fedcore.tensor.operators import Axis, Operators
from fedcore.tensor.registry import operations

if TYPE_CHECKING:
    from fedcore.tensor.primitive import Primitive

__all__ = ["Axis", "Interpreter", "Node", "Tensor", "interpreter", "tensor"]


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


class Tensor(Operators, Interop):
    """An immutable n-dimensional array that can be differentiated, mapped over lanes and recorded.

    Make one with `fedcore.tensor(values)`. Arithmetic follows NumPy, except that float32 stays
    float32 and that nothing is assigned in place.

    >>> x = tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> x.shape, x.dtype
    ((2, 2), dtype('float32'))
    """

    __slots__ = ("data", "lanes", "node")

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
        if interpreter.recorder is not None:  # the length of a text is a value, too
            return f"Tensor(shape={self.shape}, dtype={self.dtype})"
        text = np.array2string(to_host(self.data), separator=", ", prefix="tensor(", threshold=40)
        return f"tensor({text}, dtype={self.dtype})"

    def __len__(self) -> int:
        if self.ndim == 0:
            raise ShapeError(
                "len() of a 0-d tensor",
                where=user_line(),
                why="it has no first axis",
                fix="use .size",
            )
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return bool(operations.any(operations.equal(self, value)))

    def __pos__(self) -> Tensor:
        return self

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

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

    def _constant(self, what: str) -> Any:
        """The values for code that works on them outside of the tape."""
        if self.node is not None and interpreter.open_grads and self.dtype.kind == "f":
            raise DerivativeError(
                f"{what} reads a tensor of shape {self.shape} that is being differentiated",
                where=user_line(),
                why="what is computed outside of fedcore has no derivative: it would count as 0",
                fix="use fedcore's operation of that name, or read fedcore.stop_gradient(x) if the "
                "value is meant as a constant",
            )
        return self._read(what)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array in main memory that cannot be written to: it may be shared.

        `numpy.array(x)` makes one of your own. Raises: DerivativeError while the tensor is being
        differentiated, TraceError while a program is being recorded and inside `vmap`.
        """
        return self._as_array("numpy()")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self._as_array("numpy.asarray"), dtype=dtype, copy=copy)

    def _as_array(self, what: str) -> np.ndarray[Any, Any]:
        view: np.ndarray[Any, Any] = self._constant(what).view()
        view.flags.writeable = False
        return view

    def item(self) -> Any:
        """The only element as a Python number, which has no derivative.

        Like `float`, `int` and `bool` it may be read while the tensor is being differentiated, for
        control flow by value. Raises: TraceError while a program is being recorded and inside
        `vmap`.
        """
        return self._number("item()")

    def _number(self, what: str) -> Any:
        if self.size != 1:
            raise ShapeError(
                f"{what} of a tensor of shape {self.shape}",
                where=user_line(),
                why="only a tensor of one element is one number",
                fix="index it, reduce it with any, all or sum, or use .numpy()",
            )
        return self._read(what).item()

    def tolist(self) -> Any:
        """The values as nested Python lists; it raises what `numpy()` raises."""
        return self._constant("tolist()").tolist()

    def __float__(self) -> float:
        """The only element; like `item` it may be read while it is being differentiated."""
        return float(self._number("float()"))

    def __int__(self) -> int:
        """The only element without its fraction; like `item` it has no derivative."""
        return int(self._number("int()"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.ndim:
            raise DtypeError(
                f"a tensor of shape {self.shape} and dtype {self.dtype} is no index",
                where=user_line(),
                why="Python counts with one whole number",
                fix="convert it with int()",
            )
        return int(self)

    def __bool__(self) -> bool:
        """Whether the only element is not 0; like `item` it has no derivative."""
        return bool(self._number("bool()"))

    # ---- copies: a tensor does not change, but the array it was made from may
    def __copy__(self) -> Tensor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self.node is not None or self.lanes or interpreter.recorder is not None:
            return self  # its value belongs to a derivative, a lane or a program
        return Tensor(self.data.copy())

    def __reduce__(self) -> tuple[type[Tensor], tuple[Any]]:
        if self.node is not None:
            raise TraceError(
                "a tensor that is being differentiated cannot be pickled",
                where=user_line(),
                why="its derivative would be lost",
                fix="return it from the differentiated function and pickle it outside",
            )
        self._read("pickling")
        return Tensor, (self.data,)

    # ---- mutation is refused
    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise MutationError(
            "a tensor cannot be assigned to",
            where=user_line(),
            why="derivatives and replays need the value that was there",
            fix="use fedcore.set(x, index, value), which returns a new tensor",
        )


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
        made = Tensor(_plain(values))
        return made if dtype is None else made.astype(dtype)
    try:
        # read as numbers they would lose their derivatives
        parts = [tensor(v) for v in values] if _holds_tensors(values) else None
    except RecursionError as error:
        raise ShapeError(
            f"a {type(values).__name__} is not a tensor",
            where=user_line(),
            why="it contains itself, or lists within lists without end",
            fix="give it as many levels as the tensor has axes",
        ) from error
    if parts is not None:
        joined = operations.stack(parts)
        return joined if dtype is None else joined.astype(dtype)
    try:
        host = np.asarray(values)
    except (ValueError, OverflowError, TypeError) as error:
        raise ShapeError(
            f"a {type(values).__name__} is not a tensor",
            where=user_line(),
            why=str(error),
            fix="give all rows one length, or pad them",
        ) from error
    if host.dtype.kind not in "biuf":
        raise _not_numbers(f"a {type(values).__name__}")
    if host.dtype == np.float64 and not isinstance(values, np.generic):
        host = host.astype(np.float32) if dtype is None else host
    made = Tensor(current_backend().asarray(host))
    return made if dtype is None else made.astype(dtype)


def _plain(array: Any) -> Any:
    """An array of numbers in the byte order of this machine, and no subclass of arrays.

    Raises: DtypeError if it holds anything else.
    """
    if array.dtype.kind not in "biuf":
        raise _not_numbers(f"an array of {array.dtype}")
    if isinstance(array, np.ma.MaskedArray):
        raise _not_numbers("a masked array")
    if isinstance(array, np.ndarray) and not (type(array) is np.ndarray and array.dtype.isnative):
        return np.asarray(array, dtype=array.dtype.newbyteorder("="))
    return array


def _not_numbers(what: str) -> DtypeError:
    return DtypeError(
        f"{what} is not a tensor",
        where=user_line(),
        why="only real numbers and arrays of them can be computed with",
        fix="encode text and objects as numbers, split complex numbers into two",
    )


def _holds_tensors(values: Any) -> bool:
    """Whether a list holds tensors, or arrays of a GPU, which cannot be read as numbers either."""
    return isinstance(values, list | tuple) and any(
        isinstance(v, Tensor)
        or (not isinstance(v, int | float | np.ndarray) and (is_array(v) or _holds_tensors(v)))
        for v in values
    )
