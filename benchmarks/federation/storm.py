"""Many connections in one thread, on which calls begin at fixed moments whatever becomes of others.

Why the moments are fixed, `open_loop` says. What is counted besides: how calls ended, and whether
those that were refused were told when to come back.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.federation.bare_http2 import ENDED, OVERLOADED, Answer, Done, Wire

__all__ = ["Begin", "Storm", "Tally"]

Begin = Callable[[Done], bool]
"""Begins a call, and sees to it that its end is told; False if no client may begin one now."""

_LOOK_S = 0.05


@dataclass
class Tally:
    """How the calls of a run ended; it lasted `elapsed_s`, until `end_s` of `perf_counter`.

    `due`: how many should have begun; `withheld`: by clients who may have no more on their way.
    `seconds`: of those answered in time, from the moment at which they were due. `useful`: how many
    of them while the run lasted. `refused`: of which `bare` were not told when to come back.
    `ended`: by gRPC, because the server had not got to them. `failed`: too late, too.
    """

    due: int = 0
    withheld: int = 0
    seconds: list[float] = field(default_factory=list)
    useful: int = 0
    refused: int = 0
    bare: int = 0
    ended: int = 0
    failed: int = 0
    elapsed_s: float = 0.0
    end_s: float = 0.0

    @property
    def goodput(self) -> float:
        """Calls a second that were of use."""
        return self.useful / self.elapsed_s

    @property
    def open(self) -> int:
        """Calls of which it is not known how they end."""
        told = self.withheld + len(self.seconds) + self.refused + self.ended + self.failed
        return self.due - told

    @property
    def latest_s(self) -> float:
        """The longest wait for an answer of use; infinite if a call had none."""
        return max(self.seconds) if len(self.seconds) == self.due else float("inf")


class Storm:
    """Keeps its wires going; `patience_s`: what is answered later is of no use."""

    def __init__(self, wires: Sequence[Wire], *, patience_s: float) -> None:
        self._wires, self._patience_s = {wire.socket.fileno(): wire for wire in wires}, patience_s
        self._epoll = select.epoll()
        for number in self._wires:
            self._epoll.register(number, select.EPOLLIN)

    def offered(self, begin: Begin, *, rate: float, seconds: float) -> Tally:
        """`rate` calls a second for so long, evenly, and then the answers to them."""
        tally, start_s, count = Tally(), time.perf_counter(), int(rate * seconds)
        while (now_s := time.perf_counter()) < start_s + seconds:
            while tally.due < count and (due_s := start_s + tally.due / rate) <= now_s:
                self._begin(begin, tally, due_s)
            next_s = min(start_s + tally.due / rate, start_s + seconds)
            self._turn(next_s - time.perf_counter())
        return self._ended(tally, start_s)

    def filled(self, begin: Begin, *, at_once: int, seconds: float) -> Tally:
        """Always so many calls on their way, for so long: what the server takes at most."""
        tally, start_s = Tally(), time.perf_counter()
        while (now_s := time.perf_counter()) < start_s + seconds:
            while tally.open < at_once and self._begin(begin, tally, now_s):
                pass
            self._turn(_LOOK_S)
        return self._ended(tally, start_s)

    def close(self) -> None:
        """Ends the connections."""
        self._epoll.close()
        for wire in self._wires.values():
            wire.close()

    def _begin(self, begin: Begin, tally: Tally, due_s: float) -> bool:
        tally.due += 1
        begun = begin(partial(self._note, tally, due_s))
        tally.withheld += not begun
        return begun

    def _note(self, tally: Tally, due_s: float, answer: Answer) -> None:
        elapsed_s = time.perf_counter() - due_s
        if answer.status == OVERLOADED:
            tally.refused += 1
            tally.bare += not answer.hinted
        elif answer.status == 0 and elapsed_s <= self._patience_s:
            tally.seconds.append(elapsed_s)
        elif answer.status == ENDED:
            tally.ended += 1
        else:
            tally.failed += 1

    def _ended(self, tally: Tally, start_s: float) -> Tally:
        """The tally once all calls have ended; those that never do have failed."""
        tally.end_s, tally.useful = time.perf_counter(), len(tally.seconds)
        tally.elapsed_s = tally.end_s - start_s
        while tally.open and time.perf_counter() < tally.end_s + 2 * self._patience_s:
            self._turn(_LOOK_S)
        tally.failed += tally.open
        return tally

    def _turn(self, wait_s: float) -> None:
        for wire in self._wires.values():
            if wire.waits:
                wire.flush()
        for number, _ in self._epoll.poll(min(max(0.0, wait_s), _LOOK_S)):
            self._wires[number].pump()
