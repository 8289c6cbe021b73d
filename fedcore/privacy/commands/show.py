"""`fed privacy show`: what a ledger says now, read without its lock while a run may hold it."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedcore.console import Console, ExitCode, Json, Parser, common_options
from fedcore.privacy.claims import Claims, statement_over, upward
from fedcore.privacy.codec import to_json
from fedcore.privacy.commands.files import read_seal
from fedcore.privacy.commands.layout import describe, rows
from fedcore.privacy.ledger_history import History, Segment
from fedcore.privacy.participation import Participations
from fedcore.privacy.sampling import Uncontrolled
from fedcore.privacy.verification import read_history, read_participations

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
    key = options.participation_key
    took_part = None if key is None else read_participations(folder, read_seal(key))
    plan, claims = history.plan, Claims(history)
    statement = statement_over([*claims.plans, plan])
    epsilon, left = history.epsilon(), history.remaining_rounds(took_part)
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
        "delta": claims.delta,
        "budget": plan.epsilon,
        "within_budget": epsilon <= plan.epsilon,
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
            f"{upward(epsilon)} of {upward(plan.epsilon)} at delta {upward(claims.delta)}, by {by}",
        ),
        *(
            []
            if epsilon <= plan.epsilon
            else [("warning", "more was spent than the budget allows")]
        ),
        (
            "rounds",
            f"{len(history.segment.rounds)} of {plan.rounds} released, {left} left"
            f"{_why_none(history, left)}",
        ),
        *(("", text) for text in _bounds(history, took_part)),
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
        *(("participations", text) for text in _told(took_part, history)),
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


def _why_none(history: History, left: int) -> str:
    """Why no round is left of those that were planned and not released."""
    if left or history.closed or len(history.segment.rounds) == history.plan.rounds:
        return ""
    if history.remaining_rounds():
        return ": no unit may take part any more"
    return ": the budget pays for no further round"


def _bounds(history: History, took_part: Participations | None) -> list[str]:
    """What the rounds that are left mean to one unit, where participations are bounded."""
    plan = history.plan
    if not isinstance(plan.sampling, Uncontrolled) or plan.rounds_a_reservation > 1:
        return []
    maximum, reserved = plan.sampling.maximum_participations, history.segment.reservations
    if took_part is None:
        who, most = "that was in every one so far", min(maximum, reserved)
    else:
        who, most = "that came most often", took_part.most
    return [f"a unit may be in {maximum} in all; one {who} may be in {maximum - most} more"]


def _told(took_part: Participations | None, history: History) -> list[str]:
    if took_part is None:
        assert history.opened is not None
        return ["sealed; --participation-key counts them"] if history.opened.key_check else []
    return [
        f"{took_part.total} of {took_part.units} units, at most {took_part.most} of one of them, "
        f"under the present plan"
    ]


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
