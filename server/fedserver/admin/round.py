"""`fed round`: how rounds went, and what an open one waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from fedcore.console import Json
from fedcore.errors import NotFoundError
from fedcore.v1 import admin_service_pb2
from fedcore.v1.common_pb2 import FailureCode, RoundRef
from fedserver.admin import rounds_text, showing
from fedserver.admin.connection import Connection
from fedserver.admin.running import DRAINS, ProfileFolder, TaskId, console_of, server_of
from fedserver.commands.dispatch import dispatch, verbs

__all__ = ["main"]

_FAILURE = "FAILURE_CODE_"

app = verbs("How rounds went, and what an open one waits for.")


def main(argv: Sequence[str]) -> int:
    """Runs `fed round` with these arguments and returns its exit code."""
    return dispatch(app, argv, command="round")


@app.command("list")
def list_(context: typer.Context, task: TaskId, profile: ProfileFolder = None) -> None:
    """Lists the attempts at a task's rounds, which count from 1, and from 0 in JSON."""
    with server_of(profile) as server:
        console_of(context).show_each(
            (
                rounds_text.data_of(entry),
                rounds_text.line_of(
                    entry, rounds=found.rounds, epsilon_budget=found.epsilon_budget
                ),
            )
            for found, entry in _rounds(server, task)
        )


@app.command()
def show(
    context: typer.Context,
    task: TaskId,
    round: Annotated[int | None, typer.Argument(min=1, help="by default the newest")] = None,
    attempt: Annotated[int | None, typer.Argument(min=1, help="by default the newest")] = None,
    profile: ProfileFolder = None,
) -> None:
    """Shows what a round waits for and from whom, its way so far, and who takes part."""
    with server_of(profile) as server:
        asked = admin_service_pb2.ShowRoundRequest(round=_ref(server, task, round, attempt))
        found, draining = server.ask(server.admin.ShowRound, asked), server.status.draining
    lines = [*_lines(found), *([DRAINS] if draining else [])]
    console_of(context).show({**_data(found), "draining": draining}, "\n".join(lines))


def _rounds(
    server: Connection, task_id: str
) -> Iterator[tuple[admin_service_pb2.TaskEntry, admin_service_pb2.RoundEntry]]:
    after = 0
    while True:
        request = admin_service_pb2.ListRoundsRequest(task_id=task_id, after_event=after)
        answer = server.ask(server.admin.ListRounds, request)
        yield from ((answer.task, entry) for entry in answer.rounds)
        if not answer.rounds or answer.last_event <= after:
            return
        after = answer.last_event


def _ref(server: Connection, task_id: str, number: int | None, attempt: int | None) -> RoundRef:
    round = None if number is None else number - 1
    if round is not None and attempt is not None:
        return RoundRef(task_id=task_id, round=round, attempt=attempt)
    found = [entry.round for _, entry in _rounds(server, task_id)]
    found = [ref for ref in found if round is None or ref.round == round]
    if not found:
        raise NotFoundError(
            f"{showing.plain(task_id)} has no such round",
            why="none was begun yet" if round is None else f"round {number} was not begun yet",
            fix="`fed round list` shows those that there are",
        )
    return max(found, key=lambda ref: (ref.round, ref.attempt))


def _data(found: admin_service_pb2.ShowRoundResponse) -> dict[str, Json]:
    return {
        **rounds_text.data_of(found.round),
        "waiting_for": found.waiting_for,
        "pending": [client.hex() for client in found.pending],
        "refused": dict(sorted(found.refused.items())),
        "transitions": [
            {
                "at_ms": step.at_ms,
                "from": step.from_phase,
                "to": step.to_phase,
                "reason": step.reason,
            }
            for step in found.transitions
        ],
        "participants": [
            {
                "client_id": one.client_id.hex(),
                "state": one.state,
                "failure": _failure(one.failure),
                "bytes_up": one.bytes_up,
                "bytes_down": one.bytes_down,
                "energy_j": one.energy_j,
            }
            for one in found.participants
        ],
    }


def _lines(found: admin_service_pb2.ShowRoundResponse) -> Iterator[str]:
    entry = found.round
    until = f", until {showing.time(entry.until_ms)}" if entry.until_ms else ""
    yield (
        f"{entry.round.task_id} round {entry.round.round + 1} attempt {entry.round.attempt}: "
        f"{entry.phase} since {showing.time(entry.since_ms)}{until}"
    )
    if entry.reason:
        yield f"reason: {showing.plain(entry.reason)}"
    if found.waiting_for:
        yield showing.plain(found.waiting_for)
        yield from (f"  {client.hex()}" for client in found.pending)
    yield "transitions:"
    for step in found.transitions:
        reason = f"  {showing.plain(step.reason)}" if step.reason else ""
        yield f"  {showing.time(step.at_ms)}  {step.from_phase} -> {step.to_phase}{reason}"
    yield "participants:"
    for one in found.participants:
        energy = f" {one.energy_j:.3g} J" if one.energy_j else ""
        yield (
            f"  {one.client_id.hex()}  {one.state:<9}  up {showing.size(one.bytes_up)} "
            f"down {showing.size(one.bytes_down)}{energy}  {_failure(one.failure) or ''}".rstrip()
        )


def _failure(code: FailureCode.ValueType) -> str | None:
    if not code:
        return None
    # A newer server may know a reason that this program does not.
    known = code in FailureCode.values()
    return FailureCode.Name(code).removeprefix(_FAILURE).lower() if known else str(int(code))
