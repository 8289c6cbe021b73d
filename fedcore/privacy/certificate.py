"""What may be said of a run, with all that has to be said beside it: an epsilon alone says nothing.

After "How to DP-fy ML" (Ponomareva et al. 2303.00654, section 5.3.3): unit, relation, assumptions,
who is protected against whom, mechanism, accountant, and what is not covered.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from fedcore.privacy.accounting import Epsilon, account
from fedcore.privacy.codec import to_json
from fedcore.privacy.events import (
    RATE_UNIT,
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.ledger_history import History
from fedcore.privacy.ledger_records import Head
from fedcore.privacy.noise import CompactShares, NoiseShares, SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.sampling import Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from fedcore.privacy.verification import read_history

__all__ = ["VERSION", "certificate", "format_certificate"]

VERSION = 1
"""Of the layout of a certificate."""

_COLUMN, _WIDTH = 32, 100
_TAIL = Fraction(1, 100)
"""The part of delta that a unit may take part more often than `_often` says."""

_NOT_COVERED = (
    "the choice of hyper-parameters, where it looked at the data",
    "whatever else was computed from the data and not charged to this ledger",
    "a ledger that was replaced by an older copy, unless a checkpoint elsewhere holds its head",
)


def certificate(
    source: Ledger | str | os.PathLike[str],
    *,
    trained_on: int | None = None,
    checkpoint: Head | None = None,
) -> dict[str, Any]:
    """The report on an open ledger or on the folder of one, as JSON values.

    All of it follows from the plan and from what was reserved, so that it may be published: who
    really took part, and how often, is not in it. `trained_on`: how many units there really were,
    where fewer stood in for the plan's population: the figures then are those of a simulation.
    `checkpoint`: what a ledger in a folder has to hold.
    Raises: LedgerError, RollbackError; AccountantError if accountants contradict each other.
    """
    if isinstance(source, Ledger):
        history, head = source.history, source.head
    else:
        history, head, _ = read_history(Path(source), checkpoint=checkpoint)
    plan, spent = history.plan, history.spend()
    found = account(spent, adjacency=plan.adjacency, delta=plan.failure)
    value = found.value if history.order is None else history.epsilon()
    known = _known(history)
    return {
        "version": VERSION,
        "epsilon": value,
        "delta": plan.failure,
        "budget": plan.epsilon,
        "unit": plan.unit.name,
        "adjacency": plan.adjacency.name,
        "population": plan.population,
        "participations": {"most": _most(history, known), "bound": _bound(plan)},
        "statement": plan.statement(),
        "secret": _secret(plan),
        "gaussian": _gaussian(spent, plan.adjacency),
        "adversaries": _adversaries(history, value, known),
        "noise_multiplier": to_json(plan.noise_multiplier),
        "rounds": {
            "planned": plan.rounds,
            "reserved": history.reservations,
            "voided": history.voided,
            "released": len(history.payloads),
        },
        "events": [{"event": to_json(event), "count": count} for event, count in spent.items()],
        "accountant": _accountant(history, found),
        "not_covered": list(_NOT_COVERED),
        "float_noise": _float_noise(history),
        "simulated": None if trained_on in (None, plan.population) else {"population": trained_on},
        "plans": [
            {
                "digest": segment.plan.digest.hex(),
                "epsilon": segment.plan.epsilon,
                "delta": segment.plan.failure,
            }
            for segment in history.segments
        ],
        "ledger": head.to_json(),
    }


def format_certificate(data: Mapping[str, Any]) -> str:
    """The certificate as a text that a person reads."""
    accountant, rounds, statement = data["accountant"], data["rounds"], data["statement"]
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
    lines += [
        f"({_up(data['epsilon'])}, {data['delta']:.3g})-differential privacy "
        f"for {statement['unit']} ({statement['adjacency']})",
        "",
    ]
    entries = {
        "population": f"{data['population']} units",
        "participations": f"at most {data['participations']['most']} of one unit, "
        f"{data['participations']['bound']}",
        "budget": f"epsilon {data['budget']:.6g}",
        **{name: text for name, text in statement.items() if name not in ("unit", "adjacency")},
        "secret": data["secret"],
        "noise": f"{float(Fraction(data['noise_multiplier'])):.6g} times what one unit can move",
        "rounds": f"{rounds['planned']} planned, {rounds['reserved'] - rounds['voided']} paid for, "
        f"{rounds['released']} released",
        "accountant": f"{accountant['name']}, version {accountant['version']}; "
        f"{accountant['check']}",
    }
    if data["gaussian"] is not None:
        entries["also"] = f"{_up(data['gaussian']['mu'])}-GDP, {_up(data['gaussian']['rho'])}-zCDP"
    for adversary in data["adversaries"]:
        found = adversary["epsilon"]
        against = "no protection" if found is None else f"epsilon {_up(found)}"
        entries[f"against {adversary['name']}"] = f"{against}: {adversary['sees']}"
    for number, text in enumerate(data["not_covered"]):
        entries["not covered" if number == 0 else " " * number] = text
    entries["ledger"] = f"record {data['ledger']['seq']}, {data['ledger']['digest']}"
    for name, text in entries.items():
        lines += textwrap.wrap(
            text,
            width=_WIDTH,
            initial_indent=f"{name.strip():{_COLUMN}}",
            subsequent_indent=" " * _COLUMN,
            break_long_words=False,
        )
    return "\n".join(lines) + "\n"


def _secret(plan: PrivacyPlan) -> str:
    if isinstance(plan.sampling, Uncontrolled):
        return "nothing: who takes part may be known to anybody"
    if plan.unit is Unit.RECORD:
        return (
            "which records joined a step, drawn and kept by their holder: whoever learns it is to "
            "be counted as the adversary who knows the participants"
        )
    return (
        "who took part in which round: whoever learns it, as the server that selects, is to be "
        "counted as the adversary who knows the participants"
    )


def _most(history: History, known: Mapping[Event, int]) -> int:
    """The largest number of noisy steps of one unit."""
    plan = history.plan
    counted = sum(known.values())
    if isinstance(plan.sampling, Uncontrolled) and plan.rounds_a_reservation > 1:
        return counted * plan.sampling.maximum_participations  # of each matrix of rounds
    return counted


def _bound(plan: PrivacyPlan) -> str:
    if isinstance(plan.sampling, Uncontrolled):
        return "as the ledger enforces, or as often as there were rounds"
    return f"but for a chance of {float(_TAIL) * plan.failure:.3g}, by the sampling"


def _adversaries(
    history: History, value: float, known: Mapping[Event, int]
) -> list[dict[str, Any]]:
    """What is claimed against whom; None: nothing."""
    plan = history.plan
    without = value
    if known != history.spend():
        delta = float(1 - _TAIL) * plan.failure
        if history.order is None:
            without = account(known, adjacency=plan.adjacency, delta=delta).value
        else:
            without = epsilon(compose(known, plan.adjacency), delta, order=history.order)[0]
    found = [
        {
            "name": "readers",
            "sees": "all that was released, and not who took part",
            "epsilon": value,
        },
        {
            "name": "who knows participants",
            "sees": "all that was released, and who took part when; what "
            "a unit takes part in composes, without amplification by sampling",
            "epsilon": without,
        },
        _server(history, value, without),
    ]
    if _float_noise(history):
        for adversary in found:
            adversary["epsilon"] = None
    return found


def _server(history: History, value: float, without: float) -> dict[str, Any]:
    # What it saw under an earlier plan it has not forgotten.
    shared = all(
        isinstance(segment.plan.noise, NoiseShares | CompactShares) for segment in history.segments
    )
    against: float | None = value
    if history.plan.unit is Unit.RECORD:
        sees = (
            "noisy sums under secure aggregation, and not which records joined a step"
            if shared
            else "what readers see, for the holder adds the noise"
        )
    elif shared:
        sees = "noisy sums under secure aggregation, and who took part when"
        against = without
    else:
        sees = "the exact sums, for it adds the noise, and is trusted to forget them"
        against = None
    return {"name": "the server", "sees": sees, "epsilon": against}


def _float_noise(history: History) -> bool:
    return any(isinstance(segment.plan.noise, SimulatedNoise) for segment in history.segments)


def _known(history: History) -> dict[Event, int]:
    """What the dearest unit pays against those who know when it took part: by event, how often."""
    found: dict[Event, int] = {}
    spent = history.spend()
    tail = float(_TAIL) * history.plan.failure / max(1, len(spent))
    for event, count in spent.items():
        step, steps = _flat(event, count)
        match step:
            case PoissonEvent(rate=rate) | TruncatedPoissonEvent(rate=rate):
                step, steps = step.event, _often(steps, rate / RATE_UNIT, tail)
            case FixedSizeEvent(size=size, population=population):
                step, steps = step.event, _often(steps, size / population, tail)
            case _:
                pass
        found[step] = found.get(step, 0) + steps
    return found


def _flat(event: Event, count: int) -> tuple[Event, int]:
    """An event that repeats nothing, and how often it happens."""
    return (
        _flat(event.event, count * event.count)
        if isinstance(event, RepeatedEvent)
        else (event, count)
    )


def _often(rounds: int, probability: float, tail: float) -> int:
    """How often one takes part in so many rounds, exceeded with a probability of at most `tail`.

    Source: Chernoff's bound, P[Bin(n, q) >= k] <= exp(-n KL(k/n, q)) for k >= n q.
    """
    for count in range(math.ceil(rounds * probability), rounds):
        part = (count + 1) / rounds
        divergence = part * math.log(part / probability)
        if part < 1:
            divergence += (1 - part) * math.log((1 - part) / (1 - probability))
        if rounds * divergence >= -math.log(tail):
            return count
    return rounds


def _gaussian(spent: Mapping[Event, int], adjacency: Adjacency) -> dict[str, float] | None:
    """The exact trade-off of Gaussian mechanisms that compose: mu-GDP and rho-zCDP, rounded up.

    Source: Dong, Roth and Su 2019, corollary 3.3; Bun and Steinke 2016, lemma 2.5.
    """
    squared = Fraction(0)
    for event, count in spent.items():
        step, steps = _flat(event, count)
        if not isinstance(step, GaussianEvent):
            return None
        squared += steps * (adjacency.clipping_norms / step.noise_multiplier) ** 2
    if not squared:
        return None
    return {
        "mu": math.nextafter(math.sqrt(math.nextafter(float(squared), math.inf)), math.inf),
        "rho": math.nextafter(float(squared / 2), math.inf),
    }


def _accountant(history: History, found: Epsilon) -> dict[str, Any]:
    if history.order is not None:
        name, version = f"Rényi filter at the fixed order {history.order}", "1"
        check = "the schedule may follow from what was released; no second accountant applies"
    else:
        name, version = found.accountant, found.version
        if found.pld is None:
            check = f"no second accountant: {found.without_pld}"
        else:
            agreed = "agree" if found.cross_checked else "lie outside of what was compared"
            check = f"RDP {found.rdp:.6g} and PLD {found.pld:.6g} {agreed}"
    assert history.opened is not None
    return {
        "name": name,
        "version": version,
        "check": check,
        "rdp": found.rdp,
        "order": found.order if history.order is None else history.order,
        "pld": found.pld if history.order is None else None,
        "cross_checked": found.cross_checked,
        "stopped_by": history.accountant,
        "software": history.opened.software,
    }


def _up(value: float) -> str:
    """Five significant digits, never less than the value."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    step = Fraction(10) ** (math.floor(math.log10(value)) - 4)
    return f"{float(math.ceil(Fraction(value) / step) * step):.6g}"
