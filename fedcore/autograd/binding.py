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
from fedcore.tensor.scratch import Scratch

__all__ = ["Binding"]


class Binding:
    """A plan bound to an arena and to the caller's donated arrays; owned by one thread.

    `scratch`: what single calls work in.
    """

    def __init__(
        self, plan: Plan, inputs: Sequence[Any], scratch: Scratch, arena: Any = None
    ) -> None:
        self._plan, self._scratch = plan, scratch
        self._backend = backend_of(inputs[0]) if inputs else current_backend()
        fresh = arena is None
        self.arena = self._backend.xp.empty(plan.arena_bytes, dtype=np.uint8) if fresh else arena
        self._given = {plan.program.inputs[i]: inputs[i] for i in plan.donated}
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
        results = []
        for array, given in self._results:
            if given is None:
                results.append(array.copy(order="K"))
                continue
            if given is not array:
                self._backend.xp.copyto(given, array)
            results.append(given)
        return results

    def works_in(self, inputs: Sequence[Any]) -> bool:
        """Whether the donated arrays among `inputs` are the very ones of the binding."""
        own = self._plan.program.inputs
        return all(inputs[i] is self._given[own[i]] for i in self._plan.donated)

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on `inputs`, whose donated arrays are those of the binding."""
        self._load(inputs)
        return self.repeat()

    @property
    def owns_all(self) -> bool:
        """Whether every input is donated, so that nothing has to be loaded."""
        return not self._loads

    def repeat(self) -> list[Any]:
        """Run on what the donated arrays hold now. Others have to be loaded before."""
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

    def _place_results(self) -> list[tuple[Any, Any]]:
        """The array of each output, and the donated memory in which the caller gets it, or None.

        Donated memory goes back whole and once: two results in it would change together when one of
        them is donated again. An output that was computed elsewhere is copied to donated memory of
        its shape that no other took, so that a loop which donates its last result keeps its memory.
        """
        values, outputs = self._plan.program.values, self._plan.program.outputs
        left = {self._plan.program.inputs[i] for i in self._plan.donated}
        owners = [self._plan.owner(values[index].root) for index in outputs]
        results: list[tuple[Any, Any]] = []
        for index, owner in zip(outputs, owners, strict=True):
            own = owner in left and values[index].nbytes == values[owner].nbytes
            left -= {owner} if own else set()
            results.append((self._resolve(index), self._resolve(index) if own else None))
        left.difference_update(owners)
        for position, (array, given) in enumerate(results):
            spare = [i for i in sorted(left) if _alike(self._given[i], array)]
            if given is None and spare:
                results[position] = array, self._given[spare[0]]
                left.remove(spare[0])
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
            with self._scratch.lent():
                bound = _bound_call(self._backend, call, arrays, out, params)
            self._add(bound, out)

    def _add(self, step: Callable[[], Any], out: Any) -> None:
        """Append a call, having run it: one that answers with another array must be copied."""
        result = step()
        if result is not None and result is not out and is_array(result):
            step = partial(_copy_result, self._backend.xp.copyto, out, step)
            step()
        self._calls.append(step)


def _alike(a: Any, b: Any) -> bool:
    return bool((a.shape, a.dtype, a.strides) == (b.shape, b.dtype, b.strides))


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
