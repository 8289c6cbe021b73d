"""Following a task: the server is asked for what is new, and answers when there is something."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from fedcore.console import Console, Json
from fedcore.errors import FedcoreError
from fedcore.v1 import admin_service_pb2
from fedcore.wire.channels import LONGEST_WAIT_S
from fedserver.admin import rounds_text, showing
from fedserver.admin.connection import CALL_S, Connection, is_passing

__all__ = ["ENDED", "follow"]

ENDED: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED"})

_PATIENCE_S: Final = 300.0  # a server that restarts comes back within minutes
_PAUSE_S: Final = 1.0

Shown = Callable[[admin_service_pb2.TaskEntry, str], None]


def follow(server: Connection, task_id: str, console: Console) -> admin_service_pb2.TaskEntry:
    """Shows each attempt that is over, and returns the task when it has ended.

    Clients that refuse the task are counted, by why, whenever their counts have changed.
    A server that does not answer for a while is waited for. Raises: what it refuses with;
    ConnectError after 5 minutes without an answer.
    """
    ended: list[admin_service_pb2.TaskEntry] = []
    with _bar(console) as shown:

        def lines() -> Iterator[tuple[Json, str]]:
            seen: set[tuple[int, int]] = set()
            refused: dict[str, int] = {}
            for answer in _answers(server, task_id, console):
                for entry in answer.rounds:
                    which = (entry.round.round, entry.round.attempt)
                    if entry.phase in rounds_text.OVER and which not in seen:
                        seen.add(which)
                        yield (
                            rounds_text.data_of(entry),
                            rounds_text.line_of(
                                entry,
                                rounds=answer.task.rounds,
                                epsilon_budget=answer.task.epsilon_budget,
                            ),
                        )
                    phase = f"round {which[0] + 1} {entry.phase.lower()}"
                    shown(answer.task, phase)
                counts = dict(answer.refused)
                if answer.waiting_for and counts != refused:
                    refused = counts
                    if counts:
                        yield _waiting(task_id, answer.waiting_for, counts)
                if answer.task.state in ENDED and not answer.rounds:
                    ended.append(answer.task)
                    return

        console.show_each(lines())
    return ended[0]


def _waiting(task_id: str, waiting_for: str, refused: dict[str, int]) -> tuple[Json, str]:
    data: Json = {"task_id": task_id, "waiting_for": waiting_for, "refused": refused}
    return data, showing.plain(waiting_for)


def _answers(
    server: Connection, task_id: str, console: Console
) -> Iterator[admin_service_pb2.ListRoundsResponse]:
    after, wait_ms = 0, 0
    lost_since: float | None = None
    while True:
        request = admin_service_pb2.ListRoundsRequest(
            task_id=task_id, after_event=after, wait_ms=wait_ms
        )
        asked_s = time.monotonic()
        try:
            answer = server.ask(server.admin.ListRounds, request, timeout_s=LONGEST_WAIT_S + CALL_S)
        except FedcoreError as error:
            # Of the first call the user wants to know; later ones meet restarts.
            if not is_passing(error) or (after == 0 and lost_since is None and wait_ms == 0):
                raise
            lost_since = time.monotonic() if lost_since is None else lost_since
            if time.monotonic() - lost_since > _PATIENCE_S:
                raise
            console.detail(f"{error.what}; asking again")
            time.sleep(_PAUSE_S)
            continue
        lost_since, after = None, max(after, answer.last_event)
        # What has ended has no event to wait for, and an answer may not hold all that there is.
        wait_ms = 0 if answer.rounds or answer.task.state in ENDED else LONGEST_WAIT_S * 1000
        yield answer
        if request.wait_ms and not answer.rounds:
            # A server that drains answers at once, and is not to be asked in a tight loop.
            time.sleep(max(0.0, asked_s + _PAUSE_S - time.monotonic()))


@contextmanager
def _bar(console: Console) -> Iterator[Shown]:
    """A bar on a terminal, and nothing where nobody looks."""
    if console.format != "text" or console.verbosity < 0 or not sys.stderr.isatty():
        yield lambda task, phase: None
        return
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    progress = Progress(
        *columns,
        console=Terminal(stderr=True),
        transient=True,
        # Lines that go into a file or a pipe must not be drawn on the terminal instead.
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        bar = progress.add_task("", total=None)
        yield lambda task, phase: progress.update(
            bar, total=task.rounds, completed=task.rounds_completed, description=phase
        )
