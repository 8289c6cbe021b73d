"""A round in one line, as a person follows it and as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fedcore.console import Json
from fedcore.v1 import admin_service_pb2
from fedserver.admin.showing import plain, seconds, size, spent

__all__ = ["OVER", "data_of", "line_of"]

# Of an attempt that goes no further; a COMPLETED one is only still to be scrubbed.
OVER: Final = frozenset({"COMPLETED", "SCRUBBED", "ABANDONED", "FAILED", "CANCELLED"})

_WITH_MODEL: Final = frozenset({"COMPLETED", "SCRUBBED"})
# What a client owed in the phase in which it was lost.
_OWED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "KEYS": "keys",
        "SHARES": "shares",
        "COLLECTING": "upload",
        "CONFIRMING": "confirm",
        "UNMASKING": "unmask",
    }
)
_LOSS: Final = ("evaluation_loss", "loss")
_ACCURACY: Final = ("evaluation_accuracy", "accuracy")


def line_of(
    entry: admin_service_pb2.RoundEntry, *, rounds: int, epsilon_budget: float = 0.0
) -> str:
    """The line of a round, which counts from 1 for people, and from 0 in `data_of`.

    >>> from fedcore.v1.common_pb2 import RoundRef
    >>> entry = admin_service_pb2.RoundEntry(
    ...     round=RoundRef(task_id="digits", round=11, attempt=1), phase="SCRUBBED", selected=130,
    ...     reported=118, lost={"COLLECTING": 11, "UNMASKING": 1}, metrics={"loss": 0.412},
    ...     epsilon=1.83, bytes_up=61_200_000, started_ms=1_000, since_ms=13_400)
    >>> print(line_of(entry, rounds=50, epsilon_budget=4))
    round 12/50  sel 130 ok 118 drop 12 (upload 11 unmask 1)  loss 0.412  eps 1.83/4.00  ...
    """
    parts = [f"round {entry.round.round + 1}/{rounds}"]
    if entry.round.attempt > 1 or entry.phase not in _WITH_MODEL:
        parts.append(f"attempt {entry.round.attempt} {entry.phase}")
    lost = _lost(entry)
    drop = f" ({' '.join(f'{_OWED.get(k, k.lower())} {lost[k]}' for k in lost)})" if lost else ""
    parts.append(f"sel {entry.selected} ok {entry.reported} drop {sum(lost.values())}{drop}")
    if (loss := _metric(entry, _LOSS)) is not None:
        parts.append(f"loss {loss:.3f}")
    if (accuracy := _metric(entry, _ACCURACY)) is not None:
        parts.append(f"acc {100 * accuracy:.1f}%")
    if epsilon_budget:
        parts.append(spent(entry.epsilon, epsilon_budget))
    parts += [f"up {size(entry.bytes_up)}", seconds(_took_ms(entry))]
    if entry.reason and entry.phase not in _WITH_MODEL:
        parts.append(plain(entry.reason))
    return "  ".join(parts)


def data_of(entry: admin_service_pb2.RoundEntry) -> dict[str, Json]:
    """The entry of a round as data."""
    return {
        "task_id": entry.round.task_id,
        "round": entry.round.round,
        "attempt": entry.round.attempt,
        "phase": entry.phase,
        "since_ms": entry.since_ms,
        "until_ms": entry.until_ms or None,
        "selected": entry.selected,
        "reported": entry.reported,
        "lost": _lost(entry),
        "reason": entry.reason,
        "model": entry.model_digest.hex(),
        "metrics": dict(sorted(entry.metrics.items())),
        "epsilon": None if math.isnan(entry.epsilon) else entry.epsilon,
        "bytes_up": entry.bytes_up,
        "started_ms": entry.started_ms,
        "seconds": _took_ms(entry) / 1000,
    }


def _lost(entry: admin_service_pb2.RoundEntry) -> dict[str, int]:
    """In the order of the phases."""
    order = list(_OWED)
    return dict(
        sorted(
            entry.lost.items(),
            key=lambda item: (order.index(item[0]) if item[0] in order else -1, item[0]),
        )
    )


def _metric(entry: admin_service_pb2.RoundEntry, names: tuple[str, ...]) -> float | None:
    return next((entry.metrics[name] for name in names if name in entry.metrics), None)


def _took_ms(entry: admin_service_pb2.RoundEntry) -> int:
    """From the beginning to the end, or until now."""
    end = entry.since_ms if entry.phase in OVER else entry.server_time_ms
    return max(0, end - entry.started_ms) if entry.started_ms else 0
