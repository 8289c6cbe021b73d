"""Events are exact, whole and of the kinds that accountants know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction
from typing import Any

import pytest

from fedcore.errors import PlanError
from fedcore.privacy.events import (
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)

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
