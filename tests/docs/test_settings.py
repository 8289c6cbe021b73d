"""docs/settings.md names every key of policies, servers and scenarios, with their defaults."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from dataclasses import MISSING, fields
from typing import Any

import pytest

from fedclient.policy import AggregationRules, BudgetRules, PrivacyRules, TaskRules, TimeRules
from fedcore.federated.choices import AlgorithmSpec, Choice
from fedserver.config import Config
from fedsim.algorithms import AlgorithmChoice
from fedsim.clock.staleness import StalenessSpec
from fedsim.compression import CompressionChoice
from fedsim.devices.distributions import DistributionSpec
from fedsim.devices.spec import AvailabilitySpec, ClassSpec, DropoutSpec
from fedsim.partition import PartitionSpec, ShiftSpec
from fedsim.robust import RobustChoice
from fedsim.scenario import TABLES as SCENARIOS
from fedsim.sources import SourceSpec
from tests.docs.blocks import page

TEXT = page("docs/settings.md")
POLICY, REST = TEXT.split("\n## A task\n")
SERVER, SCENARIO = REST.split("\n## A server\n")[1].split("\n## A scenario\n")
TABLES = {
    "tasks": (POLICY, TaskRules),
    "secure_aggregation": (POLICY, AggregationRules),
    "privacy": (POLICY, PrivacyRules),
    "budget": (POLICY, BudgetRules),
    "times": (POLICY, TimeRules),
}


@pytest.mark.parametrize("table", TABLES)
def test_every_key_of_a_table_stands_in_its_rows(table: str) -> None:
    text, settings = TABLES[table]
    rows = re.search(rf"^\| `\[{table}\]` \|.*\n(?:\| \|.*\n)*", text, re.MULTILINE)
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


CHOICES: tuple[type[Choice], ...] = (
    *(AlgorithmChoice, AvailabilitySpec, CompressionChoice, DistributionSpec, PartitionSpec),
    *(RobustChoice, ShiftSpec, SourceSpec, StalenessSpec),
)


def rows_of(table: str) -> list[list[str]]:
    """The cells of the rows of a scenario's table."""
    found = re.search(rf"^\| `\[{table}\]` \|.*\n(?:\| \|.*\n)*", SCENARIO, re.MULTILINE)
    assert found is not None, table
    return [row.strip().strip("|").split("|") for row in found[0].splitlines()]


@pytest.mark.parametrize("table", SCENARIOS)
def test_every_key_of_a_scenario_is_documented_with_its_default(table: str) -> None:
    said = {}
    for _, keys, defaults, *_ in rows_of(table):
        names, texts = (re.findall(r"`([^`]*)`", cell) for cell in (keys, defaults))
        values = [tomllib.loads(f"x = {text}")["x"] for text in texts] or [defaults.strip()]
        said |= dict(zip(names, values * (len(names) // len(values)), strict=True))
    for field in fields(SCENARIOS[table]):
        default = said.pop(field.name)
        if field.default is MISSING and field.default_factory is MISSING:
            assert default == "", field.name
        elif field.default is None or field.default == ():
            assert default == "none", field.name
        elif field.default is not MISSING:
            assert default == field.default, field.name
    assert not said


def test_every_key_within_a_table_of_devices_is_documented() -> None:
    text = "".join(cell for row in rows_of("devices") for cell in row)
    inner = {field.name for kind in (ClassSpec, DropoutSpec) for field in fields(kind)}
    assert inner <= set(re.findall(r"`(\w+)`", text))


def options_of(made: Any) -> dict[str, Any]:
    """The options of a choice with their defaults, None for one that must be given."""
    return {
        name: None if each.default is inspect.Parameter.empty else each.default
        for name, each in inspect.signature(made).parameters.items()
    }


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.__name__)
def test_every_choice_of_a_scenario_is_documented_with_its_options(choice: type[Choice]) -> None:
    for name, made in choice.known.items():
        if choice is AlgorithmChoice and name in AlgorithmSpec.known:
            continue  # of tasks
        said: list[dict[str, Any]] = []
        for row in re.findall(rf"^\| (?:`\w+`, )*`{name}`[,| ].*$", SCENARIO, re.MULTILINE):
            written = row.split("|")[2]
            if of := re.match(r" those of `(\w+)`", written):
                (other,) = re.findall(rf"^\| `{of[1]}` \|([^|]*)\|", SCENARIO, re.MULTILINE)
                written = written[of.end() :] + other
            said.append(
                {
                    key: tomllib.loads(f"x = {value}")["x"] if value else None
                    for key, value in re.findall(r"`(\w+)(?: = ([^`]+))?`", written)
                }
            )
        wanted = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in options_of(made).items()
        }
        assert wanted in said, (name, said)
