"""What an error of a task says would do does, when it is set as it stands."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest

from fedcore.errors import PlanError, TaskError
from fedcore.federated import cohort_checks
from fedcore.federated.spec import SecAggSpec
from fedcore.federated.task import Task
from tests.federated.conftest import SMALL, write_toml
from tests.federated.private_tasks import client_privacy

MASKED = {"profile": "malicious", "gamma": 0.1, "delta": 0.2}
DRAWN = client_privacy(maximum_participations=None, sampling_rate=0.9, population=20)
TASKS: dict[str, dict[str, Any]] = {
    "goal and minimum": {"cohort": {"goal": 20, "minimum": 8}, "secure_aggregation": MASKED},
    "overselection": {
        "cohort": {"goal": 30, "minimum": 28, "overselection": 1.5},
        "secure_aggregation": MASKED,
    },
    "overselection and minimum": {
        "cohort": {"goal": 300, "minimum": 11, "overselection": 3},
        "secure_aggregation": {"profile": "malicious", "gamma": 0.3, "delta": 0.15},
    },
    "two": {"cohort": {"goal": 2, "minimum": 2}, "secure_aggregation": {"delta": 0}},
    "drawn by coins": {"cohort": {"goal": 20, "minimum": 8}, "privacy": DRAWN},
    "drawn and masked": {
        "cohort": {"goal": 20, "minimum": 8},
        "privacy": DRAWN | {"noise": "shares"},
        "secure_aggregation": MASKED,
    },
    "drawn of many": {
        "cohort": {"goal": 20, "minimum": 8},
        "privacy": DRAWN | {"noise": "shares", "population": 100_000, "delta": 1e-6},
        "secure_aggregation": MASKED,
    },
    "no room in a slot": {
        "cohort": {"goal": 10, "minimum": 8},
        "privacy": client_privacy(noise="shares", epsilon=0.01),
        "secure_aggregation": MASKED,
    },
    "no sampler": {
        "cohort": {"goal": 10, "minimum": 8},
        "privacy": client_privacy(noise="shares", epsilon=0.0001),
        "secure_aggregation": MASKED,
    },
    "no room in a compact slot": {
        "cohort": {"goal": 10, "minimum": 8},
        "privacy": client_privacy(noise="compact", epsilon=0.0001, maximum_participations=20),
        "rounds": {"count": 20},
        "secure_aggregation": MASKED,
    },
}


def resolved(tables: dict[str, Any]) -> Task:
    return Task.from_toml(write_toml(SMALL | tables)).resolved()


def changed(tables: dict[str, Any], remedy: str) -> dict[str, Any]:
    """The tables as a remedy says: paths without a table are those of the cohort."""
    found = deepcopy(tables)
    if "leave privacy.sampling_rate out" in remedy:
        found["privacy"]["sampling_rate"] = None
    if 'profile "off"' in remedy:
        found["secure_aggregation"] = {"profile": "off"}
    for path, value in re.findall(r'([a-z_.]+) = "?([\w.]+\b)', remedy):
        table, _, name = path.rpartition(".")
        number = re.fullmatch(r"[\d.]+", value) is not None
        found[table or "cohort"][name] = float(value) if number and "." in value else value
        if number and "." not in value:
            found[table or "cohort"][name] = int(value)
    return found


@pytest.mark.parametrize("name", TASKS)
def test_each_remedy_alone_makes_a_task_that_resolves(name: str) -> None:
    with pytest.raises((TaskError, PlanError)) as caught:
        resolved(TASKS[name])
    remedies = re.split(r",? or (?=set|take|let|leave)", caught.value.fix)
    assert all(changed(TASKS[name], each) != TASKS[name] for each in remedies)
    for each in remedies:
        resolved(changed(TASKS[name], each))


def test_gradients_of_records_are_asked_for_first_and_all_at_once() -> None:
    """Not what fedavg would need besides, of which fedsgd takes nothing."""
    records = {"unit": "record", "sampling_rate": 0.5, "maximum_participations": None}
    tables = {"privacy": client_privacy() | records, "training": {"loss": "cross_entropy"}}
    with pytest.raises(TaskError, match="fedavg with records"):
        resolved(tables)
    with pytest.raises(TaskError) as caught:
        resolved({"training": {"loss": "cross_entropy"}})
    assert all(name in caught.value.fix for name in ("epochs", "batch_size", "optimizer"))
    with pytest.raises(TaskError) as caught:
        resolved({"algorithm": {"name": "fedsgd", "lr": 1.0}})
    assert all(name in caught.value.what for name in ("epochs", "batch_size", "optimizer"))


def test_a_search_for_a_remedy_makes_few_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take 5 ms, and a server reads the tasks of strangers."""
    made: list[int] = []
    real = cohort_checks.session_parameters

    def counted(terms: SecAggSpec, clients: int) -> Any:
        made.append(clients)
        return real(terms, clients)

    monkeypatch.setattr(cohort_checks, "session_parameters", counted)
    with pytest.raises(TaskError, match="take overselection = 1 and minimum = 255"):
        resolved(TASKS["overselection and minimum"])
    assert len(made) <= 30
