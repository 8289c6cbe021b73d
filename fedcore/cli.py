"""The command `fed`: finds one command among those installed, runs it, and says how it ended.

Commands are entry points of the group `fedcore.commands`, each `f(argv: list[str]) -> int` that
returns its exit code. They are listed from the metadata of distributions, and only the one that was
named is imported: an edge client never pays for the server's libraries, nor needs them.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import platform
import re
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Sequence
from importlib import metadata
from typing import cast

from fedcore.console import FORMATS, ExitCode, Parser, common_options, exit_code, plain
from fedcore.errors import (
    ArgumentError,
    CapacityError,
    FedcoreError,
    InstallError,
    user_line,
)

__all__ = ["GROUP", "main"]

GROUP = "fedcore.commands"
DISTRIBUTION = "fedcore-fl"
# One line each for `fed --help`, which may not import a command to ask it.
SUMMARIES = {
    "audit": "who did what on a server, and whether the log of it is whole",
    "ca": "make an authority, and give its certificates to servers and users",
    "client": "join a federation with a device, and take part in it",
    "db": "look after a server's database",
    "model": "list, download and compare the models of a task",
    "privacy": "plan a guarantee of differential privacy, and check what was spent of it",
    "round": "see how rounds went, and what an open one waits for",
    "server": "start a server and look after it",
    "sim": "simulate federations, and compare what came of them",
    "task": "hand in a task, follow it, end it",
    "token": "let devices in, see who came, and send one away",
}
VERSIONED = (DISTRIBUTION, "numpy", "cryptography", "grpcio", "protobuf")
HIDDEN = "<hidden>"

# A short value may stand in a message by accident; to hide it would garble the message.
_SHORTEST_HIDDEN = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line, by default the process's own, and returns its exit code.

    0 ok, 1 refused or failed, 2 authentication or connection, 3 timeout, 4 arguments or a missing
    extra, 5 a bug, 130 interrupted, 141 the reader of standard output has gone.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments[: _index(arguments, "--")]
    # gRPC would log each handshake that fails before the error that says so in words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name of a file need not be text, nor every terminal know every letter; either would
        # end a command that has done its work. Standard error is set up so already.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except FedcoreError as error:
        if debug:
            traceback.print_exception(error)
        else:
            if error.where == user_line():  # of the script `fed`, which tells its user nothing
                error.where = ""
            # What it quotes, as from a file or a server, acts on no terminal.
            print("\n".join(map(plain, str(error).split("\n"))), file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 141  # as a shell reports SIGPIPE
        if debug:
            traceback.print_exception(error)
        if isinstance(error, MemoryError):
            print(_no_memory(error), file=sys.stderr)
            return ExitCode.FAILED
        print(_bug(error, arguments), file=sys.stderr)
        return ExitCode.BUG


def _run(arguments: list[str]) -> int:
    points = _entry_points()
    parser = _parser(points)
    before, rest = _split(arguments)
    options = parser.parse_args(before)
    if options.help:
        print(parser.format_help(), end="")
        return ExitCode.OK
    if options.version:
        print(f"fed {_version(DISTRIBUTION)}")
        return ExitCode.OK
    if not rest:
        print(parser.format_help(), end="", file=sys.stderr)
        return ExitCode.ARGUMENTS
    point = _found(rest[0], points)
    try:
        command = _load(point)
        # The common options may stand before the command's name, too.
        code = command(before + rest[1:])
    except SystemExit as end:
        return _code_of(end)
    if not isinstance(code, int):
        raise TypeError(f"the command returned a {type(code).__name__}, not an exit code")
    return int(code)


def _entry_points() -> dict[str, list[metadata.EntryPoint]]:
    """The commands by name, sorted; several distributions may claim one name."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        found.setdefault(point.name, []).append(point)
    return found


def _parser(names: Collection[str]) -> Parser:
    width = max((len(name) for name in names), default=0)
    lines = [f"  {name:<{width}}  {SUMMARIES.get(name, '')}".rstrip() for name in names]
    parser = Parser(
        prog="fed",
        usage="fed [options] <command> ...",
        description="Privacy-preserving federated learning.",
        epilog="\n".join(["commands:", *(lines or ["  none is installed"])])
        + "\n\n`fed <command> --help` says what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this text")
    parser.add_argument("--version", action="store_true", help="show the version")
    return parser


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options before the command's name, and the rest, which begins with it."""
    index = 0
    while index < len(arguments) and arguments[index].startswith("-"):
        index += 2 if arguments[index] == "--format" else 1
    return arguments[:index], arguments[index:]


def _found(name: str, points: dict[str, list[metadata.EntryPoint]]) -> metadata.EntryPoint:
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        raise ArgumentError(
            f"fed: there is no command {name!r}",
            why=f"installed are: {', '.join(points) or 'none'}",
            fix=f"did you mean 'fed {near[0]}'?" if near else "fed --help lists the commands",
        )
    claims = points[name]
    if len(claims) > 1:
        owners = sorted(point.dist.name for point in claims if point.dist)
        raise ArgumentError(
            f"fed: {len(claims)} distributions provide the command {name!r}",
            why=f"which of {', '.join(owners)} would run depends on the order of the search path",
            fix="uninstall all but one of them",
        )
    return claims[0]


def _load(point: metadata.EntryPoint) -> Callable[[list[str]], object]:
    try:
        return cast(Callable[[list[str]], object], point.load())
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing.startswith("fed"):
            raise  # no extra brings a module of ours: the installation itself is broken
        extra = _extra_with(missing, point.dist)
        raise InstallError(
            f"'fed {point.name}' needs {missing}",
            why=f"{missing} is not installed",
            fix=f"install the extra {extra!r}, in a checkout: pip install -e '.[{extra}]'"
            if extra
            else f"install what provides the module {missing}",
        ) from error


def _extra_with(module: str, distribution: metadata.Distribution | None) -> str:
    """The extra that brings `module`, if a requirement is named like it, or ""."""
    for requirement in (distribution.requires if distribution else None) or []:
        found = re.match(r"([\w.-]+).*extra\s*==\s*[\"']([\w-]+)[\"']", requirement)
        if found is None or found[2] == "dev":  # which repeats what the users' extras bring
            continue
        if re.sub(r"[-_.]+", "_", found[1]).lower() == module.lower():
            return found[2]
    return ""


def _code_of(end: SystemExit) -> int:
    """The exit code of a command that exits instead of returning, as parsers do."""
    if end.code is None:
        return ExitCode.OK
    if not isinstance(end.code, int):
        print(end.code, file=sys.stderr)
        return ExitCode.FAILED
    # What parses arguments exits with 2 when they are wrong, and 2 means something else here.
    return ExitCode.ARGUMENTS if end.code == 2 else end.code


def _nobody_reads() -> bool:
    """Whether standard output's reader has gone, so that the interpreter too must not flush it.

    A broken pipe may be any other one of the command's; and whether a write that failed left
    something to flush depends on buffering. So the system is asked.
    """
    try:
        descriptor = sys.stdout.fileno()
        poll = select.poll()
    except (AttributeError, OSError, ValueError):  # no file, or a system without `poll`
        return False
    poll.register(descriptor, 0)
    if not poll.poll(0):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return True


def _no_memory(error: MemoryError) -> FedcoreError:
    return CapacityError(
        "there is not memory enough",
        why=plain(str(error)) or "what was asked for holds more than this process may have",
        fix="take less data at once, a smaller model or fewer workers, or a larger machine",
    )


def _bug(error: Exception, arguments: list[str]) -> FedcoreError:
    """What to tell the user of a bug, after all that its finder needs was written to a file."""
    shown, hidden = _redacted(arguments)
    bundle = (
        f"arguments: {' '.join(['fed', *shown])}\n"
        f"platform: {platform.platform()}, Python {platform.python_version()}\n"
        f"versions: {', '.join(f'{name} {_version(name)}' for name in VERSIONED)}\n\n"
        f"{_traceback(error, hidden)}"
    )
    what = f"fed: internal error, {type(error).__name__}"
    why = "this is a bug, not a mistake of yours"
    try:
        # Private to the user: the message of an error that nobody foresaw may say anything.
        descriptor, path = tempfile.mkstemp(prefix="fed-bug-", suffix=".txt", text=True)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(bundle)
    except OSError as unwritable:
        print(bundle, end="", file=sys.stderr)
        return FedcoreError(
            what, why=why, fix=f"report it with the lines above; no file took them: {unwritable}"
        )
    return FedcoreError(what, why=why, fix=f"report it with {path}, after reading what it says")


def _redacted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments with only names of commands and options left in them, and what is hidden.

    Any value may be a secret: a token, a join string, a file's name. So none is shown, rather than
    those that some list of suspicious names would let pass.
    """
    before, rest = _split(arguments)
    shown, hidden = [], []
    for index, argument in enumerate(before + rest):
        option = re.fullmatch(r"(--[a-z][a-z-]{0,30}|-[a-zA-Z])(=?)(.*)", argument, re.DOTALL)
        if option is not None and (option[2] or not option[3] or len(option[1]) == 2):
            value = option[3]
            shown.append(option[1] + option[2] + (HIDDEN if value else ""))
        elif argument in FORMATS or (
            0 <= index - len(before) <= 1 and re.fullmatch(r"[a-z]{1,12}", argument)
        ):
            shown.append(argument)
            continue
        else:
            value = argument
            shown.append(HIDDEN)
        if len(value) >= _SHORTEST_HIDDEN:
            hidden.append(value)
    return shown, hidden


def _traceback(error: Exception, hidden: list[str]) -> str:
    """The traceback: source lines as they are, messages without the values of arguments."""
    parts = []
    for part in traceback.format_exception(error):
        if not part.startswith('  File "'):
            for value in sorted(hidden, key=len, reverse=True):
                part = part.replace(value, HIDDEN)
        parts.append(part)
    return "".join(parts)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _index(arguments: list[str], argument: str) -> int:
    return arguments.index(argument) if argument in arguments else len(arguments)
