"""`fed privacy show`: what a ledger says now, read without its lock while a run may hold it."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedcore.console import Console, ExitCode, Json, Parser, common_options
from fedcore.privacy.codec import to_json
from fedcore.privacy.commands.files import read_seal
from fedcore.privacy.commands.layout import describe, rows, upward
from fedcore.privacy.ledger_file import LedgerFile, read_file
from fedcore.privacy.ledger_history import History, Segment
from fedcore.privacy.ledger_journal import Journal
from fedcore.privacy.participation import Participations
from fedcore.privacy.verification import read_history

__all__ = ["add_show"]


def add_show(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "show",
        parents=[common_options()],
        help="say what a ledger has spent, and what is left",
        description="Reads a ledger, also while a run holds it open.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("directory", metavar="DIR", help="the folder of the ledger")
    parser.add_argument(
        "--participation-key",
        metavar="FILE",
        help="32 bytes, with which the ledger was created: counts who took part",
    )


def _run(options: argparse.Namespace) -> int:
    folder = Path(options.directory)
    history, head, torn = read_history(folder)
    took_part = _participations(folder, options.participation_key)
    plan, statement = history.plan, history.plan.statement()
    epsilon, left = history.epsilon(), history.remaining_rounds()
    current = history.current
    pending = (
        current.next_round
        if current is not None
        and len(current.released) < plan.rounds_a_reservation
        and not history.closed
        else None
    )
    data: Json = {
        "plan": plan.to_json(),
        "digest": plan.digest.hex(),
        "statement": statement,
        "epsilon": epsilon,
        "delta": plan.failure,
        "budget": plan.epsilon,
        "accountant": history.accountant,
        "order": history.order,
        "rounds": {
            "planned": plan.rounds,
            "released": len(history.segment.rounds),
            "left": left,
            "reserved": pending,
        },
        "participations": None if took_part is None else vars(took_part),
        "events": [
            {"event": to_json(event), "count": count} for event, count in history.spend().items()
        ],
        "segments": [_segment(segment) for segment in history.segments],
        "closed": history.closed,
        "torn": torn,
        "head": head.to_json(),
    }
    by = history.accountant.upper() + (f" at order {history.order}" if history.order else "")
    state = "closed" if history.closed else "open to further rounds"
    entries = [
        (
            "epsilon",
            f"{upward(epsilon)} of {upward(plan.epsilon)} at delta {plan.failure:.6g}, by {by}",
        ),
        ("rounds", f"{len(history.segment.rounds)} of {plan.rounds} released, {left} left"),
        *(
            [("reserved", f"round {pending}, paid for and not released")]
            if pending is not None
            else []
        ),
        *(
            (_first("spent", place), f"{count} × {describe(event)}")
            for place, (event, count) in enumerate(history.spend().items())
        ),
        ("unit", f"{statement['unit']} of {plan.population}; {statement['adjacency']}"),
        ("sampling", statement["sampling"]),
        ("participations", _told(took_part, history)),
        ("trust", statement["trust"]),
        *(
            (_first("plans", place), _line(segment))
            for place, segment in enumerate(history.segments)
        ),
        ("ledger", f"{state}; record {head.seq}, {head.digest.hex()}"),
    ]
    if torn:
        entries.append(("", "its last line was never finished, and counts for nothing"))
    Console.of(options, command="privacy show").show(data, rows(entries))
    return ExitCode.OK


def _participations(folder: Path, key: str | None) -> Participations | None:
    if key is None:
        return None
    seal, chain = read_seal(key), read_file(folder)
    # Of a file that is not open: a journal that can be read, and not be written to.
    return Journal(folder, LedgerFile(folder, -1, chain), chain, seal).table.summary()


def _told(took_part: Participations | None, history: History) -> str:
    if took_part is None:
        assert history.opened is not None
        keeps = bool(history.opened.key_check)
        return "sealed; --participation-key counts them" if keeps else "not kept, for lack of a key"
    return (
        f"{took_part.total} of {took_part.units} units, at most {took_part.most} of one of them, "
        f"under the present plan"
    )


def _segment(segment: Segment) -> Json:
    return {
        "digest": segment.plan.digest.hex(),
        "budget": segment.plan.epsilon,
        "planned": segment.plan.rounds,
        "reserved": sum(segment.counts.values()),
        "released": len(segment.rounds),
        "events": [
            {"event": to_json(event), "count": count} for event, count in segment.counts.items()
        ],
    }


def _line(segment: Segment) -> str:
    return (
        f"{segment.plan.digest.hex()[:16]}: budget {upward(segment.plan.epsilon)}, "
        f"{sum(segment.counts.values())} reservations, {len(segment.rounds)} of "
        f"{segment.plan.rounds} rounds released"
    )


def _first(name: str, place: int) -> str:
    return "" if place else name
