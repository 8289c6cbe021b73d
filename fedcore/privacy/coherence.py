"""What a plan says of itself has to agree with itself: every contradiction, and its remedy."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, get_args

from fedcore.errors import PlanError
from fedcore.privacy.adaptive import Adaptive
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.events import AdditiveEvent, GaussianEvent, SharesEvent, SkellamEvent
from fedcore.privacy.grade import Grade
from fedcore.privacy.noise import (
    BandedNoise,
    CentralNoise,
    CompactShares,
    Noise,
    NoiseShares,
)
from fedcore.privacy.sampling import Poisson, Sampling, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit

if TYPE_CHECKING:
    from fedcore.privacy.plan import PrivacyPlan

__all__ = [
    "COHORT_SHARE",
    "check",
    "declared_delta",
    "default_delta",
    "hides_cohort",
    "refused",
]

COHORT_SHARE = Fraction(1, 1024)
"""What of delta pays for cohorts of which a release tells, where shares of noise are sampled."""

_MOST_GRID_STEPS = 2**26  # squares are exact up to 2^52
_LARGEST_NOISE = 2**40
_LONGEST = 10**400  # events hold its square, on the grid, in at most 2,000 digits
_MOST = 2**36
"""Of whatever is counted: the sum of so many contributions stays within 2^62."""


def check(plan: PrivacyPlan) -> None:
    """All that does not depend on how much noise there is on the grid. Raises: PlanError."""
    _check_types(plan)
    _check_numbers(plan)
    _check_budget(plan)
    _check_relation(plan)
    if isinstance(plan.noise, BandedNoise):
        _check_banded(plan, plan.noise)
    _check_unit(plan)
    _check_clipping(plan)
    # Raises if no accountant joins the two.
    plan.sampling.event(_kind_of(plan.noise))
    if isinstance(plan.noise, NoiseShares | CompactShares) and plan.unit is not Unit.RECORD:
        _check_cohort(plan, plan.noise)


def default_delta(population: int) -> float:
    """N^-1.1: below 1 / N, at which a guarantee would allow to publish a unit outright.

    A population of one has none that says anything.

    >>> f"{default_delta(10_000):.3g}"
    '3.98e-05'
    """
    return float(population**-1.1)


def declared_delta(plan: PrivacyPlan) -> float:
    """The plan's δ, or the default for its population."""
    return default_delta(plan.population) if plan.delta is None else plan.delta


def hides_cohort(plan: PrivacyPlan) -> bool:
    """Whether readers must not learn how many share the noise, for it may tell of one unit.

    Records do not matter to it: their holders add noise whatever they draw.
    """
    shared = isinstance(plan.noise, NoiseShares | CompactShares)
    return shared and plan.unit is not Unit.RECORD and not isinstance(plan.sampling, Uncontrolled)


def refused(
    name: str, value: object, why: str, fix: str, *, error: type[PlanError] = PlanError
) -> PlanError:
    """The error of a plan whose part `name` cannot be `value`."""
    try:
        shown = f"{value!r:.80}"
    except ValueError:  # of a long integer Python refuses to print the digits
        shown = "a number of many digits"
    return error(f"a privacy plan with {name} = {shown}", why=why, fix=fix)


def _check_types(plan: PrivacyPlan) -> None:
    # Exactly these: a subclass could draw another sample than its event states.
    for name, kinds in {
        "unit": (Unit,),
        "adjacency": (Adjacency,),
        "sampling": get_args(Sampling),
        "clipping": (Flat, PerLayer, Adaptive),
        "noise": get_args(Noise),
        "grade": (Grade,),
    }.items():
        if type(value := getattr(plan, name)) not in kinds:
            known = ", ".join(kind.__name__ for kind in kinds)
            raise refused(name, value, "nobody knows what that costs", f"take one of {known}")


def _check_numbers(plan: PrivacyPlan) -> None:
    for name in ("population", "denominator", "dimension", "rounds", "steps"):
        _check_count(name, getattr(plan, name), most=_MOST)
    for name, most in {"grid_steps": _MOST_GRID_STEPS, "largest_weight": _MOST}.items():
        if (value := getattr(plan, name)) is not None:
            _check_count(name, value, most=most)
    z = plan.noise_multiplier
    if type(z) is not Fraction or z <= 0:
        raise refused(
            "noise_multiplier",
            z,
            "without noise, or with noise that was rounded, nothing is guaranteed",
            "pass a positive Fraction, like Fraction(11, 10)",
        )
    if not 1 <= z * _LARGEST_NOISE <= _LARGEST_NOISE**2 or z.denominator > _LONGEST:
        raise refused(
            "noise_multiplier",
            z,
            "it lies outside of 2^-40 … 2^40, or has more than 400 digits, which no ledger keeps",
            "take a noise multiplier about 1, and round it up to fewer digits",
        )


def _check_budget(plan: PrivacyPlan) -> None:
    delta = declared_delta(plan)
    for name, value in {"epsilon": plan.epsilon, "delta": delta}.items():
        if type(value) not in (float, int) or not 0 < value <= sys.float_info.max:
            raise refused(name, value, "it bounds a probability", "pass a positive number")
    if delta * plan.population >= 1:
        raise refused(
            "delta",
            delta,
            f"publishing one of {plan.population} units outright would satisfy it",
            f"take well below {1 / plan.population:.3g}, or above one unit delta=None, the default "
            f"for this population; a changed plan keeps the delta that it had",
        )


def _check_relation(plan: PrivacyPlan) -> None:
    if plan.adjacency not in plan.sampling.adjacencies:
        allowed = " or ".join(sorted(item.name for item in plan.sampling.adjacencies))
        openly = isinstance(plan.sampling, Uncontrolled)
        raise refused(
            "adjacency",
            plan.adjacency.name,
            "without sampling it is no secret who takes part, and whether one unit comes decides "
            "who else does"
            if openly
            else f"no accountant bounds {type(plan.sampling).__name__} sampling under it",
            f"take {allowed}" + (", which protect what it sends" if openly else ""),
        )
    declared = getattr(plan.sampling, "population", plan.population)
    if declared != plan.population:
        raise refused(
            "population",
            plan.population,
            f"the sampling draws from {declared}",
            "declare one population in both places",
        )


def _check_banded(plan: PrivacyPlan, noise: BandedNoise) -> None:
    if not isinstance(plan.sampling, Uncontrolled):
        raise refused(
            "noise",
            "BandedNoise",
            "its cost counts participations, which sampling leaves open",
            "take Uncontrolled(minimum_separation, maximum_participations)",
        )
    if plan.adjacency is not Adjacency.ZERO_OUT or plan.steps != 1:
        raise refused(
            "noise",
            "BandedNoise",
            "its sensitivity is known for one step a round and a unit that sends zeros or not",
            "take steps=1 and ZERO_OUT",
        )
    returns = plan.sampling.maximum_participations > 1
    if returns and noise.strategy.bands > plan.sampling.minimum_separation:
        raise refused(
            "noise",
            f"{noise.strategy.bands} bands",
            f"a unit may return after {plan.sampling.minimum_separation} rounds, and its "
            f"contributions would then add up",
            "take no more bands than minimum_separation",
        )


def _check_cohort(plan: PrivacyPlan, noise: NoiseShares | CompactShares) -> None:
    """That who takes part shows neither by a round that fails nor by what is compared with it."""
    if not isinstance(plan.sampling, Poisson):
        return
    # One unit to spare on either side, so that a round completes with it and without it.
    outside = plan.sampling.log_outside(
        plan.population, least=noise.survivors + 1, most=noise.clients - 1
    )
    delta = declared_delta(plan)
    # Of all rounds, and times 1 + e^epsilon: docs/privacy-accounting.md, "Shares of a sample".
    times = math.log(plan.rounds) + plan.epsilon + math.log1p(math.exp(-plan.epsilon))
    allowed = math.log(delta * COHORT_SHARE) - times - 2.0**-40 * (1 + times)
    if outside <= allowed:
        return
    least, most = plan.sampling.cohort(plan.population, allowed)
    expected = float(plan.sampling.probability * plan.population)
    raise refused(
        "survivors, clients",
        (noise.survivors, noise.clients),
        f"with a chance of up to {_decimal(outside)} a round fails for the size of its cohort, or "
        f"would with one unit more or less; for no unit to show by that it may be "
        f"{_decimal(allowed)}, a 1024th of delta over rounds and 1 + e^epsilon",
        (
            f"of the {expected:.6g} that are expected, take at most {least - 1} survivors and at "
            f"least {most + 1} clients"
            if least > 1
            else f"take a larger cohort than the {expected:.6g} that are expected"
        )
        + "; or ZERO_OUT and Uncontrolled, with everybody taking part",
    )


def _decimal(logarithm: float) -> str:
    """The number e to this power, of which floats may hold nothing."""
    tens = logarithm / math.log(10)
    if tens > -300:
        return f"{10**tens:.2g}"
    return f"1e{math.floor(tens)}" if tens > -1e6 else "0"


def _check_unit(plan: PrivacyPlan) -> None:
    adapts = isinstance(plan.clipping, Adaptive)
    if plan.unit is Unit.RECORD and (adapts or plan.largest_weight is not None):
        raise refused(
            "clipping" if adapts else "largest_weight",
            plan.clipping if adapts else plan.largest_weight,
            "records are clipped alike, by a norm that is fixed",
            "take Flat or PerLayer clipping and no weights for unit=RECORD",
        )
    if plan.unit is not Unit.RECORD and (plan.grade is not Grade.EXACT or plan.steps != 1):
        raise refused(
            "grade" if plan.grade is not Grade.EXACT else "steps",
            plan.grade if plan.grade is not Grade.EXACT else plan.steps,
            "a client sends one update a round, which is truncated by itself",
            "take grade=Grade.EXACT and steps=1 unless unit=RECORD",
        )
    if plan.unit is Unit.RECORD and isinstance(plan.noise, CompactShares):
        raise refused(
            "noise",
            "CompactShares",
            "a client's update is rotated and rounded as a whole, not record by record",
            "take NoiseShares for unit=RECORD",
        )
    if adapts and not isinstance(plan.noise, CentralNoise | NoiseShares):
        raise refused(
            "clipping",
            "Adaptive",
            "the count of unclipped updates needs noise of its own round",
            "take CentralNoise or NoiseShares",
        )


def _check_clipping(plan: PrivacyPlan) -> None:
    rule = plan.clipping
    if isinstance(rule, Adaptive) and (rule.denominator != plan.denominator or plan.dimension < 2):
        raise refused(
            "clipping",
            rule,
            f"it counts and averages over {rule.denominator}, the plan over {plan.denominator}"
            if rule.denominator != plan.denominator
            else "the count takes one coordinate, which leaves none for an update",
            "declare one denominator in both places, and the count in the dimension",
        )
    if isinstance(rule, PerLayer) and (
        sum(rule.sizes) != plan.dimension or plan.grade is not Grade.EXACT
    ):
        raise refused(
            "clipping",
            rule,
            f"its parts have {sum(rule.sizes)} coordinates, the plan {plan.dimension}"
            if sum(rule.sizes) != plan.dimension
            else "a sum of gradients was clipped as a whole, by one norm",
            "pass the sizes of all that is summed, and grade=Grade.EXACT",
        )


def _check_count(name: str, value: object, *, most: int) -> None:
    if type(value) is not int or value < 1:
        raise refused(name, value, "it is a public count", f"pass a positive int as {name}")
    if value > most:
        raise refused(
            name,
            f"about 2^{value.bit_length()}",
            "sums of integers would no longer be exact",
            f"take at most 2^{most.bit_length() - 1}",
        )


def _kind_of(noise: Noise) -> AdditiveEvent:
    one = Fraction(1)
    if isinstance(noise, NoiseShares):
        return SharesEvent(1, one, one, 1)
    return SkellamEvent(one, one, 1) if isinstance(noise, CompactShares) else GaussianEvent(one)
