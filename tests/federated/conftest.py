"""What the tests of a federation share: tasks from a few words, and small data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fedcore.data import Dataset, group_by, load_digits
from fedcore.federated.task import Task

SMALL: dict[str, Any] = {
    "task": {"name": "small", "seed": 1},
    "model": {"layers": [{"kind": "linear", "inputs": 4, "outputs": 3}]},
    "data": {"dataset": "small"},
    "training": {
        "loss": "cross_entropy",
        "epochs": 2,
        "batch_size": 4,
        "optimizer": {"name": "sgd", "lr": 0.1},
    },
    "algorithm": {"name": "fedavg"},
    "rounds": {"count": 3},
    "cohort": {"goal": 4, "minimum": 2},
    "secure_aggregation": {"profile": "off"},
}

SECURE: dict[str, Any] = {"profile": "semi_honest", "gamma": 0.1, "delta": 0.2}


def write_toml(table: Mapping[str, Any], path: str = "") -> str:
    """TOML of nested tables; a key whose value is None is left out."""
    own = {key: value for key, value in table.items() if value is not None}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in own.items() if not _is_table(value)]
    for key, value in own.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            lines.append(f"[{name}]\n{write_toml(value, name)}")
        elif _is_table(value):
            lines += [f"[[{name}]]\n{write_toml(item, name)}" for item in value]
    return "".join(lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and value[:1] != [] and isinstance(value[0], dict)
    )


@pytest.fixture(scope="session")
def small_task() -> Callable[..., Task]:
    """A resolved task of a softmax regression, with tables replaced: small_task(rounds={...})."""

    def make(**tables: Any) -> Task:
        given = {name: table for name, table in (SMALL | tables).items() if table is not None}
        return Task.from_toml(write_toml(given)).resolved()

    return make


@pytest.fixture(scope="session")
def task_for(small_task: Callable[..., Task]) -> Callable[..., Task]:
    """The same under terms of privacy, masked where clients add the noise: task_for(privacy)."""

    def make(privacy: dict[str, Any], **tables: Any) -> Task:
        secure = SECURE if privacy["noise"] != "central" else {"profile": "off"}
        if privacy["unit"] == "record":
            tables = {
                "algorithm": {"name": "fedsgd", "lr": 0.5},
                "training": {"loss": "cross_entropy"},
            } | tables
        cohort = {"goal": 10, "minimum": 8}
        return small_task(privacy=privacy, secure_aggregation=secure, cohort=cohort, **tables)

    return make


@pytest.fixture(scope="session")
def small_data() -> Dataset:
    """Ten examples with four features, of three classes."""
    draw = np.random.default_rng(7)
    y = np.arange(10) % 3
    x = draw.normal(size=(10, 4)) + np.eye(3, 4)[y]
    return Dataset(x.astype(np.float32), y)


@pytest.fixture(scope="session")
def writers() -> tuple[dict[str, Dataset], Dataset]:
    """The training images of each writer block of the digits, and all of their test images."""
    parts = {
        f"writer-{block.name}": block.split((0.8, 0.2), seed=1)
        for block in group_by(*load_digits())
    }
    held = [test for _, test in parts.values()]
    x, y = (np.concatenate([getattr(test, name) for test in held]) for name in "xy")
    return {name: train for name, (train, _) in parts.items()}, Dataset(x, y)
