"""`fed privacy export`: the certificate of a ledger, to publish beside what was trained."""

from __future__ import annotations

import argparse
import json

from fedcore.console import Console, ExitCode, Parser, common_options
from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.commands.arguments import count
from fedcore.privacy.commands.files import read_checkpoint, write_new

__all__ = ["add_export"]


def add_export(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "export",
        parents=[common_options()],
        help="write the certificate of a ledger",
        description="Says what may be claimed of a ledger, as JSON unless --format is text. On "
        "standard output JSON stands in the envelope of all commands; a file is the certificate "
        "alone.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("directory", metavar="DIR", help="the folder of the ledger")
    parser.add_argument("--checkpoint", metavar="FILE", help="JSON of the newest Ledger.head")
    parser.add_argument(
        "--trained-on",
        type=count,
        metavar="N",
        help="how many units there were, if they stood in for a larger population",
    )
    parser.add_argument("--out", metavar="FILE", help="write to a new file")


def _run(options: argparse.Namespace) -> int:
    options.format = getattr(options, "format", "json")
    found = certificate(
        options.directory,
        trained_on=options.trained_on,
        checkpoint=read_checkpoint(options.checkpoint),
    )
    console = Console.of(options, command="privacy export")
    text = format_certificate(found)
    if options.out is None:
        console.show(found, text.removesuffix("\n"))
        return ExitCode.OK
    if console.format != "text":
        indent = 2 if console.format == "json" else None
        text = json.dumps(found, indent=indent, allow_nan=False) + "\n"
    write_new(options.out, text)
    console.progress(f"wrote the certificate to {options.out}")
    return ExitCode.OK
