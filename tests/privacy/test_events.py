"""Events are exact, whole and of the kinds that accountants know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction
from typing import Any

import pytest

from fedcore.errors import AccountantError, PlanError
from fedcore.privacy.events import (
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.units import Adjacency

ONE = Fraction(1)
GAUSS = GaussianEvent(ONE)
SHARES = SharesEvent(3, Fraction(10), Fraction(4), 5)
EVENTS: dict[type, dict[str, Any]] = {
    GaussianEvent: {"noise_multiplier": ONE},
    SharesEvent: {
        "shares": 3,
        "local_variance": ONE,
        "squared_sensitivity": ONE,
        "dimension": 4,
    },
    SkellamEvent: {"variance": ONE, "squared_sensitivity": ONE, "dimension": 4},
    PoissonEvent: {"rate": 7, "event": SHARES},
    TruncatedPoissonEvent: {"rate": 7, "limit": 3, "population": 9, "event": GAUSS},
    FixedSizeEvent: {"size": 3, "population": 9, "event": GAUSS},
    RepeatedEvent: {"count": 3, "event": PoissonEvent(7, GAUSS)},
}
FIELDS = [(kind, name) for kind, values in EVENTS.items() for name in values]


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_is_a_value_that_nobody_changes(kind: Any) -> None:
    event = kind(**EVENTS[kind])
    assert event == kind(**EVENTS[kind]) and hash(event) == hash(kind(**EVENTS[kind]))
    for field in fields(event):
        with pytest.raises(FrozenInstanceError):
            setattr(event, field.name, 1)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_an_event_of_anything_but_exact_positive_numbers_is_none(kind: Any, name: str) -> None:
    good = EVENTS[kind][name]
    wrong: list[Any] = [0, -1, None, "1", 1.5, True, Fraction(0), Fraction(-1), [1]]
    wrong.append(2 if isinstance(good, Fraction) else Fraction(2))
    for value in wrong:
        with pytest.raises(PlanError) as found:
            kind(**EVENTS[kind] | {name: value})
        assert found.value.why and found.value.fix


OUTSIDE: dict[str, list[Any]] = {
    "noise_multiplier": [Fraction(1, 2**40 + 1), 2**40 + Fraction(1, 7), 1 + Fraction(1, 7**2400)],
    "local_variance": [Fraction(1, 2**201), Fraction(10**5000), 1 + Fraction(1, 7**2400)],
    "variance": [Fraction(1, 2**201), Fraction(10**5000), 1 + Fraction(1, 7**2400)],
    "squared_sensitivity": [Fraction(1, 2**201), Fraction(10**5000), 1 + Fraction(1, 7**2400)],
}


@pytest.mark.parametrize(("kind", "name"), [field for field in FIELDS if field[1] != "event"])
def test_numbers_that_no_float_or_record_holds_make_no_event(kind: Any, name: str) -> None:
    for value in OUTSIDE.get(name, [2**40 + 1, 2**63 - 1, 10**5000]):
        with pytest.raises(PlanError) as found:
            kind(**EVENTS[kind] | {name: value})
        assert found.value.why and found.value.fix and len(str(found.value)) < 500
        with pytest.raises(PlanError):
            kind(**EVENTS[kind] | {name: -value})


@pytest.mark.parametrize("squared", [Fraction(1, 2**82), Fraction(2**82)])
def test_noise_that_only_a_quotient_shows_has_the_same_bounds(squared: Fraction) -> None:
    for wrong in (
        lambda: SharesEvent(2, squared / 2, ONE, 4),
        lambda: SkellamEvent(squared, ONE, 4),
        lambda: SkellamEvent(ONE, 1 / squared, 4),
    ):
        with pytest.raises(PlanError, match="noise multiplier"):
            wrong()


def test_repetitions_of_repetitions_are_counted_together() -> None:
    RepeatedEvent(2**20, RepeatedEvent(2**20, GAUSS))
    with pytest.raises(PlanError, match="count"):
        RepeatedEvent(2**20, RepeatedEvent(2**20 + 1, GAUSS))


@pytest.mark.parametrize("adjacency", Adjacency)
@pytest.mark.parametrize("z", [Fraction(1, 2**40), Fraction(2**40)])
@pytest.mark.parametrize("rate", [1, 2**31, 2**32])
def test_the_widest_events_cost_a_number(adjacency: Adjacency, z: Fraction, rate: int) -> None:
    gauss = GaussianEvent(z)
    large, most = Fraction(2**120), 2**40
    for event in (
        gauss,
        SharesEvent(1, large, large / z**2, most),
        SharesEvent(most, Fraction(1, 4), Fraction(most, 4) / z**2, most),
        SkellamEvent(large, large / z**2, most),
        SkellamEvent(Fraction(1, 2**120), 1 / (2**120 * z**2), most),
        PoissonEvent(rate, gauss),
        PoissonEvent(rate, SkellamEvent(large, large / z**2, most)),
        TruncatedPoissonEvent(rate, 1, most, gauss),
        TruncatedPoissonEvent(rate, most, most, gauss),
        FixedSizeEvent(1, most, gauss),
        FixedSizeEvent(most - 1, most, gauss),
    ):
        repeated = RepeatedEvent(most, event)
        try:
            cost, _ = epsilon(compose({repeated: 2**53}, adjacency), 1e-300)
        except AccountantError:
            continue
        assert cost >= 0  # it is a number


NESTED: dict[str, Callable[[], object]] = {
    "a sample of a sample": lambda: PoissonEvent(7, PoissonEvent(7, GAUSS)),  # type: ignore[arg-type]
    "a sample of repetitions": lambda: PoissonEvent(7, RepeatedEvent(2, GAUSS)),  # type: ignore[arg-type]
    "a cut sample of shares": lambda: TruncatedPoissonEvent(7, 3, 9, SHARES),  # type: ignore[arg-type]
    "shares of a fixed sample": lambda: FixedSizeEvent(3, 9, SHARES),  # type: ignore[arg-type]
    "repetition of nothing": lambda: RepeatedEvent(2, None),  # type: ignore[arg-type]
    "a rate above one": lambda: PoissonEvent(2**32 + 1, GAUSS),
    "a cut that never happens": lambda: TruncatedPoissonEvent(7, 10, 9, GAUSS),
    "a sample larger than its population": lambda: FixedSizeEvent(10, 9, GAUSS),
}


@pytest.mark.parametrize("case", NESTED)
def test_what_no_accountant_knows_is_no_event(case: str) -> None:
    with pytest.raises(PlanError) as found:
        NESTED[case]()
    assert found.value.code == "FED-1501" and found.value.why and found.value.fix


def test_the_multiplier_of_shares_is_that_of_their_sum() -> None:
    assert SHARES.squared_noise_multiplier == Fraction(3 * 10, 4)
