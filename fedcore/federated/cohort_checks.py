"""Whether a task's rounds can be held with so many clients, as often as they may come.

What an error says would do has been tried, each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Final

from fedcore.errors import ParameterError
from fedcore.federated.fields import LARGEST_COHORT
from fedcore.federated.privacy_terms import parameters_among, session_parameters
from fedcore.federated.refusal import refused
from fedcore.federated.spec import CohortSpec, PrivacySpec, SecAggSpec
from fedcore.privacy import Poisson, default_delta, rate_of
from fedcore.secagg import LARGEST_SESSION

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = ["check_clients", "check_cohort"]

_FEWEST: Final = 3
"""In a sum of two, each client knows the other's update by its own."""

_MOST_SESSIONS: Final = 8
"""What is tried of a remedy until it is left out: to look for a ring takes up to 5 ms."""


def check_cohort(task: Task) -> None:
    """That rounds of so many clients can be held, and their sums opened. Raises: TaskError."""
    _check_counts(task)
    promise = task.privacy
    if promise is not None and promise.unit == "client" and promise.sampling_rate is not None:
        return  # how many are drawn decides, which `check_clients` looks at first
    if task.secure_aggregation is not None:
        _check_session(task.cohort, task.secure_aggregation)


def check_clients(task: Task, promise: PrivacySpec) -> None:
    """That clients, as the unit of privacy, may take part so often. Raises: TaskError."""
    if promise.sampling_rate is None:
        _check_participations(task, promise)
        return
    _check_drawn_clients(task, promise)
    if task.secure_aggregation is not None:
        _check_session(task.cohort, task.secure_aggregation)


def _check_counts(task: Task) -> None:
    cohort = task.cohort
    if cohort.minimum > cohort.goal:
        raise refused(
            "cohort.minimum",
            f"minimum = {cohort.minimum} above goal = {cohort.goal}",
            "a round ends once the goal is reached",
            f"take minimum = {cohort.goal} or less",
        )
    if cohort.select > LARGEST_COHORT:
        raise refused(
            "cohort.overselection",
            f"{cohort.select} clients in a round",
            f"sums are exact up to {LARGEST_COHORT}",
            f"take goal times overselection up to {LARGEST_COHORT}",
        )


def _check_session(cohort: CohortSpec, terms: SecAggSpec) -> None:
    for name in ("gamma", "delta"):
        if getattr(terms, name).denominator >= 2**32:
            raise refused(
                f"secure_aggregation.{name}",
                f"{name} = {getattr(terms, name)}",
                "a session's terms hold fractions of 32 bits",
                "take fewer digits, like 0.15",
            )
    if cohort.minimum == _FEWEST - 1:
        raise refused(
            "cohort.minimum",
            "minimum = 2 under secure aggregation",
            "in a sum of two, each client knows the other's update by its own",
            f"take {f'goal = {_FEWEST} and ' * (cohort.goal < _FEWEST)}minimum = {_FEWEST}, or let "
            'secure_aggregation have the profile "off", and trust the server',
        )
    session_parameters(terms, cohort.minimum)
    least = session_parameters(terms, cohort.select).minimum_survivors
    for name in ("goal", "minimum"):
        if getattr(cohort, name) < least:
            raise refused(
                f"cohort.{name}",
                f"{name} = {getattr(cohort, name)} of {cohort.select} selected clients",
                f"with delta = {terms.delta} secure aggregation opens no sum of fewer than {least}",
                ", or ".join(_summed_by(cohort, terms)),
            )


def _is_summed(cohort: CohortSpec, terms: SecAggSpec) -> bool:
    """Whether rounds from the minimum on have sessions, which open the sum of goal and minimum."""
    if _least(cohort.select, terms) > min(cohort.goal, cohort.minimum):  # in integers, as below
        return False
    try:
        parameters_among(terms, cohort.minimum)
        least = parameters_among(terms, cohort.select).minimum_survivors
    except ParameterError:
        return False
    return max(least, _FEWEST) <= min(cohort.goal, cohort.minimum)


def _summed_by(cohort: CohortSpec, terms: SecAggSpec) -> Iterator[str]:
    """What to take, each alone, for sums of the cohort to be opened.

    In integers: a search with fractions takes ten times as long, and a task may be a stranger's.
    """
    more, to_one = cohort.overselection.as_integer_ratio()
    for goal in range(cohort.goal, LARGEST_SESSION + 1):
        least = _least(-(-goal * more // to_one), terms)
        if least <= goal:
            enough = replace(cohort, goal=goal, minimum=max(least, cohort.minimum))
            if _is_summed(enough, terms):
                said = {"goal": goal} if goal != cohort.goal else {}
                yield _taken({**said, "minimum": enough.minimum})
            break
    fewest = min(cohort.goal, cohort.minimum)
    delta = _delta_for(cohort.select, fewest)
    if _is_summed(cohort, replace(terms, delta=delta)):
        yield _taken({"secure_aggregation.delta": delta})
    fewer = range(cohort.select - 1, cohort.goal - 1, -1)
    likely = (select for select in fewer if _least(select, terms) <= fewest)
    for select in islice(likely, _MOST_SESSIONS):
        one = replace(cohort, overselection=Fraction(1000 * select // cohort.goal, 1000))
        if _is_summed(one, terms):
            yield _taken({"overselection": one.overselection})
            return
    least = _least(cohort.goal, terms)
    plain = replace(cohort, overselection=Fraction(1), minimum=max(least, cohort.minimum))
    if cohort.overselection > 1 and _is_summed(plain, terms):
        yield _taken({"overselection": plain.overselection, "minimum": plain.minimum})


def _least(select: int, terms: SecAggSpec) -> int:
    """Of so many selected clients, how many are left when as many as may be are lost."""
    share, of = terms.delta.as_integer_ratio()
    return select - select * share // of


def _delta_for(clients: int, reports: int) -> Fraction:
    """The least share of clients, in thousandths, without which so many reports are summed."""
    return Fraction(math.ceil(Fraction(1000 * (clients - reports), clients)), 1000)


@dataclass(frozen=True)
class _Drawn:
    """Terms of rounds whose clients are drawn by coins."""

    rate: Fraction
    cohort: CohortSpec
    terms: SecAggSpec | None


def _check_drawn_clients(task: Task, promise: PrivacySpec) -> None:
    """That nobody's place depends on another's coin: all who are drawn take part, or none know."""
    assert promise.sampling_rate is not None
    cohort = task.cohort
    if cohort.goal != cohort.select:
        raise refused(
            "cohort.overselection",
            "overselection of clients that are drawn by coins",
            "to drop those who come late lets one client decide about another, for which no "
            "accountant knows the cost",
            "take overselection = 1.0, and goal as the most that may be drawn",
        )
    least, most = _drawn(task, promise, promise.sampling_rate)
    if cohort.minimum >= least or cohort.goal <= most:
        raise refused(
            "cohort",
            f"rounds of {cohort.minimum} … {cohort.goal} clients, drawn from {promise.population}",
            f"but for a chance that is negligible beside delta, {least} … {most} are drawn; a "
            f"round that fails or fills up tells of one client",
            ", or ".join(_drawn_by(task, promise, promise.sampling_rate)),
        )


def _drawn(task: Task, promise: PrivacySpec, rate: Fraction) -> tuple[int, int]:
    """The least and the most that are drawn, but for a chance that is negligible beside delta."""
    delta = promise.delta or default_delta(promise.population)
    chance = math.log(delta) - math.log(1024 * task.rounds.count) - promise.epsilon - 1
    return Poisson(rate_of(rate)).cohort(promise.population, chance)


def _drawn_by(task: Task, promise: PrivacySpec, wanted: Fraction) -> Iterator[str]:
    """What to take, each alone, for rounds of clients that are drawn."""
    if (found := _nearest(task, promise, wanted)) is not None:
        yield _said(task, found, wanted)
    words = "leave privacy.sampling_rate out"
    terms = task.secure_aggregation
    if terms is None or _is_summed(task.cohort, terms):
        yield words
    else:
        yield from (f"{words} and {found}" for found in _summed_by(task.cohort, terms))


def _nearest(task: Task, promise: PrivacySpec, wanted: Fraction) -> _Drawn | None:
    """Terms at the nearest rate that has any, in steps of a tenth, of two the smaller."""
    steps = [Fraction(9, 10), Fraction(10, 9)]
    for power in range(100):
        for step in tuple(steps):
            rate = _written(min(Fraction(1), wanted * step**power))
            least, most = _drawn(task, promise, rate)
            if (found := _terms_of(task, rate, least=least, most=most)) is not None:
                return found
            # Farther on still fewer would be drawn, or still more.
            if least < 2 if step < 1 else most >= _largest(task) or rate == 1:
                steps.remove(step)
    return None


def _largest(task: Task) -> int:
    return LARGEST_COHORT if task.secure_aggregation is None else LARGEST_SESSION


def _written(rate: Fraction) -> Fraction:
    """The rate in as many digits as one writes."""
    return Fraction(f"{float(rate):.4g}")


def _terms_of(task: Task, rate: Fraction, *, least: int, most: int) -> _Drawn | None:
    """Terms under which rounds of `least` … `most` clients, and of one more or less, are held."""
    largest = _largest(task)
    if least < 2 or most >= largest:
        return None
    cohort = replace(
        task.cohort,
        minimum=min(task.cohort.minimum, least - 1),
        goal=min(largest, max(task.cohort.goal, most + 1)),
    )
    if (terms := task.secure_aggregation) is None or _is_summed(cohort, terms):
        return _Drawn(rate, cohort, terms)
    nearest = replace(cohort, minimum=least - 1, goal=most + 1)
    larger = replace(terms, delta=max(terms.delta, _delta_for(most + 1, least - 1)))
    for each in (terms, larger):
        if each.delta < 1 and _is_summed(nearest, each):
            return _Drawn(rate, nearest, each)
    return None


def _said(task: Task, found: _Drawn, wanted: Fraction) -> str:
    """What these terms change."""
    said: dict[str, Fraction | int] = {}
    if found.rate != wanted:
        said["privacy.sampling_rate"] = found.rate
    for name in ("goal", "minimum"):
        if (value := getattr(found.cohort, name)) != getattr(task.cohort, name):
            said[name] = value
    if found.terms is not None and found.terms != task.secure_aggregation:
        said["secure_aggregation.delta"] = found.terms.delta
    return _taken(said)


def _taken(terms: Mapping[str, Fraction | int]) -> str:
    return "take " + " and ".join(f"{name} = {float(value):.6g}" for name, value in terms.items())


def _check_participations(task: Task, promise: PrivacySpec) -> None:
    """That so many clients may come often enough, were each of them there whenever it may be."""
    count, minimum, people = task.rounds.count, task.cohort.minimum, promise.population
    if people < minimum:
        raise refused(
            "privacy.population",
            f"population = {people} for rounds of {minimum} clients or more",
            "each client takes part once in a round",
            f"set population = {minimum} or more, if there are so many, or a smaller minimum",
        )
    apart = promise.minimum_separation or 1
    if min(apart, count) * minimum > people:
        raise refused(
            "privacy.minimum_separation",
            f"minimum_separation = {apart} for {people} clients in rounds of {minimum} or more",
            f"who took part comes again after {apart} rounds, and others are too few until then",
            f"set minimum_separation = {people // minimum} or less",
        )
    most = promise.maximum_participations or count
    if most * people < count * minimum:
        raise refused(
            "privacy.maximum_participations",
            f"maximum_participations = {most} for {people} clients in {count} rounds",
            f"each round needs {minimum} of them, and all together may come {most * people} times",
            f"set maximum_participations = {math.ceil(count * minimum / people)} or more, better "
            f"some more, or rounds.count = {most * people // minimum} or less",
        )
