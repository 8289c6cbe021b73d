"""Where every value of a program lives: liveness, buffers in one arena, work in place.

A view needs no memory. A gradient's parts are computed straight into the flat vector that assembles
them. An elementwise call may overwrite an operand that nobody reads afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcore.autograd.program import Call, Program, Value, row_major

__all__ = ["Placement", "Plan", "make_plan"]

ALIGNMENT = 64  # bytes: a cache line, and the widest vector registers


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a root value lives: in the arena, in an input's memory, or inside another value.

    `offset` is in bytes for the arena, in elements along the last axis for `inside`. The `other` of
    an alias is no alias itself, so that no chain of them is ever walked.
    """

    kind: str  # "arena" | "input" | "constant" | "alias" | "inside"
    offset: int = 0
    other: int = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """A program, the placement of its roots, and the size of the arena in bytes.

    `donated` are the positions of inputs whose memory is the caller's own; `copies` tells for an
    assembling call which of its parts are not in place already.
    """

    program: Program
    placements: dict[int, Placement]
    arena_bytes: int
    donated: frozenset[int]
    copies: dict[int, tuple[int, ...]]

    def owner(self, root: int) -> int:
        """The value whose memory holds `root`: itself, or what it was computed over."""
        return _owner(self.placements, root)


def _owner(placements: dict[int, Placement], root: int) -> int:
    placed = placements.get(root)
    return placed.other if placed is not None and placed.kind == "alias" else root


def make_plan(program: Program, donated: frozenset[int]) -> Plan:
    """Place every root value of `program`; the inputs at positions `donated` may be overwritten."""
    layout = _Layout(program, donated)
    layout.place_inputs_and_constants()
    layout.place_parts_inside_assemblies()
    layout.reuse_dying_operands()
    arena_bytes = layout.place_rest_in_arena()
    return Plan(program, layout.placements, arena_bytes, donated, layout.copies)


class _Layout:
    def __init__(self, program: Program, donated: frozenset[int]) -> None:
        self.program = program
        self.values = program.values
        self.donated_values = {program.inputs[i] for i in donated}
        self.placements: dict[int, Placement] = {}
        self.copies: dict[int, tuple[int, ...]] = {}
        self.born, self.dies = self._lifetimes()
        self.uses = self._uses()
        self.makers = {call.output: call for call in program.calls}

    def _root(self, index: int) -> int:
        return self.values[index].root

    def _lifetimes(self) -> tuple[dict[int, int], dict[int, int]]:
        """When each root is first written and last read; outputs live to the end."""
        born = {i: -1 for i in self.program.inputs} | {i: -1 for i in self.program.constants}
        dies = dict.fromkeys(born, -1)
        for time, call in enumerate(self.program.calls):
            if not call.view:
                born[call.output] = dies[call.output] = time
            for i in call.inputs:
                dies[self._root(i)] = time
        for i in self.program.outputs:
            dies[self._root(i)] = len(self.program.calls)
        return born, dies

    def _uses(self) -> dict[int, list[Call]]:
        """The calls that read each root, through a view or not."""
        uses: dict[int, list[Call]] = {}
        for call in self.program.calls:
            for i in {self._root(i) for i in call.inputs}:
                uses.setdefault(i, []).append(call)
        return uses

    def place_inputs_and_constants(self) -> None:
        for i in self.program.inputs:
            if i in self.donated_values:
                self.placements[i] = Placement("input")
        for i in self.program.constants:
            self.placements[i] = Placement("constant")

    def place_parts_inside_assemblies(self) -> None:
        """A part that only the assembly reads is written where it belongs."""
        returned = {self._root(i) for i in self.program.outputs}
        for call in self.program.calls:
            if call.prim.name != "assemble":
                continue
            params = dict(call.params)
            target = self.values[call.output]
            lanes = target.shape[: call.lanes]
            left = []
            for position, (i, offset) in enumerate(
                zip(call.inputs, params["offsets"], strict=True)
            ):
                root = self._root(i)
                part = self.values[root]
                whole = self.values[i].nbytes == part.nbytes
                only = self.uses.get(root) is not None and all(
                    use is call or use.view for use in self.uses[root]
                )
                fits = (
                    root in self.makers
                    and root not in self.placements
                    and root not in returned
                    and part.dtype == target.dtype
                    and part.shape[: call.lanes] == lanes
                    and part.strides == row_major(part.shape, part.dtype.itemsize)
                    and self._single_chain(i, root)
                )
                if whole and only and fits:
                    self.placements[root] = Placement("inside", offset, call.output)
                    self.born[call.output] = min(self.born[call.output], self.born[root])
                else:
                    left.append(position)
            self.copies[call.output] = tuple(left)

    def _single_chain(self, index: int, root: int) -> bool:
        """Whether `index` is its root, or reached from it by row-major reshapes only."""
        while index != root:
            call = self.makers[index]
            if call.prim.name not in ("reshape", "alias", "drop_leading", "align_rank"):
                return False
            index = call.inputs[0]
        return True

    def reuse_dying_operands(self) -> None:
        """An elementwise result takes the memory of an operand that dies in the call."""
        for time, call in enumerate(self.program.calls):
            if call.view or not call.prim.inplace or call.output in self.placements:
                continue
            y = self.values[call.output]
            operands = call.inputs[: call.prim.inplace]
            for i in sorted(operands, key=self._is_temporary):  # what is donated first: no copy
                if self._overwritable(call, time, i, y):
                    owner = self._owner(self._root(i))
                    self.placements[call.output] = Placement("alias", other=owner)
                    self.dies[owner] = max(self.dies[owner], self.dies[call.output])
                    break

    def _is_temporary(self, index: int) -> bool:
        placed = self.placements.get(self._owner(self._root(index)))
        return placed is None or placed.kind != "input"

    def _overwritable(self, call: Call, time: int, i: int, y: Value) -> bool:
        """Whether `call` may write its result `y` over its operand `i`.

        A kernel of several passes reads an operand that stands twice after having written it.
        """
        x = self.values[i]
        root = self._owner(x.root)
        placed = self.placements.get(root)
        same_memory = [j for j in call.inputs if self._owner(self._root(j)) == root]
        return (
            x.index == x.root
            and self.dies[root] == time
            and (placed is None or placed.kind == "input")
            and (x.shape, x.dtype, x.strides) == (y.shape, y.dtype, y.strides)
            and all(j == i for j in same_memory)
            and (len(same_memory) == 1 or call.prim.ufunc != "")
            and (root not in self.program.inputs or root in self.donated_values)
        )

    def _owner(self, root: int) -> int:
        return _owner(self.placements, root)

    def place_rest_in_arena(self) -> int:
        """Offsets for what has no place yet: largest first, at the lowest gap that is free."""
        waiting = [i for i in self.born if i not in self.placements]
        waiting.sort(key=lambda i: (-self.values[i].nbytes, i))
        blocks = np.empty((4, len(waiting)), np.int64)  # start, stop, born, dies
        times = len(self.program.calls) + 2  # one before the first call, and one after the last
        top, used = np.zeros(times, np.int64), np.zeros(times, np.int64)
        for count, i in enumerate(waiting):
            size = -(-max(self.values[i].nbytes, 1) // ALIGNMENT) * ALIGNMENT
            born, dies = self.born[i], self.dies[i]
            life = slice(born + 1, dies + 2)
            highest = life.start + int(top[life].argmax())
            start = int(top[highest])
            if used[highest] < start:  # without a gap at that time there is no lower place
                start = _lowest_gap(blocks[:, :count], size, born, dies)
            self.placements[i] = Placement("arena", start)
            blocks[:, count] = start, start + size, born, dies
            np.maximum(top[life], start + size, out=top[life])
            used[life] += size
        return int(top.max())


def _lowest_gap(blocks: Any, size: int, born: int, dies: int) -> int:
    """The lowest offset with `size` free bytes between the blocks alive from `born` to `dies`."""
    alive = blocks[:2, (blocks[2] <= dies) & (blocks[3] >= born)]
    starts, stops = alive[:, alive[0].argsort(kind="stable")]
    free = np.maximum.accumulate(np.concatenate(([0], stops)))  # below, between and above them
    fits = np.flatnonzero(starts - free[:-1] >= size)
    return int(free[fits[0]] if fits.size else free[-1])
