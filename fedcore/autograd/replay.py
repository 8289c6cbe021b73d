"""`compile`: record a function once, then replay its kernel calls on fixed buffers.

A replay is a flat list of bound calls: no tape, no shape arithmetic, no allocation. Its results
equal those of the recorded function bit for bit, because it makes the same kernel calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fedcore.autograd.plan import Plan, make_plan
from fedcore.autograd.program import Call, Program, Recording, memory_order
from fedcore.autograd.tree import Structure, flatten, unflatten
from fedcore.errors import ArgumentError, TraceError, user_line
from fedcore.tensor.backend import Backend, backend_of, current_backend, is_array
from fedcore.tensor.tensor import Tensor, interpreter

__all__ = ["Compiled", "compile"]

MAX_PROGRAMS = 64  # more distinct signatures than this is an argument that should be an array
MAX_BINDINGS = 32  # donated memories in use by turns; a binding keeps its own alive


class Binding:
    """A plan bound to an arena and to the caller's donated arrays; owned by one thread."""

    def __init__(self, plan: Plan, inputs: Sequence[Any], arena: Any = None) -> None:
        self._plan = plan
        self._backend = backend_of(inputs[0]) if inputs else current_backend()
        fresh = arena is None
        self.arena = self._backend.xp.empty(plan.arena_bytes, dtype=np.uint8) if fresh else arena
        self._given = dict(zip(plan.program.inputs, inputs, strict=True))
        self._arrays: dict[int, Any] = {}
        self._loads = [
            (position, self._resolve(index))
            for position, index in enumerate(plan.program.inputs)
            if position not in plan.donated
        ]
        self._load(inputs)
        self._calls: list[Callable[[], Any]] = []
        for call in plan.program.calls:
            self._bind(call)
        self._results = [
            (self._resolve(index), self._memory_of(index) == "input")
            for index in plan.program.outputs
        ]

    def first_results(self) -> list[Any]:
        """The results of the run that binding made."""
        return [array if own else array.copy() for array, own in self._results]

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on `inputs`, whose donated arrays are those of the binding."""
        self._load(inputs)
        for call in self._calls:
            call()
        return self.first_results()

    def _load(self, inputs: Sequence[Any]) -> None:
        copyto = self._backend.xp.copyto
        for position, buffer in self._loads:
            copyto(buffer, inputs[position])

    def _memory_of(self, index: int) -> str:
        placements = self._plan.placements
        placed = placements[self._plan.program.values[index].root]
        while placed.kind == "alias":
            placed = placements[placed.other]
        return placed.kind

    def _resolve(self, index: int) -> Any:
        """The array of a root value, or of a view that is bound already."""
        found = self._arrays.get(index)
        if found is None:
            found = self._arrays[index] = self._place(index)
        return found

    def _place(self, index: int) -> Any:
        value = self._plan.program.values[index]
        placed = self._plan.placements[index]
        if placed.kind == "input":
            return self._given[index]
        if placed.kind == "constant":
            return self._plan.program.constants[index]
        if placed.kind == "alias":
            return self._resolve(placed.other)
        if placed.kind == "inside":
            whole = self._resolve(placed.other)
            lanes = whole.shape[:-1]
            core = value.shape[len(lanes) :]
            count = int(np.prod(core, dtype=np.int64))
            return whole[..., placed.offset : placed.offset + count].reshape(value.shape)
        raw = self.arena[placed.offset : placed.offset + value.nbytes].view(value.dtype)
        laid = raw.reshape([value.shape[a] for a in value.order])
        return laid.transpose([value.order.index(a) for a in range(len(value.order))])

    def _bind(self, call: Call) -> None:
        arrays = [self._resolve(i) for i in call.inputs]
        params = dict(call.params)
        xp = self._backend.xp
        if call.view:
            self._arrays[call.output] = call.prim.kernel(xp, *arrays, **params)
            return
        out = self._resolve(call.output)
        if call.prim.name == "assemble":
            for step in _assembly(xp, arrays, out, params, self._plan.copies[call.output]):
                self._add(step, out)
        else:
            self._add(_bound_call(self._backend, call, arrays, out, params), out)

    def _add(self, step: Callable[[], Any], out: Any) -> None:
        """Append a call, having run it: one that answers with another array must be copied."""
        result = step()
        if result is not None and result is not out and is_array(result):
            step = partial(_copy_result, self._backend.xp.copyto, out, step)
            step()
        self._calls.append(step)


def _copy_result(copyto: Callable[[Any, Any], None], out: Any, step: Callable[[], Any]) -> None:
    copyto(out, step())


def _bound_call(
    backend: Backend, call: Call, arrays: list[Any], out: Any, params: dict[str, Any]
) -> Callable[[], Any]:
    prim = call.prim
    prepare = prim.preparations.get(backend.name)
    if prepare is not None:
        prepared = prepare(backend.xp, *arrays, out=out, **params)
        if prepared is not None:
            return prepared
    if prim.ufunc:
        return partial(getattr(backend.xp, prim.ufunc), *arrays, out=out)
    kernel = prim.kernels.get(backend.name, prim.kernel)
    return partial(kernel, backend.xp, *arrays, out=out, **params)


def _assembly(
    xp: Any, arrays: list[Any], out: Any, params: dict[str, Any], positions: tuple[int, ...]
) -> list[Callable[[], Any]]:
    """Copies of the parts that were not computed in place, and zeros for what no part covers."""
    steps: list[Callable[[], Any]] = []
    end = 0
    for position, (part, offset, rank) in enumerate(
        zip(arrays, params["offsets"], params["ranks"], strict=True)
    ):
        if offset > end:
            steps.append(partial(out[..., end:offset].fill, 0))
        core = part.shape[part.ndim - rank :]
        end = offset + int(np.prod(core, dtype=np.int64))
        if position in positions:
            target = out[..., offset:end].reshape((*out.shape[:-1], *core))
            steps.append(partial(xp.copyto, target, part))
    if end < params["size"]:
        steps.append(partial(out[..., end:].fill, 0))
    return steps


class _Recorded(NamedTuple):
    plan: Plan
    structure: Structure
    fixed: tuple[Any, ...]


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
        self._captures = [c.data if isinstance(c, Tensor) else c for c in captures]
        self._checks_left = check
        self._recorded: dict[Any, _Recorded] = {}
        self._own = threading.local()

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs recorded so far."""
        return tuple(recorded.plan.program for recorded in self._recorded.values())

    def __call__(self, *args: Any) -> Any:
        leaves, structure, owners = _flatten_arguments(args)
        if _is_transformed() or any(_is_traced(x) for x in leaves):
            return self._function(*args)
        arrays, key = _signature(leaves, structure)
        donated = self._donated(leaves, owners, len(args))
        for i in donated:
            arrays[i] = _writable(arrays[i])
        recorded = self._recorded.get(key)
        if recorded is None:
            recorded = self._record(leaves, structure, arrays, donated)
            self._recorded[key] = recorded
        before = self._function_inputs(args) if self._checks_left else None
        inputs = [a for a in arrays if a is not None]
        results = self._replay(key, recorded.plan, inputs)
        if before is not None:
            self._check(before, results)
        return _rebuild(recorded, results)

    def _replay(self, key: Any, plan: Plan, inputs: list[Any]) -> list[Any]:
        bindings: dict[Any, Binding] = self._own.__dict__.setdefault("bindings", {})
        memory = tuple(_address(inputs[i]) for i in sorted(plan.donated))
        binding = bindings.pop((key, memory), None)
        if binding is not None:
            bindings[key, memory] = binding  # the latest used stands last
            return binding(inputs)
        arena = next((b.arena for (other, _), b in bindings.items() if other == key), None)
        binding = bindings[key, memory] = Binding(plan, inputs, arena)
        if len(bindings) > MAX_BINDINGS:
            del bindings[next(iter(bindings))]
        return binding.first_results()

    def _donated(self, leaves: Sequence[Any], owners: Sequence[int], count: int) -> list[int]:
        """The positions of the arrays among the leaves that the caller gives away."""
        if any(not 0 <= i < count for i in self._donate):
            raise ArgumentError(
                f"compile: donate is {sorted(self._donate)} and there are {count} arguments",
                where=user_line(),
                why="it names arguments by position",
                fix="count from 0",
            )
        if not self._donate:
            return []
        return [
            i
            for i, (x, owner) in enumerate(zip(leaves, owners, strict=True))
            if owner in self._donate and is_array(x.data if type(x) is Tensor else x)
        ]

    def _record(
        self,
        leaves: Sequence[Any],
        structure: Structure | None,
        arrays: list[Any],
        donated: list[int],
    ) -> _Recorded:
        if len(self._recorded) >= MAX_PROGRAMS:
            raise TraceError(
                f"compile: {MAX_PROGRAMS} programs were recorded for one function",
                where=user_line(),
                why="every new shape, integer or string argument records a program",
                fix="pass changing numbers as floats or arrays, and pad batches to one shape",
            )
        recording = Recording()
        traced = [
            x if a is None else Tensor(recording.input(a))
            for x, a in zip(leaves, arrays, strict=True)
        ]
        given = tuple(traced) if structure is None else unflatten(structure, traced)
        interpreter.recorder = recording
        try:
            out = self._function(*given)
        finally:
            interpreter.recorder = None
        values, out_structure = flatten(out)
        outputs = [v.data if isinstance(v, Tensor) else v for v in values]
        program = recording.finish([v for v in outputs if is_array(v)], self._captures)
        inputs = [i for i, a in enumerate(arrays) if a is not None]
        plan = make_plan(program, frozenset(inputs.index(i) for i in donated))
        fixed = tuple(None if is_array(v) else v for v in outputs)
        return _Recorded(plan, out_structure, fixed)

    def _function_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as they are now: a replay may overwrite what was donated."""
        leaves, structure = flatten(args)
        copies = [
            Tensor(x.data.copy()) if isinstance(x, Tensor) else x.copy() if is_array(x) else x
            for x in leaves
        ]
        return tuple(unflatten(structure, copies))

    def _check(self, args: tuple[Any, ...], results: list[Any]) -> None:
        self._checks_left -= 1
        expected = [v for v in flatten(self._function(*args))[0] if isinstance(v, Tensor)]
        for position, (tensor_, array) in enumerate(zip(expected, results, strict=True)):
            xp = tensor_.backend.xp
            if not bool(xp.array_equal(tensor_.data, array, equal_nan=array.dtype.kind == "f")):
                raise TraceError(
                    f"compile: output {position} of a replay differs from the function itself",
                    where=user_line(),
                    why="the function depends on something that is not an argument",
                    fix="pass it as an argument; draw random numbers from a key argument",
                )


def _flatten_arguments(
    args: tuple[Any, ...],
) -> tuple[Sequence[Any], Structure | None, Sequence[int]]:
    """Leaves, structure (None if every argument is a leaf), and the argument of each leaf."""
    if all(type(a) in (Tensor, np.ndarray, float) for a in args):
        return args, None, range(len(args))
    leaves, structure = flatten(args)
    owners = [i for i, child in enumerate(structure.children) for _ in range(child.leaves)]
    return leaves, structure, owners


def _is_transformed() -> bool:
    """Whether a recording, a `grad` or a `vmap` is open: it must see the function's own calls."""
    state = interpreter
    return state.recorder is not None or state.open_grads > 0 or bool(state.lane_sizes)


def _is_traced(x: Any) -> bool:
    return type(x) is Tensor and (x.node is not None or x.lanes > 0)


def _signature(leaves: Sequence[Any], structure: Structure | None) -> tuple[list[Any], Any]:
    """The arrays among the leaves (None where a leaf is static), and the key of their program."""
    arrays: list[Any] = []
    key: list[Any] = [structure]
    precision = np.dtype(np.float32)
    for x in leaves:
        a = x.data if type(x) is Tensor else x
        if is_array(a):
            arrays.append(a)
            key.append((a.shape, a.dtype, type(a), memory_order(a)))
            if a.dtype == np.float64:
                precision = a.dtype
        elif isinstance(a, float | np.generic):
            arrays.append(a)
            key.append(type(a))
        else:
            arrays.append(None)
            key.append((type(a), a))
    xp = next((backend_of(a).xp for a in arrays if is_array(a)), current_backend().xp)
    for i, a in enumerate(arrays):
        if isinstance(a, float) and not isinstance(a, np.generic):
            arrays[i] = xp.asarray(a, dtype=precision)
        elif isinstance(a, np.generic):
            arrays[i] = xp.asarray(a)
    return arrays, tuple(key)


def _writable(array: Any) -> Any:
    """`array`, or a copy of it if it is read-only or has gaps and so cannot be worked in."""
    dense = array.transpose(memory_order(array)).flags.c_contiguous
    return array if dense and getattr(array.flags, "writeable", True) else array.copy()


def _address(array: Any) -> tuple[int, tuple[int, ...]]:
    pointer = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    return pointer, array.strides


def _rebuild(recorded: _Recorded, results: list[Any]) -> Any:
    arrays = iter(results)
    leaves = [Tensor(next(arrays)) if f is None else f for f in recorded.fixed]
    return unflatten(recorded.structure, leaves)


def compile(
    function: Callable[..., Any],
    *,
    donate: tuple[int, ...] = (),
    captures: Sequence[Any] = (),
    check: int = 0,
) -> Compiled:
    """`function`, recorded at its first call for each signature and replayed after that.

    `function` must be pure: arrays in, arrays out. Tensors, arrays and Python floats are inputs;
    integers, strings, booleans and None are part of the signature. `donate` lists arguments whose
    memory the program may overwrite and return: do not use them after the call. Arrays above
    64 KiB that the function takes from outside must be listed in `captures`. The first `check`
    replays are compared with the function itself, bit for bit.
    Raises: TraceError if a value is read while recording, or if a check fails.

    >>> from fedcore.tensor.tensor import tensor
    >>> double = compile(lambda x, factor: x * factor)
    >>> double(tensor([1.0, 2.0]), 2.0).tolist(), double(tensor([1.0, 2.0]), 3.0).tolist()
    ([2.0, 4.0], [3.0, 6.0])
    """
    if check < 0:
        raise ArgumentError(
            f"compile: check is {check}", why="it counts comparisons", fix="pass 0 or more"
        )
    return Compiled(function, donate, captures, check)
