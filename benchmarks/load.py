"""A figure taken while other programs work is not clean: the kernel counts how much they did."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLEAN", "COUNTED_S", "Load"]

CLEAN = 0.12
"""The most foreign busy cores of a clean figure: idle machines were seen to show 0.03 to 0.10."""

COUNTED_S = 0.2
"""The shortest time over which a load is counted: one of the kernel's ticks is 0.05 cores of it."""

_PROC = Path("/proc")


@dataclass(frozen=True)
class Load:
    """The processor time spent until a moment, by the whole machine and by this process's tree."""

    at_s: float
    machine_s: float
    own_s: float

    @staticmethod
    def now() -> Load | None:
        """The counters at this moment, or None on a system that does not have Linux's /proc."""
        if not (_PROC / "stat").exists():
            return None
        return Load(time.monotonic(), _machine_seconds(), _own_seconds())

    def foreign_cores_since(self, earlier: Load) -> float:
        """Mean number of cores that others kept busy between `earlier` and this moment."""
        busy = (self.machine_s - earlier.machine_s) - (self.own_s - earlier.own_s)
        return max(0.0, busy / max(self.at_s - earlier.at_s, 1e-9))


def _machine_seconds() -> float:
    """Busy core-seconds since boot: user, nice, system, interrupts, and what the host took away."""
    first = (_PROC / "stat").read_text().split("\n", 1)[0]
    user, nice, system, _idle, _wait, hard, soft, steal = (int(n) for n in first.split()[1:9])
    return (user + nice + system + hard + soft + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Core-seconds of this process and its living descendants, and of children they waited for."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for pid, parent, spent in _processes():
        children.setdefault(parent, []).append(pid)
        ticks[pid] = spent
    total, pending = 0, [os.getpid()]
    while pending:
        pid = pending.pop()
        total += ticks.get(pid, 0)
        pending += children.get(pid, [])
    return total / os.sysconf("SC_CLK_TCK")


def _processes() -> Iterator[tuple[int, int, int]]:
    """(pid, its parent, clock ticks of it and of the children it waited for) of every process."""
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text()
        except OSError:  # it ended between the listing and the reading
            continue
        # The name in parentheses may hold spaces; after it: state, parent, ... (proc_pid_stat(5)).
        fields = status[status.rindex(")") + 2 :].split()
        yield int(entry.name), int(fields[1]), sum(int(n) for n in fields[11:15])
