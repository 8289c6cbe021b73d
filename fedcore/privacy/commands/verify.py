"""`fed privacy verify`: whether a ledger holds together, and holds what a checkpoint says."""

from __future__ import annotations

import argparse

from fedcore.console import Console, ExitCode, Json, Parser, common_options
from fedcore.privacy.claims import upward
from fedcore.privacy.commands.files import read_checkpoint
from fedcore.privacy.commands.layout import rows
from fedcore.privacy.verification import Verification, verify

__all__ = ["add_verify"]

_WITHOUT_CHECKPOINT = "without --checkpoint an older copy of the ledger would not be noticed"


def add_verify(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "verify",
        parents=[common_options()],
        help="check a ledger's chain, its payloads and its cost",
        description="Reads a ledger from its first byte to its last, without its lock, and computes"
        " what was spent anew.",
        epilog="Ends with 0 if all holds, and with 1 if the chain is broken, the ledger is older "
        "than the checkpoint, a payload is gone or changed, or more was spent than the budget.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("directory", metavar="DIR", help="the folder of the ledger")
    parser.add_argument("--checkpoint", metavar="FILE", help="JSON of the newest Ledger.head")


def _run(options: argparse.Namespace) -> int:
    found = verify(options.directory, checkpoint=read_checkpoint(options.checkpoint))
    problems, notes = _problems(found), _notes(found, checked=options.checkpoint is not None)
    data: Json = {
        "holds": not problems,
        "problems": problems,
        "notes": notes,
        "head": found.head.to_json(),
        "plan": found.plan.digest.hex(),
        "plans": found.plans,
        "reservations": found.reservations,
        "voided": found.voided,
        "released": found.released,
        "damaged": list(found.damaged),
        "torn": found.torn,
        "closed": found.closed,
        "epsilon": found.epsilon,
        "delta": found.delta,
        "budget": found.plan.epsilon,
    }
    entries = [
        ("verdict", "does not hold" if problems else "holds"),
        *(("" if place else "because", text) for place, text in enumerate(problems)),
        ("chain", f"{found.head.seq + 1} records, {found.head.digest.hex()}"),
        ("plans", f"{found.plans}, the last one {found.plan.digest.hex()[:16]}"),
        (
            "reservations",
            f"{found.reservations}, of which {found.voided} voided and {found.unreleased} spent "
            f"without a release",
        ),
        ("released", f"{found.released} rounds"),
        (
            "epsilon",
            f"{upward(found.epsilon)} of {upward(found.plan.epsilon)} "
            f"at delta {upward(found.delta)}",
        ),
        *(("" if place else "note", text) for place, text in enumerate(notes)),
    ]
    Console.of(options, command="privacy verify").show(data, rows(entries))
    return ExitCode.FAILED if problems else ExitCode.OK


def _problems(found: Verification) -> list[str]:
    problems = []
    if found.damaged:
        rounds = ", ".join(map(str, found.damaged[:20])) + (" …" if found.damaged[20:] else "")
        problems.append(
            f"the payloads of {len(found.damaged)} rounds are gone or are not what was released: "
            f"{rounds}; restore them from a backup"
        )
    if not found.within_budget:
        problems.append("more was spent than the budget allows")
    return problems


def _notes(found: Verification, *, checked: bool) -> list[str]:
    notes = [] if checked else [_WITHOUT_CHECKPOINT]
    if found.torn:
        notes.append("a line that was never finished follows, and counts for nothing")
    return notes
