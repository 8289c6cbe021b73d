"""How training shows that it goes on: a bar on a terminal, a line an epoch in a file, or a call."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TextIO

import numpy as np

__all__ = ["Calling", "Report", "Reporter", "reporter"]

WIDTH = 30  # characters of the bar
REFRESH_S = 0.1  # a terminal redrawn more often flickers and costs more than small steps do


@dataclass(frozen=True, slots=True)
class Report:
    """The end of an epoch: its number from 0, how many there will be, and what was measured."""

    epoch: int
    epochs: int
    measures: dict[str, float]


class Reporter(Protocol):
    """Is told of every step and every epoch, after which it may ask to stop."""

    def step(self, epoch: int, index: int, loss: float) -> None: ...

    def epoch(self, report: Report) -> bool: ...


def reporter(
    progress: bool | Callable[[Report], bool | None], *, epochs: int, steps: int
) -> Reporter:
    """The reporter for `progress`: False is silent, a function is called after each epoch."""
    if callable(progress):
        return Calling(progress)
    if not progress:
        return Calling(lambda report: None)
    if sys.stdout.isatty():
        return Bar(sys.stdout, epochs=epochs, steps=steps)
    return Lines(sys.stdout)


class Calling:
    """Hands each epoch's report to a function, which stops the training by returning True."""

    def __init__(self, function: Callable[[Report], bool | None]) -> None:
        self._function = function

    def step(self, epoch: int, index: int, loss: float) -> None:
        """Steps are not reported."""

    def epoch(self, report: Report) -> bool:
        answer = self._function(report)
        return isinstance(answer, bool | np.bool_) and bool(answer)


class Lines:
    """Writes one line an epoch."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()

    def step(self, epoch: int, index: int, loss: float) -> None:
        """Steps are not reported."""

    def epoch(self, report: Report) -> bool:
        now = time.monotonic()
        measures = "  ".join(f"{name} {value:.4f}" for name, value in report.measures.items())
        took, self._started = now - self._started, now
        self._stream.write(f"epoch {report.epoch + 1}/{report.epochs}  {measures}  {took:.1f} s\n")
        self._stream.flush()
        return False


class Bar(Lines):
    """Redraws a bar within the epoch, and ends it with the epoch's line."""

    def __init__(self, stream: TextIO, *, epochs: int, steps: int) -> None:
        super().__init__(stream)
        self._epochs, self._steps = epochs, steps
        self._drawn = 0.0

    def step(self, epoch: int, index: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._drawn < REFRESH_S:
            return
        self._drawn = now
        done = (index + 1) * WIDTH // self._steps
        bar = "=" * done + " " * (WIDTH - done)
        self._stream.write(f"\repoch {epoch + 1}/{self._epochs}  [{bar}]  loss {loss:.4f}\x1b[K")
        self._stream.flush()

    def epoch(self, report: Report) -> bool:
        self._stream.write("\r\x1b[K")
        return super().epoch(report)
