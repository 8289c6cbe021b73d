"""A figure says what it is compared with and whether it is good enough, and cannot be told."""

import dataclasses
import doctest
import json

import pytest

import benchmarks.figure
import benchmarks.measure
from benchmarks.figure import Figure, Target

KEYS = ["name", "value", "unit", "ratio", "against", "target", "meets", "machine", "foreign_cores"]


def test_a_record_has_the_agreed_keys_and_survives_json() -> None:
    figure = Figure("train-A", 2100.0, "clients/s", 1.25, "JAX", Target("ratio", ">=", 1.2))
    record = figure.record(machine="2 x a processor", foreign_cores=0.034)
    assert list(record) == KEYS
    assert json.loads(json.dumps(record, allow_nan=False)) == {
        "name": "train-A",
        "value": 2100.0,
        "unit": "clients/s",
        "ratio": 1.25,
        "against": "JAX",
        "target": "ratio >= 1.2",
        "meets": True,
        "machine": "2 x a processor",
        "foreign_cores": 0.03,
    }


@pytest.mark.parametrize(
    ("target", "value", "ratio", "meets"),
    [
        (Target("ratio", ">=", 1.2), 5.0, 1.2, True),
        (Target("ratio", ">=", 1.2), 5.0, 1.19, False),
        (Target("ratio", ">=", 1.2), 5.0, None, None),
        (Target("value", "<=", 150), 150.0, None, True),
        (Target("value", "<=", 150), 150.1, 0.1, False),
        (None, 5.0, 2.0, None),
    ],
)
def test_meets_follows_from_the_target_alone(
    target: Target | None, value: float, ratio: float | None, meets: bool | None
) -> None:
    assert Figure("x", value, "ms", ratio, "y", target).meets is meets
    assert "meets" not in {field.name for field in dataclasses.fields(Figure)}


def test_a_figure_belongs_to_the_benchmark_before_the_full_stop() -> None:
    assert Figure("train-A.memory", 1.0, "MB").benchmark == "train-A"
    assert Figure("train-A", 1.0, "clients/s").benchmark == "train-A"


def test_numbers_are_written_with_four_significant_digits() -> None:
    record = Figure("x", 12345.678, "s", 0.00123456).record(machine="", foreign_cores=None)
    assert (record["value"], record["ratio"]) == (12350.0, 0.001235)


@pytest.mark.parametrize("module", [benchmarks.figure, benchmarks.measure])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
