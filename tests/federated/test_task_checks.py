"""A task that contradicts itself is refused with the line, the reason and a way out."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import TaskError
from fedcore.federated.algorithms.algorithm import RULES
from fedcore.federated.choices import AlgorithmSpec
from fedcore.federated.layers import COUNTS, LAYERS
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
from fedcore.federated.task import Task
from fedcore.federated.task_json import read_document

EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"
TABLES: dict[str, Any] = {
    "model": ModelSpec,
    "data": DataSpec,
    "training": TrainingSpec,
    "update": UpdateSpec,
    "privacy": PrivacySpec,
    "secure_aggregation": SecAggSpec,
    "rounds": RoundsSpec,
    "cohort": CohortSpec,
    "deadlines": DeadlineSpec,
    "evaluation": EvaluationSpec,
}


@cache
def canonical(name: str) -> bytes:
    return Task.from_toml(EXAMPLES / f"{name}.toml").resolved().canonical


def document(name: str, **tables: dict[str, Any] | None) -> dict[str, Any]:
    """The tables of an example, with keys of some replaced; a table or key that is None is not."""
    found: dict[str, Any] = json.loads(canonical(name))
    del found["format"], found["model"]["parts"]
    found.pop("plan", None)
    for table, changes in tables.items():
        if changes is None:
            del found[table]
            continue
        merged = found.get(table, {}) | changes
        found[table] = {key: value for key, value in merged.items() if value is not None}
    return found


def task(name: str, **tables: dict[str, Any] | None) -> Task:
    return Task(**read_document(document(name, **tables)))


PLAIN_PRIVACY = {
    "unit": "client",
    "epsilon": 8.0,
    "population": 10_000,
    "clipping_norm": "1/1",
    "noise": "central",
}
OFF: dict[str, Any] = {"profile": "off", "gamma": None, "delta": None, "eta": None, "sigma": None}
LINEAR = {"kind": "linear", "inputs": 2, "outputs": 2}
LOCAL: dict[str, Any] = {"epochs": 1, "batch_size": 4, "optimizer": {"name": "sgd", "lr": 1.0}}
FEDAVG: dict[str, Any] = {"name": "fedavg", "momentum": None}

CONTRADICTIONS: list[tuple[str, dict[str, Any], str, str, str]] = [
    # name, tables, where, what, fix
    ("digits", {"model": {"layers": []}}, "model", "by nothing", "exactly one"),
    ("digits", {"model": {"name": "mlp"}}, "model", "layers and name", "exactly one"),
    ("digits", {"model": {"options": {"a": 1}}}, "model.options", "options", "leave"),
    (
        "digits-plain",
        {"model": {"layers": [], "arrays": [{"name": "w", "shape": [2]}]}},
        "training.program",
        "model.arrays",
        "that program",
    ),
    (
        "digits-plain",
        {
            "model": {"layers": [], "arrays": [{"name": "w", "shape": [2]}] * 2},
            "training": {"program": "own"},
        },
        "model.arrays",
        "one name",
        "rename",
    ),
    ("digits", {"training": {"loss": None}}, "training.loss", "without a loss", "cross_entropy"),
    ("digits", {"training": {"loss": "cross_entropi"}}, "training.loss", "entropi", "'cross_ent"),
    ("digits", {"training": {"options": {"a": 1}}}, "training.options", "built-in", "leave"),
    ("digits", {"training": {"epochs": 1}}, "training.epochs", "under fedsgd", "fedavg"),
    ("digits", {"training": {"batch_size": 1}}, "training.batch_size", "under fedsgd", "fedavg"),
    ("digits-plain", {"training": {"steps": 1}}, "training.steps", "both", "leave one out"),
    ("digits-plain", {"training": {"epochs": None}}, "training", "without epochs", "epochs"),
    ("digits-plain", {"training": {"optimizer": None}}, "training", "without opt", "optimizer"),
    ("har", {"training": {"program": "own"}}, "algorithm.name", "fedprox", "fedavg"),
    (
        "har",
        {
            "training": {"program": "own", "optimizer": None},
            "algorithm": {**FEDAVG, "mu": None},
        },
        "training.schedule",
        "no rate",
        "name an optimizer",
    ),
    (
        "har",
        {"training": {"schedule": {"name": "exponential", "rate": 1e300}}},
        "training.schedule",
        "rate of inf",
        "fall",
    ),
    ("digits-plain", {"algorithm": {"name": "median", "lr": None}}, "algorithm.name", "see", "sum"),
    ("digits-plain", {"cohort": {"minimum": 15}}, "cohort.minimum", "above goal", "minimum = 14"),
    (
        "digits-plain",
        {"cohort": {"goal": 10_000, "overselection": 2}, "secure_aggregation": OFF},
        "cohort.overselection",
        "20000 clients",
        "16384",
    ),
    ("digits", {"cohort": {"minimum": 11}}, "cohort.minimum", "minimum = 11", "minimum = 12"),
    (
        "digits",
        {"cohort": {"overselection": 2}},
        "cohort.goal",
        "goal = 14 of 28",
        "overselection = 1",
    ),
    (
        "digits-plain",
        {"cohort": {"goal": 3, "minimum": 1}},
        "secure_aggregation",
        "among 1 clients",
        "select 2 clients",
    ),
    (
        "digits-plain",
        {"cohort": {"goal": 2000, "minimum": 1800}},
        "secure_aggregation",
        "1800 clients",
        "several sessions",
    ),
    (
        "digits",
        {"secure_aggregation": {"delta": "9/20"}},
        "secure_aggregation",
        "delta",
        "lower delta",
    ),
    (
        "digits",
        {"secure_aggregation": {"gamma": "1/4294967296"}},
        "secure_aggregation.gamma",
        "gamma",
        "fewer digits",
    ),
    (
        "digits-plain",
        {"secure_aggregation": {"profile": "off"}},
        "secure_aggregation",
        'beside secure_aggregation.profile = "off"',
        "leave",
    ),
    (
        "digits-plain",
        {"secure_aggregation": {"profile": "of"}},
        "secure_aggregation.profile",
        "profile = 'of'",
        "'off'",
    ),
    ("digits", {"secure_aggregation": {"sigma": 80}}, "secure_aggregation", "sigma", "100"),
    ("digits", {"update": {"range": 2.0}}, "update", "beside [privacy]", "leave [update] out"),
    ("digits", {"secure_aggregation": OFF}, "privacy.noise", "without secure", "central"),
    (
        "digits",
        {"model": {"layers": [LINEAR, {"kind": "batch_norm", "channels": 2}]}},
        "model.layers",
        "batch_norm",
        "group_norm",
    ),
    ("digits", {"privacy": {"quantile": "1/2"}}, "privacy.quantile", "quantile", "leave it out"),
    ("digits", {"privacy": {"sampling_rate": None}}, "privacy.sampling_rate", "records", "0.1"),
    (
        "digits",
        {"privacy": {"maximum_participations": 2}},
        "privacy.sampling_rate",
        "sampling_rate",
        "leave it out",
    ),
    (
        "digits",
        {"algorithm": FEDAVG, "training": LOCAL},
        "algorithm.name",
        "fedavg with records",
        "fedsgd",
    ),
    (
        "digits",
        {"algorithm": {"name": "fedprox", "momentum": None}, "training": LOCAL},
        "algorithm.name",
        "fedprox with records",
        "fedsgd",
    ),
    ("digits", {"privacy": {"clipping": "per_layer"}}, "privacy.clipping", "per_layer", "flat"),
    ("digits", {"privacy": {"noise": "compact"}}, "privacy.noise", "compact", "shares"),
    ("digits", {"privacy": {"largest_weight": 5}}, "privacy.largest_weight", "weights", "leave"),
    (
        "digits",
        {"evaluation": {"every": 5}},
        "evaluation.reported",
        "under privacy",
        "reported = false",
    ),
    (
        "digits-plain",
        {
            "privacy": PLAIN_PRIVACY | {"sampling_rate": "1/100"},
            "update": None,
            "evaluation": None,
            "cohort": {"goal": 100, "minimum": 85, "overselection": "6/5"},
            "secure_aggregation": OFF,
        },
        "cohort.overselection",
        "drawn by coins",
        "overselection = 1.0",
    ),
    (
        "digits-plain",
        {
            "privacy": PLAIN_PRIVACY | {"sampling_rate": "1/100"},
            "update": None,
            "evaluation": None,
            "cohort": {"goal": 120, "minimum": 85},
            "secure_aggregation": OFF,
        },
        "cohort",
        "85 … 120 clients",
        "minimum = ",
    ),
    (
        "digits-plain",
        {
            "update": {"slot_bits": 16},
            "cohort": {"goal": 100, "minimum": 85},
        },
        "update.slot_bits",
        "100 updates",
        "slot_bits = 18",
    ),
    ("digits-plain", {"evaluation": {"every": 0}}, "evaluation.every", "never", "every"),
    (
        "digits-plain",
        {"evaluation": {"metrics": ["accuracy", "accuracy"]}},
        "evaluation.metrics[1]",
        "twice",
        "leave",
    ),
    (
        "digits-plain",
        {"evaluation": {"metrics": ["acuracy"]}},
        "evaluation.metrics[0]",
        "acuracy",
        "'accuracy'",
    ),
]


@pytest.mark.parametrize(
    ("name", "tables", "where", "what", "fix"),
    CONTRADICTIONS,
    ids=[f"{index}-{case[2]}" for index, case in enumerate(CONTRADICTIONS)],
)
def test_a_contradiction_is_refused_with_place_reason_and_remedy(
    name: str, tables: dict[str, Any], where: str, what: str, fix: str
) -> None:
    with pytest.raises(TaskError) as caught:
        task(name, **tables)
    assert caught.value.where == where
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.why


@pytest.mark.parametrize("inputs", ["0", "-4"])
def test_a_layer_of_less_than_one_of_anything_is_told_with_its_line_and_its_key(
    inputs: str,
) -> None:
    text = (EXAMPLES / "digits.toml").read_text("utf-8")
    wrong, changed = re.subn(r"inputs = \d+", f"inputs = {inputs}", text, count=1)
    assert changed
    with pytest.raises(TaskError) as caught:
        Task.from_toml(wrong)
    index = next(line for line, row in enumerate(wrong.splitlines(), 1) if "inputs =" in row)
    assert caught.value.where == f"task:{index}"
    assert caught.value.what == f"model.layers[1].inputs = {inputs}"


def test_every_option_of_a_layer_that_is_a_size_has_to_be_one_at_least() -> None:
    sizes = {
        option.name
        for make in LAYERS.values()
        for option in inspect.signature(make).parameters.values()
        if str(option.annotation).removesuffix(" | None") in ("int", "Size")
    }
    assert sizes == COUNTS


def test_a_refused_share_of_losses_is_told_as_the_task_writes_shares() -> None:
    session = {"delta": "3/5"}
    with pytest.raises(TaskError) as caught:
        task("digits-plain", secure_aggregation=session)
    assert re.search(r"less than \d+/\d+", caught.value.fix)


def test_a_plan_without_a_promise_is_refused() -> None:
    digits = Task.from_toml(EXAMPLES / "digits.toml").resolved()
    arguments = {field.name: getattr(digits, field.name) for field in fields(Task)}
    with pytest.raises(TaskError, match="a plan without"):
        Task(**arguments | {"privacy": None})


@pytest.mark.parametrize("name", ["digits", "digits-plain", "har"])
def test_a_contradiction_in_a_file_is_told_with_its_line(name: str, tmp_path: Path) -> None:
    text = (EXAMPLES / f"{name}.toml").read_text().replace("minimum = 1", "minimum = 9")
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(TaskError, match="above goal") as caught:
        Task.from_toml(path)
    line = next(i for i, row in enumerate(text.splitlines(), 1) if row.startswith("minimum"))
    assert caught.value.where == f"broken.toml:{line}"


def documented() -> list[tuple[str, str]]:
    return [(table, field.name) for table, spec in TABLES.items() for field in fields(spec)]


@pytest.mark.parametrize(("table", "key"), documented(), ids=str)
def test_every_key_is_known_and_misspelt_is_refused_with_a_suggestion(table: str, key: str) -> None:
    with pytest.raises(TaskError) as caught:
        read_document(document("digits", **{table: {key + "z": 1}}))
    assert caught.value.what == f"{table}.{key}z is no setting"
    assert caught.value.fix == f"did you mean {key}?"
    assert f"{table}.{key} is no setting" not in refusal_of(table, key)


def refusal_of(table: str, key: str) -> str:
    """What is said of a key with a value that no key takes: never that it is unknown."""
    with pytest.raises(TaskError) as caught:
        read_document(document("digits", **{table: {key: {"no": object()}}}))
    return caught.value.what


@pytest.mark.parametrize("table", ["task", *TABLES, "algorithm"])
def test_a_misspelt_table_is_refused_with_a_suggestion(table: str) -> None:
    found = document("digits")
    found[table + "x"] = found.pop(table, {})
    with pytest.raises(TaskError) as caught:
        read_document(found)
    assert caught.value.what == f"{table}x is no setting"
    assert caught.value.fix == f"did you mean {table}?"


@pytest.mark.parametrize("table", ["task", "model", "data", "training", "algorithm", "rounds"])
def test_a_table_that_every_task_needs_is_missed(table: str) -> None:
    with pytest.raises(TaskError, match=rf"\[{table}\] is missing"):
        task("digits", **{table: None})


@pytest.mark.parametrize("name", sorted(AlgorithmSpec.known))
def test_an_algorithm_takes_the_options_of_its_rule(name: str) -> None:
    spec = AlgorithmSpec.read({"name": name, "lr": 0.5}, "algorithm")
    rule: Any = RULES[name]
    assert [option for option, _ in spec.options] == sorted(field.name for field in fields(rule))


def test_a_plan_cannot_be_written_by_hand() -> None:
    with pytest.raises(TaskError, match="plan is no setting"):
        Task.from_toml("[plan]\nkind = 'PrivacyPlan'\n")


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("deadlines", {"upload_s": 0.0}),
        ("deadlines", {"keys_s": -1.0}),
        ("rounds", {"count": 0}),
        ("cohort", {"goal": 0}),
        ("task", {"name": "Digits"}),
        ("task", {"name": "a" * 64}),
        ("task", {"name": "../x"}),
        ("task", {"seed": -1}),
        ("privacy", {"epsilon": 0.0}),
        ("privacy", {"delta": 1.0}),
        ("privacy", {"sampling_rate": "3/2"}),
        ("privacy", {"noise": "banded"}),
        ("secure_aggregation", {"profile": "honest"}),
        ("secure_aggregation", {"profile": "off"}),
    ],
    ids=str,
)
def test_values_out_of_their_bounds_are_refused(table: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TaskError) as caught:
        task("digits", **{table: changes})
    assert caught.value.where.startswith(table)
