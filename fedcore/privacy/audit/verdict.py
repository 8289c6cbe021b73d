"""An audit ends in words: what it found, whether the claim stands, and why it can say so.

A figure alone invites a reader to see in it what he hopes. Every audit of this package returns a
`Finding`: its figures and one `Verdict`, which may also be that the audit could not have told.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import ClassVar

__all__ = ["Finding", "Outcome", "Verdict"]

_WIDTH = 88


class Outcome(StrEnum):
    """How an audit ended, said of the claim of privacy and not of the attack."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """An outcome, and the reason in words.

    `FAILED`: what was observed contradicts the claim. `PASSED`: it does not, although this audit
    could have seen a violation. `INCONCLUSIVE`: it could not, or the figures lie in between.
    No audit proves privacy: a proof does.

    >>> str(Verdict(Outcome.PASSED, "the variance fits"))
    'passed: the variance fits'
    """

    outcome: Outcome
    reason: str

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASSED

    @property
    def failed(self) -> bool:
        return self.outcome is Outcome.FAILED

    def __str__(self) -> str:
        return f"{self.outcome.value}: {self.reason}"

    def as_dict(self) -> dict[str, object]:
        return {"outcome": self.outcome.value, "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What every audit returns: figures, which a subclass adds, and the verdict on them.

    `str()` is for a reader and leaves out what is too long for one; `as_dict()` holds all of it in
    types that JSON has: a fraction becomes "num/den", a number that is not finite "inf" or "nan".
    """

    title: ClassVar[str] = "Audit"

    verdict: Verdict

    def __str__(self) -> str:
        lines = textwrap.wrap(f"{self.title}: {self.verdict}.", _WIDTH)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, Verdict | tuple) and value is not None:
                lines.append(f"  {field.name.replace('_', ' ')}: {_shown(value)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        figures = {
            field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)
        }
        return {"audit": self.title.lower(), **figures}


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, Verdict):
        return value.as_dict()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
