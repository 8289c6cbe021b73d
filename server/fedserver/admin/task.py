"""`fed task`: hand in a task, follow it, end it."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedcore.console import ExitCode, Json
from fedcore.errors import ArgumentError
from fedcore.v1 import admin_service_pb2
from fedserver.admin import showing
from fedserver.admin.connection import CALL_S
from fedserver.admin.running import (
    DRAINS,
    Confirmed,
    DryRun,
    ProfileFolder,
    TaskId,
    confirm,
    console_of,
    server_of,
)
from fedserver.admin.transfer_bar import transfer_bar
from fedserver.commands.dispatch import dispatch, verbs

__all__ = ["main"]

app = verbs("Hand in a task, follow it, end it.")


def main(argv: Sequence[str]) -> int:
    """Runs `fed task` with these arguments and returns its exit code."""
    return dispatch(app, argv, command="task")


@app.command()
def submit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the task, a TOML file")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="the first model, a safetensors file of any size"),
    ] = None,
    dry_run: DryRun = False,
    profile: ProfileFolder = None,
) -> None:
    """Shows what a task means, signs it and hands it in; it starts at once.

    A first model that is larger than a message is uploaded before; what was interrupted goes on
    where it was.
    """
    # Resolving needs the model's parts: seconds that no other verb should take to start.
    from fedserver.admin.first_model import first_model
    from fedserver.admin.model_upload import copying_s, upload
    from fedserver.admin.submission import (
        describe,
        in_words,
        read_task,
        submission_of,
        travels_along,
    )

    console = console_of(context)
    task = read_task(file)
    first = first_model(task, model)
    described, words = describe(task), in_words(task)
    if dry_run:
        console.show({"task_id": None, **described}, f"{words}\nnothing was handed in")
        return
    console.progress(words)
    with server_of(profile) as server:
        timeout_s = CALL_S
        if first is not None and not travels_along(task, first):
            with transfer_bar(console, "first model") as moved:
                upload(server, first, moved=moved)
            timeout_s += copying_s(first)
        payload = submission_of(task, first, server.user.profile)
        request = admin_service_pb2.SubmitTaskRequest(
            submission=server.signed("SubmitTask", payload)
        )
        found = server.order(server.admin.SubmitTask, request, timeout_s=timeout_s)
        draining = server.status.draining
    if draining:
        console.progress(DRAINS)
    console.show(
        {
            "task_id": found.task_id,
            "model": found.model_digest.hex(),
            "draining": draining,
            **described,
        },
        found.task_id,
    )


@app.command("list")
def list_(context: typer.Context, profile: ProfileFolder = None) -> None:
    """Lists the tasks, and how far they are."""
    with server_of(profile) as server:
        found = server.ask(server.admin.ListTasks, admin_service_pb2.ListTasksRequest())
    console_of(context).show_each((data_of(entry), line_of(entry)) for entry in found.tasks)


@app.command()
def show(context: typer.Context, task: TaskId, profile: ProfileFolder = None) -> None:
    """Shows a task: how far it is, and all that it says."""
    with server_of(profile) as server:
        found = server.ask(server.admin.ShowTask, admin_service_pb2.ShowTaskRequest(task_id=task))
    said = json.loads(found.spec)
    lines = [
        line_of(found.task),
        f"handed in {showing.time(found.task.submitted_ms)}, digest {found.task.digest.hex()}",
        f"newest model {showing.hexadecimal(found.task.model_digest)}",
    ]
    if isinstance(said, dict):
        lines += [f"{name} = {json.dumps(said[name], sort_keys=True)}" for name in sorted(said)]
    console_of(context).show({**data_of(found.task), "spec": said}, "\n".join(lines))


@app.command()
def watch(context: typer.Context, task: TaskId, profile: ProfileFolder = None) -> int:
    """Writes a line for each round that ends, until the task has ended."""
    from fedserver.admin.watching import follow

    console = console_of(context)
    with server_of(profile) as server:
        ended = follow(server, task, console)
    text = f"{ended.task_id} {ended.state}"
    console.progress(f"{text}: {showing.plain(ended.reason)}" if ended.reason else text)
    return ExitCode.OK if ended.state == "COMPLETED" else ExitCode.FAILED


@app.command()
def cancel(
    context: typer.Context,
    task: TaskId,
    reason: Annotated[str, typer.Option(help="for the log, and for those who take part")],
    yes: Confirmed = False,
    dry_run: DryRun = False,
    profile: ProfileFolder = None,
) -> None:
    """Ends a task for good. Its models stay; what its open round has collected is deleted."""
    console = console_of(context)
    with server_of(profile) as server:
        asked = admin_service_pb2.ShowTaskRequest(task_id=task)
        found = server.ask(server.admin.ShowTask, asked).task
        if found.state in ("COMPLETED", "FAILED", "CANCELLED"):
            raise ArgumentError(
                f"{found.task_id} cannot be cancelled",
                why=f"it is {found.state} already",
                fix="`fed task list` shows those that run",
            )
        will = (
            f"{found.task_id} ends for good after {found.rounds_completed} of {found.rounds} rounds"
        )
        if dry_run:
            console.show(
                {"would_cancel": found.task_id, **data_of(found)}, f"would do this: {will}"
            )
            return
        confirm(f"{will}. Cancel it?", yes=yes)
        payload = admin_service_pb2.Cancellation(
            request_id=secrets.token_bytes(16), task_id=found.task_id, reason=reason
        )
        request = admin_service_pb2.CancelTaskRequest(
            cancellation=server.signed("CancelTask", payload)
        )
        server.order(server.admin.CancelTask, request)
    console.show({"cancelled": found.task_id}, f"cancelled {found.task_id}")


def data_of(entry: admin_service_pb2.TaskEntry) -> dict[str, Json]:
    """A task's entry as data."""
    return {
        "task_id": entry.task_id,
        "name": entry.name,
        "digest": entry.digest.hex(),
        "state": entry.state,
        "rounds_completed": entry.rounds_completed,
        "rounds": entry.rounds,
        "submitted_ms": entry.submitted_ms,
        "model": entry.model_digest.hex(),
        "epsilon": None if math.isnan(entry.epsilon) else entry.epsilon,
        "epsilon_budget": entry.epsilon_budget,
        "reason": entry.reason,
    }


def line_of(entry: admin_service_pb2.TaskEntry) -> str:
    """A task's entry in one line."""
    parts = [
        f"{entry.task_id}  {entry.state:<9}  {entry.rounds_completed}/{entry.rounds} rounds",
        showing.spent(entry.epsilon, entry.epsilon_budget) if entry.epsilon_budget else "",
        showing.plain(entry.reason),
    ]
    return "  ".join(part for part in parts if part)
