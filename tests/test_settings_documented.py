"""docs/settings.md names every key of a policy and of a task."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fedclient.policy import AggregationRules, BudgetRules, PrivacyRules, TaskRules, TimeRules
from fedcore.federated import spec

TEXT = (Path(__file__).resolve().parents[1] / "docs/settings.md").read_text("utf-8")
POLICY, TASK = TEXT.split("## A task")
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
