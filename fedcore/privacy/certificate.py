"""What may be said of a run, with all that has to be said beside it: an epsilon alone says nothing.

After "How to DP-fy ML" (Ponomareva et al. 2303.00654, section 5.3.3): unit, relation, assumptions,
who is protected against whom, mechanism, accountant, and what is not covered.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from fedcore.privacy.accounting import Epsilon, account
from fedcore.privacy.claims import NOT_COVERED, Claims, flat, upward
from fedcore.privacy.codec import to_json
from fedcore.privacy.events import Event, GaussianEvent
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.ledger_history import History, Segment
from fedcore.privacy.ledger_records import Head
from fedcore.privacy.units import Adjacency
from fedcore.privacy.verification import read_history

__all__ = ["VERSION", "certificate", "format_certificate"]

VERSION = 1
"""Of the layout of a certificate."""

_COLUMN, _WIDTH = 32, 100


def certificate(
    source: Ledger | str | os.PathLike[str],
    *,
    trained_on: int | None = None,
    checkpoint: Head | None = None,
) -> dict[str, Any]:
    """The report on an open ledger or on the folder of one, as JSON values.

    All of it follows from the plans and from what was reserved, so that it may be published: who
    really took part, and how often, is not in it. Where plans followed one another, what is said
    holds for all that something was spent under. `trained_on`: how many units there really were,
    where fewer stood in for a plan's population: the figures then are those of a simulation.
    `checkpoint`: what a ledger in a folder has to hold.
    Raises: LedgerError, RollbackError; AccountantError if accountants contradict each other.
    """
    if isinstance(source, Ledger):
        history, head = source.history, source.head
    else:
        history, head, _ = read_history(Path(source), checkpoint=checkpoint)
    plan, spent, claims = history.plan, history.spend(), Claims(history)
    found = account(spent, adjacency=plan.adjacency, delta=plan.failure)
    value = found.value if history.order is None else history.epsilon()
    accountant = _accountant(history, found, value)
    populations = {charged.population for charged in claims.plans}
    return {
        "version": VERSION,
        "warnings": _warnings(accountant, found, plan.epsilon),
        "epsilon": value,
        "delta": claims.delta,
        "budget": plan.epsilon,
        "unit": plan.unit.name,
        "adjacency": plan.adjacency.name,
        "population": claims.population,
        "participations": claims.participations,
        "statement": claims.statement,
        "secret": claims.secret,
        "gaussian": _gaussian(spent, plan.adjacency),
        "adversaries": claims.adversaries(value),
        "noise_multiplier": to_json(claims.noise_multiplier),
        "rounds": {
            "planned": plan.rounds,
            "reserved": history.reservations,
            "voided": history.voided,
            "released": len(history.payloads),
        },
        "events": [{"event": to_json(event), "count": count} for event, count in spent.items()],
        "accountant": accountant,
        "not_covered": list(NOT_COVERED),
        "float_noise": claims.float_noise,
        "simulated": None
        if trained_on is None or populations == {trained_on}
        else {"population": trained_on},
        "plans": [_segment(segment) for segment in history.segments],
        "ledger": head.to_json(),
    }


def format_certificate(data: Mapping[str, Any]) -> str:
    """The certificate as a text that a person reads."""
    accountant, rounds, statement = data["accountant"], data["rounds"], data["statement"]
    takes_part, plans = data["participations"], data["plans"]
    lines = []
    if data["float_noise"]:
        lines += [
            "NOT PRIVATE: the noise is floating-point noise from a known seed; the figures are "
            "those of a run with exact noise.",
            "",
        ]
    if data["simulated"] is not None:
        lines += [
            f"SIMULATED: {data['simulated']['population']} units stood in for the population; "
            f"the figures hold for a run on {data['population']}.",
            "",
        ]
    for warning in data["warnings"]:
        lines += [*textwrap.wrap(f"WARNING: {warning}", width=_WIDTH), ""]
    lines += [
        f"({upward(data['epsilon'])}, {upward(data['delta'])})-differential privacy "
        f"for {statement['unit']} ({statement['adjacency']})",
        "",
    ]
    one = "" if len(plans) == 1 else " by the present plan"
    entries = [
        ("population", f"{data['population']} units{_others(data)}"),
        (
            "participations",
            f"one unit in at most {takes_part['most']} of {takes_part['of']} {takes_part['in']}, "
            f"{takes_part['bound']}",
        ),
        ("budget", f"epsilon {data['budget']:.6g}"),
        *((name, text) for name, text in statement.items() if name not in ("unit", "adjacency")),
        ("secret", data["secret"]),
        ("noise", f"{float(Fraction(data['noise_multiplier'])):.6g} times what one unit can move"),
        (
            "rounds",
            f"{rounds['planned']} planned{one}, {rounds['reserved'] - rounds['voided']} paid for, "
            f"{rounds['released']} released",
        ),
        *_listed("plans", map(_line, plans if len(plans) > 1 else [])),
        (
            "accountant",
            f"{' '.join(filter(None, (accountant['name'], accountant['version'])))}; "
            f"{accountant['check']}; {accountant['holds']}",
        ),
    ]
    if data["gaussian"] is not None:
        mu, rho = (upward(data["gaussian"][name]) for name in ("mu", "rho"))
        entries.append(("also", f"{mu}-GDP, {rho}-zCDP"))
    for adversary in data["adversaries"]:
        found = adversary["epsilon"]
        against = "no protection" if found is None else f"epsilon {upward(found)}"
        entries.append((f"against {adversary['name']}", f"{against}: {adversary['sees']}"))
    entries += _listed("not covered", data["not_covered"])
    entries.append(("ledger", f"record {data['ledger']['seq']}, {data['ledger']['digest']}"))
    for name, text in entries:
        lines += textwrap.wrap(
            text,
            width=_WIDTH,
            initial_indent=f"{name:{_COLUMN}}",
            subsequent_indent=" " * _COLUMN,
            break_long_words=False,
        )
    return "\n".join(lines) + "\n"


def _listed(name: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """One entry a text, the first one under its name."""
    return ((name if place == 0 else "", text) for place, text in enumerate(texts))


def _others(data: Mapping[str, Any]) -> str:
    """The populations of other plans that something was spent under."""
    more = {plan["population"] for plan in data["plans"] if plan["rounds"]["reserved"]}
    listed = ", ".join(map(str, sorted(more - {data["population"]})))
    return f"; under another plan: {listed}" if listed else ""


def _segment(segment: Segment) -> dict[str, Any]:
    plan = segment.plan
    return {
        "digest": plan.digest.hex(),
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "population": plan.population,
        "rounds": {
            "planned": plan.rounds,
            "reserved": segment.reservations,
            "released": len(segment.rounds),
        },
    }


def _line(plan: Mapping[str, Any]) -> str:
    rounds = plan["rounds"]
    return (
        f"{plan['digest'][:16]}: epsilon {plan['epsilon']:.6g} at delta {plan['delta']:.6g}, "
        f"{rounds['planned']} rounds, {rounds['reserved']} paid for, {rounds['released']} released"
    )


def _gaussian(spent: Mapping[Event, int], adjacency: Adjacency) -> dict[str, float] | None:
    """The exact trade-off of Gaussian mechanisms that compose: mu-GDP and rho-zCDP, rounded up.

    Source: Dong, Roth and Su 2019, corollary 3.3; Bun and Steinke 2016, lemma 2.5.
    """
    squared = Fraction(0)
    for event, count in spent.items():
        step, steps = flat(event, count)
        if not isinstance(step, GaussianEvent):
            return None
        squared += steps * (adjacency.clipping_norms / step.noise_multiplier) ** 2
    if not squared:
        return None
    return {
        "mu": math.nextafter(math.sqrt(math.nextafter(float(squared), math.inf)), math.inf),
        "rho": math.nextafter(float(squared / 2), math.inf),
    }


def _accountant(history: History, found: Epsilon, value: float) -> dict[str, Any]:
    """Who computed the figure, who checked it, and what the ledger itself goes by."""
    fixed, version = history.order is not None, None
    if fixed:
        name = f"Rényi filter at the fixed order {history.order}"
        check = "the schedule may follow from what was released; no second accountant applies"
        held: float | None = value
    else:
        name = found.accountant
        if found.pld is not None and found.value == found.pld:
            version = found.version
        if found.pld is None:
            check = f"no second accountant: {found.without_pld}"
        else:
            said = "do not contradict" if found.cross_checked else "lie outside of what is compared"
            check = f"RDP {upward(found.rdp)} and PLD {upward(found.pld)} {said}"
        held = found.rdp if history.accountant == "rdp" else found.pld
    by = history.accountant.upper()
    if held is None:
        holds = f"the ledger goes by {by}, which was not computed again: {found.without_pld}"
    elif held == value:
        holds = "the ledger goes by this figure"
    else:
        holds = f"the ledger goes by {by}, {upward(held)}"
    assert history.opened is not None
    return {
        "name": name,
        "version": version,
        "check": check,
        "rdp": found.rdp,
        "order": history.order if fixed else found.order,
        "pld": None if fixed else found.pld,
        "cross_checked": found.cross_checked and not fixed,
        "stopped_by": history.accountant,
        "held_at": held,
        "holds": holds,
        "software": history.opened.software,
    }


def _warnings(accountant: Mapping[str, Any], found: Epsilon, budget: float) -> list[str]:
    held = accountant["held_at"]
    if held is not None and not held <= budget:
        return [f"epsilon {upward(held)} was spent, more than the budget of {budget:.6g}"]
    if held is None and not found.rdp <= budget:
        return [
            f"by RDP epsilon is {upward(found.rdp)}, more than the budget of {budget:.6g}; the "
            f"ledger goes by PLD, which was not computed again: {found.without_pld}"
        ]
    return []
