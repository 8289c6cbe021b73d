"""A plan bound to memory: the flat list of calls that a replay makes on fixed buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fedcore.autograd.plan import Plan
from fedcore.autograd.program import Call
from fedcore.errors import TraceError, user_line
from fedcore.tensor.backend import Backend, backend_of, current_backend, is_array

__all__ = ["Binding"]


class Binding:
    """A plan bound to an arena and to the caller's donated arrays; owned by one thread."""

    def __init__(self, plan: Plan, inputs: Sequence[Any], arena: Any = None) -> None:
        self._plan = plan
        self._backend = backend_of(inputs[0]) if inputs else current_backend()
        fresh = arena is None
        self.arena = self._backend.xp.empty(plan.arena_bytes, dtype=np.uint8) if fresh else arena
        self._given = dict(zip(plan.program.inputs, inputs, strict=True))
        self._refuse_captured(inputs)
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
        self._results = self._place_results()

    def first_results(self) -> list[Any]:
        """The results of the run that binding made."""
        return [array if own else array.copy(order="K") for array, own in self._results]

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

    def _refuse_captured(self, inputs: Sequence[Any]) -> None:
        shares = self._backend.xp.may_share_memory
        for position in self._plan.donated:
            if any(shares(inputs[position], c) for c in self._plan.program.captures):
                raise TraceError(
                    f"compile: an array of shape {inputs[position].shape} is donated and captured",
                    where=user_line(),
                    why="the function reads from outside what the program overwrites",
                    fix="donate a copy, or use the argument inside the function",
                )

    def _place_results(self) -> list[tuple[Any, bool]]:
        """The array of each output, and whether the caller gets it itself instead of a copy.

        Donated memory goes back whole and once: two results in it would change together when one of
        them is donated again.
        """
        values = self._plan.program.values
        given_back: set[int] = set()
        results = []
        for index in self._plan.program.outputs:
            owner = self._plan.owner(values[index].root)
            own = (
                self._plan.placements[owner].kind == "input"
                and values[index].nbytes == values[owner].nbytes
                and owner not in given_back
            )
            if own:
                given_back.add(owner)
            results.append((self._resolve(index), own))
        return results

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
        return self._backend.xp.lib.stride_tricks.as_strided(raw, value.shape, value.strides)

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
