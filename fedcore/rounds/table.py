"""The transition table: which event may happen in which phase, and where it may lead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fedcore.rounds.events import (
    Aggregated,
    Arrived,
    Cancel,
    CannotClose,
    CheckedIn,
    Closed,
    DeadlinePassed,
    Event,
    Lost,
    Published,
    Recovered,
    Released,
    Scrubbed,
    Started,
)
from fedcore.rounds.phases import Phase

__all__ = ["EDGES", "TABLE"]

_P = Phase
_GIVEN_UP = (_P.ABANDONED, _P.FAILED)
_FIRST = (_P.KEYS, _P.COLLECTING)
_NEXT = {
    _P.KEYS: (_P.SHARES,),
    _P.SHARES: (_P.COLLECTING,),
    _P.COLLECTING: (_P.AGGREGATING, _P.CONFIRMING, _P.UNMASKING),
    _P.CONFIRMING: (_P.UNMASKING,),
    _P.UNMASKING: (_P.AGGREGATING,),
}


def _table() -> dict[tuple[Phase, type[Event]], frozenset[Phase]]:
    """Rows of (phase, event) -> phases afterwards; the phase itself where it may stay."""
    rows: dict[tuple[Phase, type[Event]], tuple[Phase, ...]] = {
        (_P.PENDING, Started): (_P.SELECTING,),
        (_P.SELECTING, CheckedIn): (_P.SELECTING, *_FIRST),
        (_P.SELECTING, Lost): (_P.SELECTING,),
        (_P.SELECTING, DeadlinePassed): (_P.SELECTING, *_FIRST, *_GIVEN_UP),
    }
    for phase, following in _NEXT.items():
        rows[phase, Arrived] = (phase,)
        rows[phase, Lost] = (phase, *_GIVEN_UP)
        rows[phase, DeadlinePassed] = (phase, *_GIVEN_UP)
        rows[phase, Closed] = (*following, *_GIVEN_UP)
    rows |= {
        (_P.AGGREGATING, Aggregated): (_P.AGGREGATING,),
        (_P.AGGREGATING, Released): (_P.RELEASING,),
        (_P.RELEASING, Published): (_P.COMPLETED,),
        (_P.COMPLETED, Scrubbed): (_P.SCRUBBED,),
    }
    for phase in (_P.ABANDONED, _P.FAILED, _P.CANCELLED):
        rows[phase, Scrubbed] = (phase,)
    for phase in (_P.PENDING, _P.SELECTING, *_NEXT, _P.AGGREGATING):
        rows[phase, Cancel] = (_P.CANCELLED,)
    for phase in (_P.RELEASING, _P.COMPLETED):
        rows[phase, Cancel] = (phase,)
    for phase in (_P.PENDING, _P.SELECTING, *_NEXT, _P.AGGREGATING, _P.RELEASING):
        rows[phase, CannotClose] = _GIVEN_UP
    for phase in Phase:
        rows[phase, Recovered] = (phase,)
    return {key: frozenset(targets) for key, targets in rows.items()}


TABLE: Mapping[tuple[Phase, type[Event]], frozenset[Phase]] = MappingProxyType(_table())
EDGES: frozenset[tuple[Phase, Phase]] = frozenset(
    (phase, target) for (phase, _), targets in TABLE.items() for target in targets - {phase}
)
