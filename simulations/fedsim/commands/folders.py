"""`fed sim list` and `fed sim show`: what runs there are, and how one of them went."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fedcore.console import Console, ExitCode, Json, Parser, common_options, plain
from fedcore.errors import ArgumentError, DataFormatError
from fedsim.commands.results import data_of, line_of, words_of
from fedsim.run.reading import RESOLVED, read_run

__all__ = ["add_list", "add_show"]

_DEPTHS: Final = ("", "*/", "*/*/")  # a run, the runs of a folder, and those of its sweeps


def add_list(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb that lists runs."""
    parser = verbs.add_parser(
        "list",
        parents=[common_options()],
        help="list runs, and how far they are",
        description="Lists the runs in a folder, and those of its sweeps.",
    )
    parser.set_defaults(run=_list)
    parser.add_argument(
        "root", nargs="?", type=Path, default=Path("runs"), metavar="ROOT", help="runs by default"
    )


def add_show(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb that shows a run."""
    parser = verbs.add_parser(
        "show",
        parents=[common_options()],
        help="show a run: how far it is, and what came of it",
        description="Reads the folder of a run, also while the run goes on.",
    )
    parser.set_defaults(run=_show)
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")


def _list(options: argparse.Namespace) -> int:
    root: Path = options.root
    if not root.is_dir():
        raise ArgumentError(
            f"{root} is no folder",
            why="runs are listed from the folder that holds theirs",
            fix="name it, as it was named with --out",
        )
    Console.of(options, command="sim list").show_each(_entries(root))
    return ExitCode.OK


def _entries(root: Path) -> Iterator[tuple[Json, str]]:
    found = {path.parent for depth in _DEPTHS for path in root.glob(f"{depth}{RESOLVED}")}
    for folder in sorted(folder for folder in found if not folder.name.startswith(".")):
        try:
            run = read_run(folder)
        except DataFormatError as error:
            said = f"{error.what}: {error.why}"
            data: Json = {"folder": str(folder), "state": "damaged", "why": said}
            yield data, plain(f"{folder.name:<40}  damaged   {said}")
        else:
            yield data_of(run), plain(line_of(run))


def _show(options: argparse.Namespace) -> int:
    run = read_run(options.folder)
    Console.of(options, command="sim show").show(data_of(run), words_of(run))
    return ExitCode.OK
