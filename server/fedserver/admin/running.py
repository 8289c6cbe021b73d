"""What the commands of this package share: their options, and their questions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from fedcore.console import Console
from fedcore.errors import ArgumentError
from fedserver.admin.connection import Connection, connected
from fedserver.admin.showing import task_of
from fedserver.admin.user import User

__all__ = [
    "DRAINS",
    "Confirmed",
    "DryRun",
    "ProfileFolder",
    "TaskId",
    "confirm",
    "console_of",
    "server_of",
]

DRAINS: Final = "the server is draining: no client is selected until it was started again"

ProfileFolder = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        show_default=False,
        help="a folder of `fed ca issue`; by default FEDCORE_PROFILE, else ~/.config/fed",
    ),
]
TaskId = Annotated[
    str, typer.Argument(metavar="TASK", help="its id: `fed task list`", callback=task_of)
]
Confirmed = Annotated[bool, typer.Option("--yes", help="do it without asking")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would happen, and do nothing")]


@contextmanager
def server_of(folder: Path | None) -> Iterator[Connection]:
    """The server of a profile. Raises: as `User.open`; what its calls raise."""
    with connected(User.open(folder)) as connection:
        yield connection


def console_of(context: typer.Context) -> Console:
    """The console that `dispatch` made."""
    assert isinstance(context.obj, Console)
    return context.obj


def confirm(question: str, *, yes: bool) -> None:
    """Returns if the user wants it. Raises: ArgumentError if not, or if nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ArgumentError(
            "this cannot be undone, and nobody is there to be asked",
            why=f"standard input is no terminal; the question is: {question}",
            fix="pass --yes, or --dry-run to see what would happen",
        )
    if not typer.confirm(question, err=True):
        raise ArgumentError("nothing was done", why="the answer was no")
