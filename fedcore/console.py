"""What all commands share: their exit codes and common options, and data kept apart from progress.

Standard output carries data and nothing else, in the format that was asked for; standard error
carries progress and errors. So `fed privacy show --format json run > file` is always a document.
All text is plain: without colours there is nothing for NO_COLOR to turn off.
"""

from __future__ import annotations

import argparse
import enum
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal, NoReturn, TypeAlias, get_args

from fedcore.errors import (
    ArgumentError,
    CancelledError,
    CheckpointError,
    ConnectError,
    DataFormatError,
    DatasetError,
    DeviceTimeoutError,
    EnvelopeError,
    FedcoreError,
    ForbiddenError,
    InstallError,
    JoinStringError,
    KeyFileError,
    PlanError,
    ProgramError,
    TaskError,
    UnauthenticatedError,
)

__all__ = [
    "ENVELOPE_VERSION",
    "FORMATS",
    "Console",
    "ExitCode",
    "Format",
    "Json",
    "Parser",
    "common_options",
    "exit_code",
    "plain",
]

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Format: TypeAlias = Literal["text", "json", "jsonl"]

ENVELOPE_VERSION = 1  # a field may be added to an envelope; what changes a field's meaning adds 1
FORMATS: tuple[Format, ...] = get_args(Format)
_CHOICE: Final = re.compile(r"invalid choice: '([^']+)' \(choose from (.*)\)")  # of argparse


class ExitCode(enum.IntEnum):
    """What a command returns; a script can tell its own mistake from a refusal and from a bug."""

    OK = 0
    FAILED = 1
    CONNECTION = 2  # or authentication
    TIMEOUT = 3
    ARGUMENTS = 4
    BUG = 5
    INTERRUPTED = 130  # as a shell reports SIGINT


_CODES: tuple[tuple[tuple[type[FedcoreError], ...], ExitCode], ...] = (
    ((DeviceTimeoutError,), ExitCode.TIMEOUT),
    (
        (ConnectError, UnauthenticatedError, ForbiddenError, EnvelopeError, KeyFileError),
        ExitCode.CONNECTION,
    ),
    (
        (
            ArgumentError,
            CheckpointError,
            DataFormatError,
            DatasetError,
            InstallError,
            JoinStringError,
            PlanError,
            TaskError,
            ProgramError,
        ),
        ExitCode.ARGUMENTS,
    ),
    ((CancelledError,), ExitCode.INTERRUPTED),
)


def exit_code(error: FedcoreError) -> ExitCode:
    """What a script is told: its own mistake, no way to the server, or a refusal.

    >>> exit_code(DeviceTimeoutError("no answer")).name, exit_code(ForbiddenError("no")).name
    ('TIMEOUT', 'CONNECTION')
    """
    for classes, code in _CODES:
        if isinstance(error, classes):
            return code
    return ExitCode.FAILED


def plain(text: str) -> str:
    """A text from elsewhere as a terminal or a log may show it: one line, and nothing that acts.

    >>> plain("late" + chr(27) + "[2J")
    'late [2J'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text)


class Parser(argparse.ArgumentParser):
    """An `argparse` parser whose complaints are a FedcoreError; its subcommands' parsers too.

    Options cannot be abbreviated: an abbreviation in a script breaks when an option is added.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        # Forwarded as they are, because argparse itself makes a subcommand's parser of this class.
        super().__init__(*args, **options)
        self.allow_abbrev = False

    def error(self, message: str) -> NoReturn:
        """Raises: ArgumentError, where the base class prints and exits with 2."""
        fix = f"{self.prog} --help says what it takes"
        if (found := _CHOICE.search(message)) is not None:
            near = get_close_matches(found[1], re.findall(r"'([^']+)'", found[2]), n=1)
            fix = f"did you mean {near[0]!r}?" if near else fix
        raise ArgumentError(
            f"{self.prog}: {message}", why=" ".join(self.format_usage().split()), fix=fix
        )


def common_options() -> Parser:
    """The options that every command takes, for `parents=` of its parser and its subcommands'.

    They have no defaults, so that a subcommand's parser leaves alone what stood before its name.
    """
    options = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    options.add_argument("--format", choices=FORMATS, help="of the data on standard output")
    loudness = options.add_mutually_exclusive_group()
    loudness.add_argument(
        *("-q", "--quiet"), dest="verbosity", action="store_const", const=-1, help="no progress"
    )
    loudness.add_argument(
        *("-v", "--verbose"), dest="verbosity", action="store_const", const=1, help="more progress"
    )
    options.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return options


@dataclass(frozen=True, slots=True)
class Console:
    """Prints the data of one command in one format, and tells of its progress.

    `command`: its name without `fed`, like "privacy plan". `verbosity`: -1 quiet, 0, 1 verbose.

    >>> Console("privacy plan", format="jsonl").show({"epsilon": 2.5}, "epsilon 2.5")
    {"version": 1, "command": "privacy plan", "data": {"epsilon": 2.5}}
    >>> Console("privacy plan").show({"epsilon": 2.5}, "epsilon 2.5")
    epsilon 2.5
    """

    command: str
    format: Format = "text"
    verbosity: int = 0

    @classmethod
    def of(cls, options: argparse.Namespace, *, command: str) -> Console:
        """The console that the common options in `options` ask for."""
        return cls(
            command,
            format=getattr(options, "format", "text"),
            verbosity=getattr(options, "verbosity", 0),
        )

    def show(self, data: Json, text: str) -> None:
        """Prints one result: `text` for people, or `data` in its envelope.

        A float that JSON lacks is given as the string "inf", "-inf" or "nan".
        Raises: TypeError for data that is not of JSON's types.
        """
        if self.format == "text":
            print(text)
        else:
            print(self._envelope(data, indent=2 if self.format == "json" else None), flush=True)

    def show_each(self, results: Iterable[tuple[Json, str]]) -> None:
        """Prints many results of (data, text), each as it comes; JSON waits, and gives a list."""
        if self.format == "json":
            self.show([data for data, _ in results], "")
            return
        for data, text in results:
            self.show(data, text)

    def progress(self, text: str) -> None:
        """A line on standard error, unless quiet."""
        if self.verbosity >= 0:
            print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """A line on standard error if verbose."""
        if self.verbosity > 0:
            print(text, file=sys.stderr, flush=True)

    def _envelope(self, data: Json, *, indent: int | None) -> str:
        envelope = {"version": ENVELOPE_VERSION, "command": self.command, "data": _strict(data)}
        return json.dumps(envelope, indent=indent, allow_nan=False)


def _strict(value: Json) -> Json:
    """The same value in types that `json` writes as standard JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"JSON takes no {type(wrong[0]).__name__} as a key")
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    raise TypeError(f"JSON takes no {type(value).__name__}")
