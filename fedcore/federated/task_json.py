"""The one document behind both forms of a task: tables as people write them, JSON as it is signed.

The canonical JSON has the tables of the TOML file, with every default written out, and what
resolving found. So one reader serves both, and from a network it is asked for nothing that it would
not also refuse in a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final

from fedcore.errors import FedcoreError, TaskError
from fedcore.federated.choices import AlgorithmSpec, require_name
from fedcore.federated.spec import (
    CohortSpec,
    DataSpec,
    DeadlineSpec,
    EvaluationSpec,
    ModelSpec,
    PrivacySpec,
    RoundsSpec,
    SecAggSpec,
    TrainingSpec,
    UpdateSpec,
)
from fedcore.privacy import PrivacyPlan
from fedcore.settings import Bounds, Settings, read_settings, unknown_key, write_settings

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = ["FORMAT", "LARGEST_JSON", "decode", "encode", "read_document"]

FORMAT: Final = 1
LARGEST_JSON: Final = 2**20
"""Bytes of a canonical task."""


@dataclass(frozen=True, kw_only=True)
class _Head(Settings):
    """The table [task]."""

    name: Annotated[str, Bounds(pattern=r"[a-z0-9-]{1,63}")]
    seed: Annotated[int, Bounds(least=0)] = 0


_TABLES: Final[Mapping[str, type[Settings]]] = {
    "model": ModelSpec,
    "data": DataSpec,
    "training": TrainingSpec,
    "algorithm": AlgorithmSpec,
    "update": UpdateSpec,
    "privacy": PrivacySpec,
    "secure_aggregation": SecAggSpec,
    "rounds": RoundsSpec,
    "cohort": CohortSpec,
    "deadlines": DeadlineSpec,
    "evaluation": EvaluationSpec,
}
_NEEDED: Final = ("task", "model", "data", "training", "algorithm", "rounds", "cohort")
_OFF: Final = {"profile": "off"}
_PROFILES: Final = ("malicious", "semi_honest", "off")


def read_document(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a `Task`, from its tables. Raises: TaskError."""
    for key in values:
        if key not in ("task", *_TABLES):
            raise unknown_key("", str(key), ("task", *_TABLES))
    for key in _NEEDED:
        if key not in values:
            raise TaskError(
                f"the table [{key}] is missing",
                why="a task needs " + ", ".join(f"[{name}]" for name in _NEEDED),
                fix=f"add [{key}]",
            )
    head = _read_table(values, "task", _Head)
    found: dict[str, Any] = {field.name: getattr(head, field.name) for field in fields(head)}
    for key, schema in _TABLES.items():
        if key not in values:
            continue
        if key == "secure_aggregation" and _is_off(values[key]):
            found[key] = None
        else:
            found[key] = _read_table(values, key, schema)
    return found


def _is_off(table: object) -> bool:
    """Whether [secure_aggregation] says that there is none. Raises: TaskError."""
    profile = table.get("profile") if isinstance(table, Mapping) else None
    if not isinstance(table, Mapping) or not isinstance(profile, str):
        return False
    require_name("secure_aggregation.profile", profile, dict.fromkeys(_PROFILES))
    if table == _OFF or profile != "off":
        return profile == "off"
    beside = ", ".join(str(name) for name in table if name != "profile")
    raise TaskError(
        f'{beside} beside secure_aggregation.profile = "off"',
        why="without secure aggregation they say nothing",
        fix=f"leave {beside} out, or take another profile",
        where="secure_aggregation",
    )


def encode(task: Task) -> bytes:
    """The canonical JSON of a resolved task: sorted keys, no spaces, ASCII.

    Raises: TaskError beyond 1 MiB.
    """
    document: dict[str, Any] = {"format": FORMAT, "task": {"name": task.name, "seed": task.seed}}
    for key in _TABLES:
        if (table := getattr(task, key)) is not None:
            document[key] = write_settings(table)
    if task.secure_aggregation is None:
        document["secure_aggregation"] = _OFF
    if task.plan is not None:
        document["plan"] = task.plan.to_json()
    data = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    _require_small(data)
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The arguments of a `Task`, from what may be its canonical JSON; plan included.

    Raises: TaskError for what cannot be read. What can be read need not be canonical.
    """
    _require_small(data)
    try:
        document = json.loads(data.decode("ascii"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed("it is not JSON of ASCII characters") from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise _malformed("it is no table with a format")
    if document.pop("format") != FORMAT:
        raise _malformed(f"its format is not {FORMAT}")
    plan = document.pop("plan", None)
    found = read_document(document)
    if plan is not None:
        try:
            found["plan"] = PrivacyPlan.from_json(plan)
        except (FedcoreError, ArithmeticError) as error:
            what = error.why if isinstance(error, FedcoreError) else str(error)
            raise _malformed(f"its plan is none: {what}", where="plan") from error
    return found


def _read_table(values: Mapping[str, Any], key: str, schema: type[Settings]) -> Settings:
    if not isinstance(values[key], Mapping):
        raise TaskError(
            f"{key} is no table",
            why="its settings stand in a table",
            fix=f"write [{key}]",
            where=key,
        )
    return read_settings(values[key], schema, path=key)


def _require_small(data: bytes) -> None:
    if len(data) > LARGEST_JSON:
        raise TaskError(
            f"a task of {len(data):,} bytes",
            why=f"a task has at most {LARGEST_JSON:,}",
            fix="take fewer or shorter options",
        )


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _malformed(why: str, *, where: str = "") -> TaskError:
    return TaskError(
        "the bytes are no canonical task",
        why=why,
        fix="send what Task.canonical gives",
        where=where,
    )
