"""No block of code on a page is only believed: each is run by a test, which is named here.

A page's blocks of one kind are run by a test that reads that page, so that a new block is run as
well; what no test of a page can run is named by its first line, with the test that stands for it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.blocks import PAGES, Block, blocks_of

SHOWN = {"text", "mermaid"}
"""What a reader only looks at."""

PYTHON = "tests/docs/test_pages.py::test_every_block_of_python_runs_as_pasted"
GUIDE = (
    "tests/docs/test_first_federation.py::test_every_command_of_the_guide_runs_on_three_machines"
)
POSTGRES = "tests/docs/test_postgresql.py::test_the_commands_run_in_the_order_in_which_they_stand"
MAKE = "tests/docs/test_make.py::test_every_make_command_that_a_page_names_does_what_it_says"
INSTALL = "tests/docs/test_install.py::test_the_commands_of_an_install_give_the_commands"
DEPLOYED = "tests/docs/test_readme.py::test_the_task_is_deployed_by_the_commands_as_they_stand"
SIMULATED = "tests/docs/test_readme.py::test_the_task_is_simulated_by_the_commands_as_they_stand"
RUNBOOK = "tests/docs/test_operations.py::test_every_command_of_the_runbook_runs_in_its_order"
ELSEWHERE = "tests/docs/test_operations.py::test_what_another_machine_runs_names_what_is_there"

WHOLE_PAGES = {
    **{(page, "python"): PYTHON for page in PAGES if page.startswith("docs/")},
    ("docs/library.md", "python"): (
        "tests/docs/test_library.py"
        "::test_every_block_of_the_library_s_page_runs_and_finds_what_it_says"
    ),
    ("docs/simulation.md", "python"): (
        "tests/docs/test_simulation.py::test_every_block_of_python_runs_beside_the_tutorials_scenario"
    ),
    ("docs/first-federation.md", "sh"): GUIDE,
    ("docs/first-federation.md", "toml"): GUIDE,
    ("docs/commands.md", "console"): (
        "tests/docs/test_commands.py::test_every_command_runs_in_the_order_in_which_they_stand"
    ),
    ("docs/privacy.md", "console"): (
        "tests/docs/test_privacy_commands.py::test_every_command_about_a_ledger_runs"
    ),
    ("docs/privacy.md", "toml"): (
        "tests/docs/test_privacy_tasks.py::test_a_task_s_noise_and_sums_are_those_that_are_said"
    ),
    ("docs/simulation.md", "console"): (
        "tests/docs/test_simulation.py::test_the_tutorial_runs_in_the_order_in_which_it_stands"
    ),
    ("docs/simulation.md", "toml"): (
        "tests/docs/test_simulation.py::test_the_tutorial_runs_in_the_order_in_which_it_stands"
    ),
    ("docs/operations.md", "sh"): RUNBOOK,
    ("docs/operations.md", "toml"): RUNBOOK,
    ("docs/object-store.md", "toml"): (
        "tests/deployed/test_object_store.py::test_a_task_over_a_store_that_fails_under_way_comes_to_the_same_models"
    ),
    ("docs/postgresql.md", "toml"): POSTGRES,
    ("docs/postgresql.md", "console"): POSTGRES,
    ("docs/testing.md", "console"): MAKE,
    ("README.md", "python"): DEPLOYED,
    ("README.md", "toml"): SIMULATED,
}
"""The test that runs all blocks of a kind on a page."""

BY_FIRST_LINE = {
    ("README.md", "$ make demo"): MAKE,
    ("README.md", "$ fed sim run scenario.toml"): SIMULATED,
    ("README.md", "$ fed ca init"): DEPLOYED,
    ("README.md", "$ python3 -m venv .venv"): INSTALL,
    ("CONTRIBUTING.md", "$ make test"): MAKE,
    ("CONTRIBUTING.md", "$ make demo"): (
        "tests/examples/test_picture.py::test_the_picture_is_drawn_as_the_contributor_s_page_says"
    ),
    ("CONTRIBUTING.md", "$ .venv/bin/python -m pytest tests/tensor -q"): MAKE,
    ("docs/first-federation.md", "$ python3 -m venv .venv"): INSTALL,
    ("docs/operations.md", "$ python3 -m venv /opt/fedcore"): (
        "tests/docs/test_operations.py::test_an_install_is_by_hashes_with_options_that_pip_has"
    ),
    ("docs/operations.md", "$ install -d /etc/fedcore"): ELSEWHERE,
    ("docs/operations.md", "$ install -d -m 0700 deploy/secrets"): ELSEWHERE,
    ("docs/operations.md", "$ kubectl apply"): ELSEWHERE,
}
"""The test that runs a block which begins so."""


def run_by(block: Block) -> str:
    """The test that runs a block, or nothing."""
    first = block.text.splitlines()[0] if block.text else ""
    named = {
        test
        for (page, begin), test in BY_FIRST_LINE.items()
        if page == block.page and first.startswith(begin)
    }
    assert len(named) <= 1, block
    return named.pop() if named else WHOLE_PAGES.get((block.page, block.kind), "")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_is_run_by_a_test(page: str) -> None:
    for block in blocks_of(page):
        said = f"{page}, line {block.line}: a block of {block.kind or 'no language'}"
        assert block.kind in SHOWN or run_by(block), f"{said} is run by no test: name one here"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*/README.md")), ids=lambda path: path.parent.name
)
def test_every_command_of_an_example_is_run_by_the_test_of_its_name(path: Path) -> None:
    name = path.parent.name
    kinds = {block.kind for block in blocks_of(path.relative_to(ROOT).as_posix())}
    assert kinds <= {"console", *SHOWN}
    source = (ROOT / f"tests/examples/test_{name}.py").read_text("utf-8")
    assert f'commands("{name}")' in source and "run(" in source


def test_every_test_that_is_named_exists_and_reads_the_page() -> None:
    for (page, _), name in {**WHOLE_PAGES, **BY_FIRST_LINE}.items():
        path, _, function = name.partition("::")
        source = (ROOT / path).read_text("utf-8")
        defined = {
            node.name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert function in defined, name
        reads = r"PAGES|blocks_of\(README|glob\(\"\*\.md\"\)|" + re.escape(page)
        assert re.search(reads, source), f"{path} does not read {page}"


def test_no_declaration_outlives_its_block() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page)]
    for page, begin in BY_FIRST_LINE:
        assert any(b.page == page and b.text.startswith(begin) for b in blocks), (page, begin)
    kinds = {(block.page, block.kind) for block in blocks}
    named = {key for key, test in WHOLE_PAGES.items() if test != PYTHON}
    assert named <= kinds


def test_a_block_that_nothing_runs_is_told_of() -> None:
    assert run_by(Block("README.md", "console", "$ rm -r everything\n", 1)) == ""
    assert run_by(Block("docs/errors.md", "toml", "x = 1\n", 1)) == ""
