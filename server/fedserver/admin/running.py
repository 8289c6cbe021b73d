"""What the commands of this package share: their options, their questions and their exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedcore.console import Console, ExitCode
from fedcore.errors import (
    ArgumentError,
    CancelledError,
    ConnectError,
    DeviceTimeoutError,
    EnvelopeError,
    FedcoreError,
    ForbiddenError,
    InstallError,
    KeyFileError,
    PlanError,
    ProgramError,
    TaskError,
    UnauthenticatedError,
    user_line,
)
from fedserver.admin.connection import Connection, connected
from fedserver.admin.user import User
from fedserver.commands.dispatch import dispatch

__all__ = [
    "Confirmed",
    "DryRun",
    "ProfileFolder",
    "confirm",
    "console_of",
    "exit_code",
    "run",
    "server_of",
]

ProfileFolder = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        show_default=False,
        help="a folder of `fed ca issue`; by default FEDCORE_PROFILE, else ~/.config/fed",
    ),
]
Confirmed = Annotated[bool, typer.Option("--yes", help="do it without asking")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would happen, and do nothing")]

_CODES: tuple[tuple[tuple[type[FedcoreError], ...], ExitCode], ...] = (
    ((DeviceTimeoutError,), ExitCode.TIMEOUT),
    (
        (ConnectError, UnauthenticatedError, ForbiddenError, EnvelopeError, KeyFileError),
        ExitCode.CONNECTION,
    ),
    ((ArgumentError, InstallError, TaskError, ProgramError, PlanError), ExitCode.ARGUMENTS),
    ((CancelledError,), ExitCode.INTERRUPTED),
)


def run(app: typer.Typer, argv: Sequence[str], *, command: str) -> int:
    """Runs a command and returns its exit code; an error of `fedcore.errors` is printed."""
    try:
        return dispatch(app, argv, command=command)
    except FedcoreError as error:
        if "--debug" in argv:
            traceback.print_exception(error)
        else:
            if error.where == user_line():  # the line of the script `fed` tells its user nothing
                error.where = ""
            print(error, file=sys.stderr)
        return exit_code(error)


def exit_code(error: FedcoreError) -> ExitCode:
    """What a script is told: its own mistake, no way to the server, or the server's refusal.

    >>> exit_code(DeviceTimeoutError("no answer")).name, exit_code(ForbiddenError("no")).name
    ('TIMEOUT', 'CONNECTION')
    """
    for classes, code in _CODES:
        if isinstance(error, classes):
            return code
    return ExitCode.FAILED


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
