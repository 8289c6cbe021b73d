"""Every line of docs/production-checklist.md names a test that exists, and SECURITY.md pages."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.conftest import ROOT
from tests.docs.blocks import page

ROW = re.compile(r"^\| (?!\| |\|)(.+) \| (.+) \|$", re.MULTILINE)
ROWS = [
    (said, held)
    for said, held in ROW.findall(page("docs/production-checklist.md"))
    if not set(said) <= set("-| ")
]


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def test_there_are_lines_and_each_of_the_pages_tables_is_read() -> None:
    lines = page("docs/production-checklist.md").splitlines()
    written = [line for line in lines if line.startswith("| ") and not line.startswith("| |")]
    assert len(ROWS) == len(written) >= 40


@pytest.mark.parametrize(("said", "held"), ROWS, ids=lambda text: text.rpartition("::")[2][:60])
def test_the_test_that_a_line_names_exists(said: str, held: str) -> None:
    found = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", held)
    assert found is not None, held
    assert found[2] in functions_of(found[1]), held


def test_no_line_is_held_by_the_test_of_another() -> None:
    held = [test for _, test in ROWS]
    assert len(set(held)) == len(held)


def test_every_file_that_the_security_policy_links_to_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert "docs/threat-model.md" in links
    assert all((ROOT / link).is_file() for link in links)
    assert "14 days" in text and "in private" in text
