"""Runs of ours and of its rivals take turns, so that a change of the machine's speed meets all.

On a shared machine a run can only be slowed down by others, never sped up: the best of several runs
is the one least disturbed, and is what is reported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fedcore.errors import InstallError

__all__ = ["Comparison", "Run", "compare"]

Run: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """The best value of ours, and the best value of the best rival that could run."""

    value: float
    against: str | None
    rival_value: float | None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the rival's; None if no rival could run."""
        return None if self.rival_value is None else self.value / self.rival_value


def compare(
    ours: Run, rivals: Mapping[str, Run], *, repeats: int, best: Callable[[list[float]], float]
) -> Comparison:
    """Runs `ours` and each of `rivals` in turn, `repeats` times; `best` is `max` or `min`.

    A rival that raises InstallError is left out from then on, its reason on standard error.

    >>> compare(lambda: 6.0, {"slow": lambda: 2.0, "fast": lambda: 3.0}, repeats=2, best=max)
    Comparison(value=6.0, against='fast', rival_value=3.0)
    """
    values: list[float] = []
    rival_values: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        values.append(ours())
        for name in list(rival_values):
            try:
                rival_values[name].append(rivals[name]())
            except InstallError as absent:
                del rival_values[name]
                print(f"benchmarks: no comparison with {name}: {absent}", file=sys.stderr)
    finalists = {name: best(runs) for name, runs in rival_values.items()}
    if not finalists:
        return Comparison(best(values), None, None)
    winning = best(list(finalists.values()))
    winner = next(name for name, value in finalists.items() if value == winning)
    return Comparison(best(values), winner, winning)
