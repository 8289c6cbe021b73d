"""A state as plain JSON values, exactly, so that a database can keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from fedcore.errors import StoreError
from fedcore.rounds.phases import Phase
from fedcore.rounds.state import Loss, RoundState

__all__ = ["from_record", "to_record"]

_SETS = ("cohort", "members", "pending", "arrived", "survivors")


def to_record(state: RoundState) -> dict[str, Any]:
    """The fields of a state by name; bytes in hexadecimal, sets sorted.

    >>> to_record(RoundState.opened("digits", round=3, attempt=1, at=7))["since"]
    7
    """
    record: dict[str, Any] = {field.name: getattr(state, field.name) for field in fields(state)}
    record["phase"] = state.phase.value
    record["digest"] = state.digest.hex()
    for name in _SETS:
        record[name] = sorted(client.hex() for client in record[name])
    record["lost"] = {
        client.hex(): [loss.phase.value, loss.why] for client, loss in sorted(state.lost.items())
    }
    return record


def from_record(record: Mapping[str, Any]) -> RoundState:
    """The state that `to_record` wrote. Raises: StoreError if it is not one."""
    names = {field.name for field in fields(RoundState)}
    if not isinstance(record, Mapping) or record.keys() != names:
        raise _damaged("its fields are not those of a round")
    values: dict[str, Any] = {name: _READ[name](name, record[name]) for name in names}
    state = RoundState(**values)
    if to_record(state) != record:
        raise _damaged("it is not in the one form that is written")
    return state


def _damaged(why: str) -> StoreError:
    return StoreError(
        "the record of a round cannot be read",
        why=why,
        fix="restore the database from a backup: `fed db restore`",
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _damaged(f"{name} is no text")
    return value


def _integer(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _damaged(f"{name} is no integer from 0 on")
    return value


def _optional_integer(name: str, value: Any) -> int | None:
    return None if value is None else _integer(name, value)


def _boolean(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _damaged(f"{name} is neither true nor false")
    return value


def _bytes(name: str, value: Any) -> bytes:
    text = _text(name, value)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _damaged(f"{name} is not hexadecimal") from None


def _phase(name: str, value: Any) -> Phase:
    try:
        return Phase(_text(name, value))
    except ValueError:
        raise _damaged(f"{name} names no phase") from None


def _clients(name: str, value: Any) -> frozenset[bytes]:
    if not isinstance(value, list):
        raise _damaged(f"{name} is no list")
    return frozenset(_bytes(name, client) for client in value)


def _losses(name: str, value: Any) -> Mapping[bytes, Loss]:
    if not isinstance(value, dict):
        raise _damaged(f"{name} is no object")
    lost = {}
    for client, loss in value.items():
        if not isinstance(loss, list) or len(loss) != 2:
            raise _damaged(f"{name} holds something other than pairs of phase and reason")
        lost[_bytes(name, client)] = Loss(_phase(name, loss[0]), _text(name, loss[1]))
    return MappingProxyType(lost)


_READ: Mapping[str, Callable[[str, Any], object]] = MappingProxyType(
    {
        "task_id": _text,
        "round": _integer,
        "attempt": _integer,
        "phase": _phase,
        "sequence": _integer,
        "since": _integer,
        "deadline": _optional_integer,
        **dict.fromkeys(_SETS, _clients),
        "lost": _losses,
        "closing": _boolean,
        "reason": _text,
        "digest": _bytes,
    }
)
