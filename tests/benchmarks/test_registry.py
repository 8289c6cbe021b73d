"""Every benchmark is found, has a name of its own, asks a question and stands in the README."""

import re

import pytest

import benchmarks.sgemm
from benchmarks.__main__ import README
from benchmarks.registry import Benchmark, discover
from benchmarks.table import row_names
from fedcore.errors import ArgumentError


def test_benchmarks_are_found_by_name_in_order() -> None:
    found = discover()
    assert {"import-core", "sgemm-limit"} <= found.keys()
    assert list(found) == sorted(found)
    assert all(name == declared.name for name, declared in found.items())


def test_names_can_be_typed_and_questions_are_questions() -> None:
    for declared in discover().values():
        assert re.fullmatch(r"[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*", declared.name), declared.name
        assert declared.question.endswith("?"), declared.question
        assert "|" not in declared.question, "a vertical bar would break the table"


def test_two_benchmarks_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Benchmark("import-core", "Who am I?", benchmarks.sgemm.sgemm_limit.measure)
    monkeypatch.setattr(benchmarks.sgemm, "twin", twin, raising=False)
    with pytest.raises(ArgumentError, match="import-core"):
        discover()


def test_the_table_in_the_readme_lists_every_benchmark() -> None:
    listed = {name.partition(".")[0] for name in row_names(README.read_text())}
    assert listed == set(discover())
