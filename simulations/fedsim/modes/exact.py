"""Rounds of the mode exact: clients' integers go through a session of secure aggregation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import AbortError
from fedcore.federated.task import Task
from fedcore.secagg import Layout, LostAt
from fedcore.secagg.packing import unpack
from fedsim.clock import RoundTimeline
from fedsim.engine import ClientReport, Engine, Facts
from fedsim.modes.secure_sum import SecureSum
from fedsim.modes.state import Vector
from fedsim.records import digest_of

__all__ = ["ExactSums", "Totals"]

Totals: TypeAlias = Sequence[NDArray[np.int64]]
Blocks: TypeAlias = tuple[NDArray[np.int64], ...]
_Trained: TypeAlias = tuple[NDArray[np.uint64], tuple[ClientReport, ...]]

_AT_ONCE: Final = 4
"""Clients a worker that are trained while others before them are masked."""


class ExactSums:
    """Sums of what a task's clients send, by the machines that devices and servers run.

    `threads`: how many clients mask at the same time. `entropy`: a seam for tests.
    """

    def __init__(
        self,
        task: Task,
        names: Sequence[str],
        engine: Engine,
        *,
        threads: int,
        entropy: Entropy | None,
    ) -> None:
        self._layout, self._engine, self._threads = task.layout, engine, threads
        self._secure = SecureSum(task, names, threads=threads, entropy=entropy)

    def __call__(
        self, timeline: RoundTimeline, sent: Vector, facts: Facts
    ) -> tuple[Totals, tuple[ClientReport, ...]]:
        """The totals of a round's survivors, and what all reported that were asked.

        Without totals if a client failed: then others are in the sum than the timeline says.
        Raises: AbortError or another SecAggError with which the session ends.
        """
        attempt = timeline.last
        silent = attempt.silent_from
        asked = [
            place for place in attempt.roster if silent.get(place, LostAt.ANSWER) > LostAt.UPLOAD
        ]
        with _Work(self._engine, self._layout, sorted(asked), sent, facts, self._threads) as work:
            try:
                found = self._secure.sum(
                    work.blocks_of,
                    frozenset(attempt.roster),
                    silent,
                    round=facts.round,
                    attempt=len(timeline.attempts),
                    model_digest=bytes.fromhex(digest_of(sent)),
                )
            except AbortError:
                if not work.failed:
                    raise
                return (), tuple(work.reports.values())
        reports = tuple(work.reports[place] for place in sorted(work.reports))
        if work.failed:
            return (), reports
        kept = set(found.survivors)
        return found.totals, tuple(report for report in reports if report.index in kept)


class _Work:
    """Clients trained in their order, some ahead of being asked for."""

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        order: Sequence[int],
        sent: Vector,
        facts: Facts,
        workers: int,
    ) -> None:
        self._engine, self._layout, self._sent, self._facts = engine, layout, sent, facts
        length = max(1, _AT_ONCE * workers)
        self._parts = [order[begin : begin + length] for begin in range(0, len(order), length)]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training")
        self._coming = self._results()
        self._words: dict[int, NDArray[np.uint64]] = {}
        self.reports: dict[int, ClientReport] = {}

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *ended: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def failed(self) -> bool:
        """Whether a client gave nothing."""
        return any(report.failure for report in self.reports.values())

    def blocks_of(self, place: int) -> Blocks | None:
        """What a client sends, before it is masked; None of one that failed."""
        while place not in self.reports:
            part, (rows, reports) = next(self._coming)
            gave = iter(rows)
            for report in sorted(reports, key=lambda one: part.index(one.index)):
                self.reports[report.index] = report
                if not report.failure:
                    self._words[report.index] = next(gave)
        if self.reports[place].failure:
            return None
        return _unpacked(self._layout, self._words.pop(place))

    def _results(self) -> Iterator[tuple[Sequence[int], _Trained]]:
        """Part after part; while one is used, the next is trained."""
        waiting: Future[_Trained] | None = None
        for part, following in zip(self._parts, [*self._parts[1:], None], strict=True):
            found = (waiting or self._thread.submit(self._train, part)).result()
            waiting = None if following is None else self._thread.submit(self._train, following)
            yield part, found

    def _train(self, part: Sequence[int]) -> _Trained:
        rows, reports = self._engine.rows(part, self._sent, self._facts)
        return rows.copy(), reports  # the next part is written where these rows stand


def _unpacked(layout: Layout, words: NDArray[np.uint64]) -> Blocks:
    """The integers of each block of a client that was packed alone."""
    found, start = [], 0
    for block in layout.blocks:
        found.append(unpack(block, words[start : start + block.words]))
        start += block.words
    return tuple(found)
