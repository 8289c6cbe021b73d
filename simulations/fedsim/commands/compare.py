"""`fed sim compare`: several runs beside each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedcore.console import Console, ExitCode, Json, Parser, common_options
from fedsim.commands.pages import write_page
from fedsim.records.plain_json import to_plain
from fedsim.report.compare import compare
from fedsim.report.comparison_text import render_comparison, render_comparison_page
from fedsim.run.reading import read_run

__all__ = ["add_compare"]


def add_compare(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "compare",
        parents=[common_options()],
        help="hold runs beside each other",
        description="Says how good runs got, what that cost, when they reached an accuracy, and in "
        "which settings they differ.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--target",
        action="append",
        type=float,
        metavar="SHARE",
        help="an accuracy to be reached, such as 0.9; else 90 and 95 %% of the best",
    )
    parser.add_argument("--out", type=Path, metavar="PAGE", help="also an HTML page, with plots")


def _run(options: argparse.Namespace) -> int:
    runs = [read_run(path) for path in options.runs]
    found = compare(runs, targets=options.target)
    data = to_plain(found)
    text = render_comparison(found)
    if options.out is not None:
        write_page(options.out, render_comparison_page(runs, found))
        assert isinstance(data, dict)
        page: dict[str, Json] = {"page": str(options.out)}
        data = {**data, **page}
        text = f"{text}\n\nThe page is {options.out}."
    Console.of(options, command="sim compare").show(data, text)
    return ExitCode.OK
