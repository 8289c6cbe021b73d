"""`compile`: record a function once, then replay its kernel calls on fixed buffers.

A replay is a flat list of bound calls: no tape, no shape arithmetic, no allocation. Its results
equal those of the function on dense copies of its arguments bit for bit, because it makes the same
kernel calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedcore.autograd.binding import Binding
from fedcore.autograd.plan import Plan, make_plan
from fedcore.autograd.program import Program, Recording, dense
from fedcore.autograd.signature import Arguments
from fedcore.autograd.tree import Structure, flatten, unflatten
from fedcore.errors import ArgumentError, FedcoreError, TraceError, user_line
from fedcore.tensor.backend import backend_of, is_array, to_host
from fedcore.tensor.scratch import Scratch
from fedcore.tensor.tensor import Tensor, interpreter

__all__ = ["Compiled", "compile"]

MAX_PROGRAMS = 64  # more distinct signatures than this is an argument that should be an array
MAX_BINDINGS = 32  # donated memories in use by turns; a binding keeps its own alive


@dataclass(slots=True, eq=False)
class _Recorded:
    """A program ready for replay; `fixed` are the outputs that are no arrays, None for arrays."""

    plan: Plan
    structure: Structure
    fixed: tuple[Any, ...]
    checks_left: int


class Compiled:
    """A function with its recorded programs, one for each signature of its arguments."""

    def __init__(
        self,
        function: Callable[..., Any],
        donate: Sequence[int],
        captures: Sequence[Any],
        check: int,
    ) -> None:
        self._function, self._donate = function, frozenset(donate)
        self._captures = [_data(c) for c in flatten(list(captures))[0]]
        self._checks = check
        self._recorded: dict[Any, _Recorded] = {}
        self._own = threading.local()

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs recorded so far."""
        return tuple(recorded.plan.program for recorded in self._recorded.values())

    @property
    def arena_bytes(self) -> tuple[int, ...]:
        """How much memory a replay of each program works in, beside what is donated."""
        return tuple(recorded.plan.arena_bytes for recorded in self._recorded.values())

    def release(self) -> None:
        """Gives back the memory of this thread's replays; what was recorded stays.

        The next call takes memory anew, at about the cost of one call more.
        """
        self._own.__dict__.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = Arguments.of(args, kwargs)
        if _is_transformed() or arguments.traced:
            return self._function(*args, **kwargs)
        arrays, key = arguments.signature()
        donated = self._donated(arguments, len(args))
        for i in donated:
            arrays[i] = _writable(arrays[i])
        try:
            recorded = self._recorded.get(key)
        except TypeError as error:
            raise _not_comparable(error) from None
        if recorded is None:
            recorded = self._record(arguments, arrays, donated)
            self._recorded[arguments.kept(key)] = recorded
        expected = self._expected(arguments, arrays, donated) if recorded.checks_left else None
        inputs = [a for a in arrays if a is not None]
        try:
            results = self._replay(recorded, inputs)
        except FedcoreError as error:  # a label or an index out of range
            error.where = error.where or user_line()
            raise
        out = _rebuild(recorded, results)
        if expected is not None:
            recorded.checks_left -= 1
            _compare(expected, out)
        return out

    def again(self) -> Any:
        """This thread's latest call once more, on the same memory, without looking at arguments.

        All arrays among its arguments have to be donated: they count as they are now. It takes
        25 µs less than a call with seven arguments, which is much where a step takes 200.
        Raises: ArgumentError for a call with others, or before the first.
        """
        recorded, binding = self._own.__dict__.get("latest", (None, None))
        if binding is None or not binding.owns_all:
            raise ArgumentError(
                "compile: there is no call that could be made again",
                where=user_line(),
                why="this thread has made none, or one with arrays that it did not give away",
                fix="call it first, with every array among the arguments that are donated",
            )
        return _rebuild(recorded, binding.repeat())

    def _replay(self, recorded: _Recorded, inputs: list[Any]) -> list[Any]:
        latest: tuple[Any, Binding | None] = self._own.__dict__.get("latest", (None, None))
        if latest[1] is not None and latest[0] is recorded and latest[1].works_in(inputs):
            return latest[1](inputs)  # reading an address takes a microsecond
        bindings: dict[Any, Binding] = self._own.__dict__.setdefault("bindings", {})
        plan = recorded.plan
        memory = tuple(_address(inputs[i]) for i in sorted(plan.donated))
        binding = bindings.pop((recorded, memory), None)
        if binding is not None:
            bindings[recorded, memory] = binding  # the latest used stands last
            self._own.__dict__["latest"] = recorded, binding
            return binding(inputs)
        arena = next((b.arena for (other, _), b in bindings.items() if other is recorded), None)
        _separate(inputs, sorted(plan.donated))
        memory = tuple(_address(inputs[i]) for i in sorted(plan.donated))
        scratch = self._own.__dict__.setdefault("scratch", Scratch())
        binding = bindings[recorded, memory] = Binding(plan, inputs, scratch, arena)
        self._own.__dict__["latest"] = recorded, binding
        if len(bindings) > MAX_BINDINGS:
            del bindings[next(iter(bindings))]
        return binding.first_results()

    def _donated(self, arguments: Arguments, count: int) -> list[int]:
        """The positions of the arrays among the leaves that the caller gives away."""
        if any(not 0 <= i < count for i in self._donate):
            raise ArgumentError(
                f"compile: donate is {sorted(self._donate)} and there are {count} positional "
                "arguments",
                where=user_line(),
                why="it names arguments by position",
                fix="count from 0",
            )
        return arguments.of_arguments(self._donate) if self._donate else []

    def _record(self, arguments: Arguments, arrays: list[Any], donated: list[int]) -> _Recorded:
        if len(self._recorded) >= MAX_PROGRAMS:
            raise TraceError(
                f"compile: {MAX_PROGRAMS} programs were recorded for one function",
                where=user_line(),
                why="every new shape, integer or string argument records a program",
                fix="pass changing numbers as floats or arrays, and pad batches to one shape",
            )
        recording = Recording()
        traced = [None if a is None else recording.input(dense(a)) for a in arrays]
        paused = interpreter.tape_paused
        interpreter.recorder = recording
        interpreter.tape_paused = True  # no grad is open, and a taped call keeps its operands
        try:
            out = arguments.call(self._function, traced)
        finally:
            interpreter.recorder = None
            interpreter.tape_paused = paused
        values, structure = flatten(out)
        outputs = [_data(v) for v in values]
        program = recording.finish([v for v in outputs if is_array(v)], self._captures)
        inputs = [i for i, a in enumerate(arrays) if a is not None]
        plan = make_plan(program, frozenset(inputs.index(i) for i in donated))
        fixed = tuple(None if is_array(v) else v for v in outputs)
        checks = self._checks + 1 if self._checks else 0  # this call, and so many replays
        return _Recorded(plan, structure.without_arrays(values), fixed, checks)

    def _expected(self, arguments: Arguments, arrays: list[Any], donated: list[int]) -> Any:
        """What the function itself gives, computed before a replay overwrites what is donated."""
        given = [None if a is None else dense(a) for a in arrays]
        for i in donated:
            given[i] = arrays[i].copy(order="K")
        return arguments.call(self._function, given)


def _not_comparable(error: TypeError) -> ArgumentError:
    return ArgumentError(
        f"compile: an argument cannot be part of a signature: {error}",
        where=user_line(),
        why="what is no array or float is compared with the arguments of earlier calls",
        fix="pass arrays, numbers, strings, or containers of them",
    )


def _data(x: Any) -> Any:
    return x.data if isinstance(x, Tensor) else x


def _is_transformed() -> bool:
    """Whether a recording, a `grad` or a `vmap` is open: it must see the function's own calls."""
    state = interpreter
    return state.recorder is not None or state.open_grads > 0 or bool(state.lane_sizes)


def _writable(array: Any) -> Any:
    """`array`, or a copy of it if it is read-only or has gaps and so cannot be worked in."""
    if array.flags.c_contiguous and getattr(array.flags, "writeable", True):
        return array
    own = dense(array)
    return own if getattr(own.flags, "writeable", True) else own.copy(order="K")


def _separate(inputs: list[Any], donated: list[int]) -> None:
    """Copy each donated input that shares memory with one before it: both will be written."""
    for position, i in enumerate(donated):
        shares = backend_of(inputs[i]).xp.may_share_memory
        if any(shares(inputs[i], inputs[j]) for j in donated[:position]):
            inputs[i] = inputs[i].copy(order="K")


def _address(array: Any) -> tuple[int, tuple[int, ...]]:
    pointer = array.ctypes.data if hasattr(array, "ctypes") else array.data.ptr
    return pointer, array.strides


def _rebuild(recorded: _Recorded, results: list[Any]) -> Any:
    arrays = iter(results)
    leaves = [Tensor(next(arrays)) if f is None else f for f in recorded.fixed]
    return unflatten(recorded.structure, leaves)


def _compare(expected: Any, found: Any) -> None:
    """Raise a TraceError unless a replay gave what the function itself gives."""
    wanted, structure = flatten(expected)
    given, its = flatten(found)
    wrong = "the structure of the outputs" if structure != its else ""
    for position, (e, y) in enumerate(zip(wanted, given, strict=False)):
        if not wrong and not _equal(_data(e), _data(y)):
            wrong = f"output {position}"
    if wrong:
        raise TraceError(
            f"compile: {wrong} of a replay differs from the function itself",
            where=user_line(),
            why="the function depends on something that is not an argument",
            fix="pass it as an argument; draw random numbers from a key argument",
        )


def _equal(a: Any, b: Any) -> bool:
    if is_array(a) and is_array(b):
        floating = a.dtype.kind == "f"
        return bool(to_host(backend_of(a).xp.array_equal(a, b, equal_nan=floating)))
    return type(a) is type(b) and bool(a == b)


def compile(
    function: Callable[..., Any],
    *,
    donate: int | Sequence[int] = (),
    captures: Sequence[Any] = (),
    check: int = 0,
) -> Compiled:
    """`function`, recorded at its first call for each signature and replayed after that.

    `function` must be pure: arrays in, arrays out. Tensors, arrays and Python floats are inputs,
    the floats as 0-d float32, or float64 if an argument is float64; integers, strings, booleans and
    None are part of the signature. What other threads compute for the function while it is recorded
    is frozen. The results have the bits of the function on dense copies of its arguments: an array
    with gaps or reversed axes is copied to row-major order, which may change the order of addition.
    `donate` lists positional arguments whose memory the program may overwrite and return: do not
    use them after the call. Arrays above 64 KiB that the function takes from outside must be listed
    in `captures`, by themselves or in models. With `check`, the call that records a program and its
    next `check` replays are compared with the function on such copies, bit for bit. Inside `grad`,
    `vmap` or another recording the function itself is called.
    Raises: DtypeError for an array that `tensor` refuses; TraceError if a value is read while
    recording, if a large array is captured without being declared, if a donated one is captured, or
    if a check fails.

    >>> from fedcore.tensor.tensor import tensor
    >>> double = compile(lambda x, factor: x * factor)
    >>> double(tensor([1.0, 2.0]), 2.0).tolist(), double(tensor([1.0, 2.0]), 3.0).tolist()
    ([2.0, 4.0], [3.0, 6.0])
    """
    if check < 0:
        raise ArgumentError(
            f"compile: check is {check}", why="it counts comparisons", fix="pass 0 or more"
        )
    positions = (donate,) if isinstance(donate, int) else donate
    return Compiled(function, positions, captures, check)
