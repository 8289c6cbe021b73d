"""docs/settings.md names every key of a policy, a task and a server, and a server's defaults."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from fedclient.policy import AggregationRules, BudgetRules, PrivacyRules, TaskRules, TimeRules
from fedcore.federated import spec
from fedserver.config import Config

TEXT = (Path(__file__).resolve().parents[1] / "docs/settings.md").read_text("utf-8")
POLICY, TASK = TEXT.split("## A task")
TASK, SERVER = TASK.split("## A server")
TABLES = {
    "tasks": (POLICY, TaskRules),
    "secure_aggregation": (POLICY, AggregationRules),
    "privacy": (POLICY, PrivacyRules),
    "budget": (POLICY, BudgetRules),
    "times": (POLICY, TimeRules),
    "model": (TASK, spec.ModelSpec),
    "data": (TASK, spec.DataSpec),
    "training": (TASK, spec.TrainingSpec),
    "update": (TASK, spec.UpdateSpec),
    "task_privacy": (TASK, spec.PrivacySpec),
    "task_secure_aggregation": (TASK, spec.SecAggSpec),
    "rounds": (TASK, spec.RoundsSpec),
    "cohort": (TASK, spec.CohortSpec),
    "deadlines": (TASK, spec.DeadlineSpec),
    "evaluation": (TASK, spec.EvaluationSpec),
}


@pytest.mark.parametrize("table", TABLES)
def test_every_key_of_a_table_stands_in_its_rows(table: str) -> None:
    text, settings = TABLES[table]
    head = re.escape(f"| `[{table.removeprefix('task_')}]` |")
    rows = re.search(rf"^{head}.*\n(?:\| \|.*\n)*", text, re.MULTILINE)
    assert rows is not None
    assert {field.name for field in fields(settings)} <= set(re.findall(r"`(\w+)`", rows[0]))


@pytest.mark.parametrize("table", [name for name in Config.model_fields if name != "test_mode"])
def test_every_default_of_a_server_is_the_one_that_is_documented(table: str) -> None:
    rows = re.search(rf"^\| `\[{table}\]` \|.*\n(?:\| \|.*\n)*", SERVER, re.MULTILINE)
    assert rows is not None
    said = {}
    for row in rows[0].splitlines():
        _, _, keys, defaults, *_ = (re.findall(r"`([^`]*)`", cell) for cell in row.split("|"))
        values = [tomllib.loads(f"x = {text}")["x"] for text in defaults]
        said |= dict(zip(keys, values if len(values) > 1 else values * len(keys), strict=True))
    said.pop("test_mode", None)
    section = Config.model_fields[table].default
    assert said == json.loads(section.model_dump_json())
