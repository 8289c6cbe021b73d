"""What has to be said beside every ε: a figure without its terms is a claim about nothing."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from fedcore.privacy.coherence import COHORT_SHARE, hides_cohort
from fedcore.privacy.noise import CompactShares, NoiseShares
from fedcore.privacy.units import Unit

if TYPE_CHECKING:
    from fedcore.privacy.plan import PrivacyPlan

__all__ = ["statement_of"]


def statement_of(plan: PrivacyPlan) -> dict[str, str]:
    """The terms of the plan's guarantee in words, each under its name."""
    return {
        "unit": f"one {plan.unit.value}",
        "adjacency": plan.adjacency.value,
        "sampling": _sampling(plan),
        "trust": _trust(plan),
        "denominator": _denominator(plan),
        "clipping": plan.clipping.describe(),
        "quantisation": _quantisation(plan),
    }


def _sampling(plan: PrivacyPlan) -> str:
    said = plan.sampling.describe()
    if not hides_cohort(plan):
        return said
    return (
        f"{said}; a {1 / COHORT_SHARE}th of delta is set aside for rounds that fail for the size "
        f"of their cohort"
    )


def _trust(plan: PrivacyPlan) -> str:
    said = plan.noise.describe()
    if plan.unit is Unit.RECORD or not isinstance(plan.noise, NoiseShares | CompactShares):
        return said
    return (
        f"{said}; before it publishes, the server adds the shares that are missing to "
        f"{plan.noise.clients}, so that readers do not learn how many took part"
    )


def _denominator(plan: PrivacyPlan) -> str:
    said = f"divided by {plan.denominator}"
    if (expected := plan.sampling.expected(plan.population)) is None:
        return f"{said}, whoever takes part"
    number = f"{float(expected):.4g}" if expected < 1000 else f"{round(expected)}"
    near = Fraction(9, 10) <= plan.denominator / expected <= Fraction(10, 9)
    return f"{said}, about the expected {number}" if near else f"{said}; {number} are expected"


def _quantisation(plan: PrivacyPlan) -> str:
    steps = f"{plan.grid} grid steps in a clipping norm"
    if not isinstance(plan.noise, CompactShares):
        return f"{plan.grade.value}, {steps}"
    return (
        f"compact, in {plan.noise.slot_bits} bits: rotated and rounded at random, {steps}; the "
        f"guarantee counts with the {plan.contribution_norm} that rounding may make of it"
    )
