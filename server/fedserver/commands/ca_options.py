"""What the verbs of `fed ca` have in common: options, the question before an act, and dates."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedcore.console import Console
from fedcore.errors import ArgumentError, AuthorityError
from fedserver.authority_files import ROOT

__all__ = [
    "Confirmed",
    "Directory",
    "DryRun",
    "Passphrase",
    "RootPassphrase",
    "ask",
    "console_of",
    "date_of",
    "require_authority",
]

Directory = Annotated[Path, typer.Option("--directory", help="the authority's directory")]
Passphrase = Annotated[
    str, typer.Option("--passphrase", help="of the issuing key: a file of mode 0400, or env:NAME")
]
RootPassphrase = Annotated[
    str, typer.Option(help="of the root key, which may lie elsewhere: a file, or env:NAME")
]
Confirmed = Annotated[bool, typer.Option("--yes", help="do it without asking")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would happen, and do nothing")]


def console_of(context: typer.Context) -> Console:
    """What shows the outcome of a command."""
    assert isinstance(context.obj, Console)
    return context.obj


def ask(question: str) -> None:
    """Asks before what cannot be undone. Raises: ArgumentError without a yes."""
    if not sys.stdin.isatty():
        raise ArgumentError(
            "fed ca: this cannot be undone, and nobody is there to be asked",
            why="standard input is no terminal",
            fix="pass --yes, or --dry-run to see what would happen",
        )
    if not typer.confirm(question, err=True):
        raise ArgumentError("fed ca: nothing was done", why="the answer was no")


def require_authority(directory: Path) -> None:
    """Raises: AuthorityError where there is none."""
    if not (directory / ROOT).is_file():
        raise AuthorityError(
            "there is no authority in this directory",
            why=f"it has no {ROOT}",
            fix="name the directory that `fed ca init` made with --directory",
            where=str(directory),
        )


def date_of(seconds: int) -> str:
    """Unix seconds as people write them, in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
