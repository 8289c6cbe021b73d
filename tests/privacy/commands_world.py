"""What the tests of `fed privacy` share: terms of plans, and ledgers to be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcore.console import ENVELOPE_VERSION
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.plan import PrivacyPlan

CLIENT = ("--unit", "client", "--population", "1000", "--delta", "1e-5")
CENTRAL = (*CLIENT, "--sampling", "poisson", "--rate", "0.01")
SHARES = (
    *("--unit", "client", "--population", "3000", "--sampling", "poisson", "--cohort", "100"),
    *("--noise-by", "clients", "--clients", "250", "--survivors", "28", "--corrupt", "4"),
    *("--dimension", "1000"),
)
CLAIM = ("--epsilon", "1", "--delta", "1e-5")

Fed = Callable[..., tuple[int, str, str]]


def data_of(printed: str, command: str) -> Any:
    envelope = json.loads(printed, parse_constant=pytest.fail)
    assert list(envelope) == ["version", "command", "data"]
    assert (envelope["version"], envelope["command"]) == (ENVELOPE_VERSION, f"privacy {command}")
    return envelope["data"]


def planned(fed: Fed, *arguments: object) -> tuple[PrivacyPlan, Any]:
    """The plan, and all that is said of it, which is the same in both forms of JSON."""
    code, out, _ = fed("plan", *arguments, "--format", "jsonl")
    assert code == 0 and out.count("\n") == 1
    data = data_of(out, "plan")
    return PrivacyPlan.from_json(data["plan"]), data


def spend(folder: Path, plan: PrivacyPlan, rounds: int, **options: Any) -> None:
    with Ledger.create(folder, plan, **options) as ledger:
        for round_ in range(rounds):
            reservation = ledger.reserve(round_)
            reservation.mark_drawn()
            reservation.release(b"payload")
