"""Commands made with typer behave as all do: common options anywhere, one sort of error."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from fedcore.console import Console, ExitCode, common_options
from fedcore.errors import ArgumentError

__all__ = ["dispatch", "verbs"]

# It reads the signatures of all verbs of an application, which takes longer than most verbs do.
_built = functools.cache(get_command)


def verbs(summary: str) -> typer.Typer:
    """An application for the verbs of one command; its text is plain, as all of `fed` is."""
    return typer.Typer(
        help=summary,
        epilog="Every verb takes --format text|json|jsonl, -q, -v and --debug.",
        add_completion=False,
        rich_markup_mode=None,
        no_args_is_help=False,
    )


def dispatch(app: typer.Typer, argv: Sequence[str], *, command: str) -> int:
    """Runs a verb and returns the exit code; the verb finds its `Console` in the context.

    Raises: ArgumentError for what typer would complain of, and what the verb raises.
    """
    options, rest = common_options().parse_known_args(list(argv))
    verb = next((word for word in rest if not word.startswith("-")), "")
    console = Console.of(options, command=f"{command} {verb}".strip())
    try:
        code = _built(app).main(
            rest, prog_name=f"fed {command}", standalone_mode=False, obj=console
        )
    except TyperException as error:
        raise _meaning(error, f"fed {command}") from None
    return int(code) if isinstance(code, int) else ExitCode.OK


def _meaning(error: TyperException, command: str) -> ArgumentError:
    """What typer complains of: of which verb, and what the option is for or how it is used."""
    context = getattr(error, "ctx", None)
    told = getattr(getattr(error, "param", None), "help", None)
    if context is not None:
        command = context.command_path
        told = told or " ".join(context.get_usage().split())
    # Pydantic, which typer asks for enumerations, names its own class before what was said.
    said = error.format_message().replace(": Value error, ", ": ")
    return ArgumentError(
        f"{command}: {said}",
        why=told or "the arguments cannot be understood",
        fix=f"{command} --help says what it takes",
    )
