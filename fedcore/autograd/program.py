"""A recorded program: the kernel calls of one run, as data. It is the only intermediate form.

Replay, cost estimates and printing read it. A recording knows a value by the identity of its array
while that lives, and keeps no array that a call made: the run takes no more memory for it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import numpy as np

from fedcore.errors import TraceError, user_line
from fedcore.tensor.backend import backend_of
from fedcore.tensor.primitive import Primitive
from fedcore.tensor.tensor import Tensor

__all__ = ["Call", "Program", "Recording", "Value", "dense", "layout", "row_major"]

SMALL_BYTES = 64 * 1024  # a captured array up to this size needs no declaration


@dataclass(frozen=True, slots=True)
class Value:
    """An array of the program: full shape with lanes, dtype, layout, and whose memory it is.

    `strides` are those of the recorded run, because a kernel's order of addition may follow them;
    `root` is the value that owns the memory, itself unless this is a view.
    """

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    root: int

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"%{self.index}:{self.dtype.name}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel call: which primitive, on which values, giving which."""

    prim: Primitive
    inputs: tuple[int, ...]
    params: tuple[tuple[str, Any], ...]
    output: int
    lanes: int
    view: bool

    def core_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """`shape` without the lanes."""
        return shape[self.lanes :]


def row_major(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides of a dense array whose last axis is the fastest.

    >>> row_major((2, 3, 4), 4)
    (48, 16, 4)
    """
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def layout(array: Any) -> tuple[int, ...]:
    """The strides of `array`, or row-major ones if it has gaps: a program's arrays are dense."""
    strides: tuple[int, ...] = array.strides
    if array.flags.c_contiguous:
        return strides
    axes = sorted(range(array.ndim), key=lambda a: -strides[a])
    if array.transpose(axes).flags.c_contiguous:
        return strides
    return row_major(array.shape, array.itemsize)


def dense(array: Any) -> Any:
    """`array`, or a row-major copy of it if it has gaps."""
    return array if layout(array) == array.strides else array.copy()


class Recording:
    """Collects the calls of one run; `finish` makes the program."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, ref[Any]]] = {}  # by id, which a later array may take
        self._given: dict[int, Any] = {}  # what no call made: inputs and constants, by index
        self._values: list[Value] = []
        self._calls: list[Call] = []
        self._inputs: list[int] = []

    def _add(self, array: Any, root: int | None) -> int:
        index = len(self._values)
        self._found[id(array)] = index, ref(array)
        self._values.append(
            Value(
                index,
                tuple(array.shape),
                array.dtype,
                layout(array),
                index if root is None else root,
            )
        )
        return index

    def _add_given(self, array: Any) -> int:
        index = self._add(array, None)
        self._given[index] = array
        return index

    def _index_of(self, array: Any) -> int | None:
        index, known = self._found.get(id(array), (None, None))
        return index if known is not None and known() is array else None

    def input(self, array: Any) -> Any:
        """Declare an input; gives the array object to compute with."""
        own = array.view()
        self._inputs.append(self._add_given(own))
        return own

    def record(self, prim: Primitive, xs: list[Tensor], params: dict[str, Any], y: Tensor) -> None:
        """Note a call that has just run."""
        inputs = tuple(self.value_of(x.data) for x in xs)
        if self._index_of(y.data) is not None:  # the kernel gave an operand back: no call is needed
            return
        view = prim.view and _aliases(y.data, xs[0].data)
        root = self._values[inputs[0]].root if view else None
        output = self._add(y.data, root)
        self._calls.append(Call(prim, inputs, tuple(sorted(params.items())), output, y.lanes, view))

    def value_of(self, array: Any) -> int:
        """The index of an array; one that no call made is a constant captured by the function."""
        index = self._index_of(array)
        return self._add_given(array) if index is None else index

    def finish(self, outputs: Sequence[Any], declared: Sequence[Any]) -> Program:
        """The program that computes `outputs` from the inputs.

        Raises: TraceError if a large array was captured without being declared.
        """
        results = tuple(self.value_of(array) for array in outputs)
        captured = self._given.keys() - set(self._inputs)
        fixed = self._fixed_numbers(captured)
        constants = {i: array for i, array in self._given.items() if i in captured}
        program = Program(
            tuple(self._values), tuple(self._calls), tuple(self._inputs), results, constants
        )
        program = program.without_common_calls(fixed).without_dead_calls()
        _check_captures(program, declared)
        return program

    def _fixed_numbers(self, indices: Collection[int]) -> frozenset[int]:
        """The 0-d arrays that nobody can change, because no one but this recording holds them."""
        views = Counter(id(getattr(known(), "base", None)) for _, known in self._found.values())
        fixed = set()
        for i in indices:
            held = sys.getrefcount(self._given[i])  # by the table, by this very call, by views
            array = self._given[i]
            if array.ndim == 0 and array.base is None and held == 2 + views[id(array)]:
                fixed.add(i)
        return frozenset(fixed)


def _aliases(y: Any, x: Any) -> bool:
    return bool(backend_of(x).xp.may_share_memory(x, y))


def _check_captures(program: Program, declared: Sequence[Any]) -> None:
    known = {id(_owner(array)) for array in declared}
    for array in program.captures:
        if array.nbytes > SMALL_BYTES and id(_owner(array)) not in known:
            raise TraceError(
                f"compile: an array of {array.nbytes:,} bytes and shape {array.shape} was captured",
                where=user_line(),
                why="it is frozen into the program: later changes of it would not be seen",
                fix="pass it as an argument, or declare it with captures=[...]",
            )


def _owner(array: Any) -> Any:
    """The array whose memory `array` views: a parameter of a declared vector is declared too."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Straight-line code over numbered values, which `str` prints.

    `constants` are the captured arrays by number. Two programs are equal if they are the same.
    """

    values: tuple[Value, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: dict[int, Any]

    @property
    def captures(self) -> tuple[Any, ...]:
        """The arrays that the function took from outside its arguments."""
        return tuple(self.constants.values())

    @property
    def flops(self) -> int:
        """Floating-point operations by the primitives' own cost rules, over all lanes."""
        total = 0
        for call in self.calls:
            if call.prim.cost is not None:
                shapes = [self.values[i].shape for i in call.inputs]
                lanes = self.values[call.output].shape[: call.lanes]
                once = call.prim.cost(*[call.core_shape(s) for s in shapes], **dict(call.params))
                total += once * int(np.prod(lanes, dtype=np.int64))
        return total

    def without_dead_calls(self) -> Program:
        """The same program without the calls whose result nobody reads."""
        needed = set(self.outputs)
        kept = []
        for call in reversed(self.calls):
            if call.output in needed:
                kept.append(call)
                needed.update(call.inputs)
        constants = {i: a for i, a in self.constants.items() if i in needed}
        return Program(self.values, tuple(reversed(kept)), self.inputs, self.outputs, constants)

    def without_common_calls(self, fixed: frozenset[int]) -> Program:
        """The same program with each distinct call made once.

        `fixed` are the constants that never change: those of equal value are one.
        """
        same: dict[int, int] = {}
        first: dict[Any, int] = {}
        calls = []
        for index, array in self.constants.items():
            if index in fixed:
                same[index] = first.setdefault((array.dtype, array.tobytes()), index)
        for call in self.calls:
            inputs = tuple(same.get(i, i) for i in call.inputs)
            key = (call.prim, inputs, call.params, repr(call.params), call.lanes)  # 0.0 == -0.0
            try:
                earlier = first.setdefault(key, call.output)
            except TypeError:  # a parameter that cannot be hashed: keep the call
                earlier = call.output
            if earlier == call.output:
                calls.append(
                    Call(call.prim, inputs, call.params, call.output, call.lanes, call.view)
                )
            else:
                same[call.output] = earlier
        values = tuple(
            Value(v.index, v.shape, v.dtype, v.strides, same.get(v.root, v.root))
            for v in self.values
        )
        outputs = tuple(same.get(i, i) for i in self.outputs)
        return Program(values, tuple(calls), self.inputs, outputs, self.constants)

    def __str__(self) -> str:
        """The inputs, the captures (a number with its value), one line a call, and the outputs."""
        lines = ["inputs " + ", ".join(str(self.values[i]) for i in self.inputs)]
        for i, array in self.constants.items():
            known = f" = {array.item()}" if array.ndim == 0 else ""
            lines.append(f"capture {self.values[i]}{known}")
        for call in self.calls:
            params = "".join(f" {k}={v}" for k, v in call.params)
            inputs = ", ".join(f"%{i}" for i in call.inputs)
            mark = " (view)" if call.view else ""
            lines.append(f"{self.values[call.output]} = {call.prim.name}({inputs}){params}{mark}")
        lines.append("outputs " + ", ".join(f"%{i}" for i in self.outputs))
        return "\n".join(lines)
