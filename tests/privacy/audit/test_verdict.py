"""A finding reads as a paragraph, and survives JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import pytest

from fedcore.privacy.audit import Finding, Outcome, Verdict


@dataclass(frozen=True, kw_only=True)
class Weighed(Finding):
    title: ClassVar[str] = "Weighing"

    weight_kg: float
    count: int
    ratio: Fraction
    absent: float | None
    series: tuple[tuple[float, float], ...]


FINDING = Weighed(
    verdict=Verdict(Outcome.FAILED, "it is too heavy"),
    weight_kg=math.inf,
    count=12_345,
    ratio=Fraction(1, 3),
    absent=None,
    series=((0.0, 1.0), (math.nan, 2.0)),
)


def test_a_finding_reads_as_a_sentence_and_its_figures() -> None:
    assert str(FINDING).splitlines() == [
        "Weighing: failed: it is too heavy.",
        "  weight kg: inf",
        "  count: 12,345",
        "  ratio: 1/3",
    ]


def test_a_finding_survives_strict_json() -> None:
    plain = FINDING.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["verdict"] == {"outcome": "failed", "reason": "it is too heavy"}
    assert plain["ratio"] == "1/3" and plain["weight_kg"] == "inf"
    assert plain["series"] == [[0.0, 1.0], ["nan", 2.0]]


def test_a_finding_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FINDING.verdict = Verdict(Outcome.PASSED, "never mind")  # type: ignore[misc]


@pytest.mark.parametrize("outcome", Outcome)
def test_exactly_its_own_outcome_is_true_of_a_verdict(outcome: Outcome) -> None:
    verdict = Verdict(outcome, "")
    assert (verdict.passed, verdict.failed) == (
        outcome is Outcome.PASSED,
        outcome is Outcome.FAILED,
    )
