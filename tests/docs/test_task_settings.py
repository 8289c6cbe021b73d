"""docs/settings.md has the whole vocabulary of a task, with the types and defaults of the code."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal
from fractions import Fraction
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from fedcore import nn
from fedcore.errors import TaskError
from fedcore.federated import Task
from fedcore.federated.choices import (
    LOSSES,
    METRICS,
    AlgorithmSpec,
    Choice,
    LayerSpec,
    OptimizerSpec,
    ScheduleSpec,
)
from fedcore.federated.layers import ACTIVATIONS, LAYERS
from fedcore.nn import init
from fedcore.settings import Options, Settings, read_value
from tests.docs.blocks import page

TASK = page("docs/settings.md").split("\n## A task\n")[1].split("\n## ")[0]
SMALLEST: Final[Mapping[str, str]] = {
    "task": 'name = "a"',
    "model": 'layers = [{ kind = "linear", inputs = 1, outputs = 1 }]',
    "data": 'dataset = "a"',
    "training": 'loss = "mse"',
    "algorithm": 'name = "fedsgd", lr = 1.0',
    "rounds": "count = 1",
    "cohort": "goal = 3, minimum = 3",
}
"""The tables that a task has to have."""


def member_of(hint: Any) -> Any:
    """Of `X | None` the X."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    (member,) = (each for each in get_args(hint) if each is not NoneType)
    return member


TABLES: Final[Mapping[str, type[Settings]]] = {
    name: member_of(hint)
    for name, hint in get_type_hints(Task).items()
    if inspect.isclass(member_of(hint)) and issubclass(member_of(hint), Settings)
}


def task_of(tables: Mapping[str, str]) -> Task:
    return Task.from_toml("".join(f"{name} = {{ {text} }}\n" for name, text in tables.items()))


def section(heading: str) -> str:
    """What stands under a heading of the third level."""
    return TASK.split(f"\n### {heading}\n")[1].split("\n### ")[0]


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose first row begins with `head`."""
    lines = text[text.index(f"| {head} |") :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def written() -> dict[str, dict[str, tuple[str, str, str]]]:
    """Type, default and meaning of each key, by its table, as the page has them."""
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    table: dict[str, tuple[str, str, str]] = {}
    for head, keys, kind, default, meaning in rows(TASK, "table"):
        if head:
            table = found[head.strip("`[]")] = {}
        names, values = quoted(keys), quoted(default) or [default]
        values = values if len(values) > 1 else values * len(names)
        for name, value in zip(names, values, strict=True):
            assert name not in table, name
            table[name] = kind, value, meaning
    return found


def type_word(hint: Any) -> str:
    """What the page calls a type."""
    if hint == Options or (inspect.isclass(hint) and issubclass(hint, Settings)):
        return "table"
    if get_origin(hint) is Literal:
        return "text"
    if get_origin(hint) is tuple:
        return f"{type_word(get_args(hint)[0])}s"
    if member_of(hint) is not hint:
        return type_word(member_of(hint))
    return {bool: "bool", int: "int", float: "float", Fraction: "fraction", str: "text"}[hint]


def test_every_table_of_a_task_is_documented() -> None:
    assert set(written()) == {"task", *TABLES}
    head = written()["task"]
    assert {name: default for name, (_, default, _) in head.items()} == {"name": "", "seed": "0"}
    assert task_of(SMALLEST).seed == 0


def test_the_tables_that_are_said_to_have_to_be_there_have_to_be_there() -> None:
    needed = re.search(r"The tables (.+?) have to be there", TASK, re.DOTALL)
    assert needed is not None
    assert {name.strip("[]") for name in quoted(needed[1])} == set(SMALLEST)
    assert task_of(SMALLEST).name == "a"
    for missing in SMALLEST:
        with pytest.raises(TaskError, match=missing):
            task_of({name: text for name, text in SMALLEST.items() if name != missing})


@pytest.mark.parametrize("table", TABLES)
def test_every_key_of_a_task_is_documented_with_type_and_default(table: str) -> None:
    schema: Any = TABLES[table]
    hints, said = get_type_hints(schema), written()[table]
    if issubclass(schema, Choice):
        assert list(said) == [schema.key]
        return
    assert set(said) == {field.name for field in fields(schema)}
    for field in fields(schema):
        kind, default, _ = said[field.name]
        hint = hints[field.name]
        assert kind == type_word(hint), field.name
        if field.default is MISSING:
            assert default == "", field.name
        elif default == "none":
            assert field.default in (None, ()), field.name
        else:
            value = tomllib.loads(f"x = {default}", parse_float=Decimal)["x"]
            assert read_value(value, hint, field.name) == field.default, field.name


@pytest.mark.parametrize("table", TABLES)
def test_every_word_that_a_key_of_a_task_takes_is_documented(table: str) -> None:
    for name, hint in get_type_hints(TABLES[table]).items():
        if get_origin(hint) is Literal:
            _, default, meaning = written()[table][name]
            assert set(get_args(hint)) <= set(re.findall(r'"(\w+)"', default + meaning)), name


def options_of(make: Callable[..., Any]) -> dict[str, Any]:
    """The options of a choice with their defaults; MISSING for one that has to be given."""
    if inspect.isclass(make) and is_dataclass(make):
        return {field.name: field.default for field in fields(make)}
    return {
        name: MISSING if each.default is each.empty else each.default
        for name, each in inspect.signature(make).parameters.items()
        if each.kind is each.KEYWORD_ONLY and name != "key"
    }


def documented_options(cell: str) -> dict[str, Any]:
    """Options of a row: `lr = 1.0`, or `lr` that has to be given, or `stride` (else …)."""
    found: dict[str, Any] = {}
    for name, value, other in re.findall(r"`(\w+)(?: = ([^`]+))?`( \(else)?", cell):
        found[name] = tomllib.loads(f"x = {value}")["x"] if value else None if other else MISSING
    return found


@pytest.mark.parametrize(
    ("choice", "heading", "nth"),
    [
        (LayerSpec, "Layers", 0),
        (OptimizerSpec, "Optimizers and schedules", 0),
        (ScheduleSpec, "Optimizers and schedules", 1),
        (AlgorithmSpec, "Algorithms", 0),
    ],
)
def test_every_choice_of_a_task_is_documented_with_its_options(
    choice: type[Choice], heading: str, nth: int
) -> None:
    text = section(heading).split(f"| `{choice.key}` |")[nth + 1]
    said = {
        name: documented_options(options)
        for names, options, _ in rows(f"| `{choice.key}` |{text}", f"`{choice.key}`")
        for name in quoted(names)
    }
    assert said == {name: options_of(make) for name, make in choice.known.items()}


def test_every_loss_metric_and_activation_is_documented() -> None:
    text = section("Losses and metrics")
    for head, known in (("`loss`", LOSSES), ("`metrics`", METRICS)):
        assert {name for row in rows(text, head) for name in quoted(row[0])} == set(known)
    (named,) = (row for row in rows(section("Layers"), "`kind`") if "what `activation`" in row[2])
    assert set(quoted(named[0])) == set(ACTIVATIONS)


def test_layers_draw_their_weights_as_is_documented() -> None:
    said = {
        name: quoted(drawn)
        for names, drawn in rows(section("Layers"), "layers")
        for name in quoted(names)
    }
    assert {name for names in said.values() for name in names} <= set(init.__all__)
    keyed = {name for name, make in LAYERS.items() if "key" in inspect.signature(make).parameters}
    assert set(said) == keyed
    for name, layer in {
        **{"linear": nn.Linear, "attention": nn.Linear, "transformer_encoder": nn.Linear},
        **{"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "embedding": nn.Embedding},
    }.items():
        default = inspect.signature(layer).parameters["weight_init"].default
        assert said[name] == [default.__name__]
    for name in ("rnn", "gru", "lstm"):
        assert said[name] == ["xavier_uniform", "orthogonal"]
        layer = LAYERS[name](features=3, hidden=4, key=1)
        inputs, states = (w.numpy() for w in (layer.input_weight, layer.state_weight))
        assert abs(inputs).max() <= np.sqrt(6 / (3 + 4))
        for gate in np.split(states, states.shape[1] // 4, axis=1):
            np.testing.assert_allclose(gate @ gate.T, np.eye(4), atol=1e-6)


def test_a_task_in_which_secure_aggregation_is_off_says_nothing_else_of_it() -> None:
    off = 'profile = "off"'
    assert off in TASK
    assert task_of({**SMALLEST, "secure_aggregation": off}).secure_aggregation is None
