"""docs/testing.md names every marker, profile and suite; and what it measures with works."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings

from tests.conftest import ROOT
from tests.covered import shares
from tests.docs.blocks import page
from tests.mutation.parts import PARTS, files_of
from tests.mutation.words import meaning

TEXT = page("docs/testing.md")


def first_cells(section: str) -> list[str]:
    """What the first table of a section lists."""
    found = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", found, re.MULTILINE)


def test_every_marker_is_on_the_page() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    registered = [line.partition(":")[0] for line in options["ini_options"]["markers"]]
    assert first_cells("Markers") == registered


def test_every_profile_is_on_the_page_with_its_number_of_examples() -> None:
    source = (ROOT / "tests/conftest.py").read_text("utf-8")
    registered = re.findall(r'register_profile\("(\w+)"', source)
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", TEXT, re.MULTILINE))
    assert {name: settings.get_profile(name).max_examples for name in registered} == {
        name: int(examples) for name, examples in rows.items()
    }


def test_every_suite_of_the_makefile_is_on_the_page() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    recipes = re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    runs = [
        target for target, recipe in recipes if re.search(r"PYTEST\)|-m (pytest|tests)", recipe)
    ]
    assert {f"make {target}" for target in runs} == set(first_cells("Suites"))


def test_a_repetition_draws_by_its_seed_and_says_how_to_do_it_again() -> None:
    command = ["make", "-n", "--no-print-directory", "repeat", "REPEATS=3", "SEED=7"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loop = said[said.index("first=") :]
    run = re.search(r"OPENBLAS_NUM_THREADS=1 .*?--hypothesis-seed=\$seed", loop, re.DOTALL)
    assert run is not None and "--hypothesis-profile=repeated" in run[0]
    assert "-p tests.shuffled" in run[0]
    # Of the loop as it stands, with a run of tests that fails with the second seed.
    stand_in = loop.replace(run[0], "test $seed -ne 8")
    done = subprocess.run(["sh", "-c", stand_in], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["seed 7", "seed 8", "Again: make repeat REPEATS=1 SEED=8"]


@pytest.mark.slow
def test_a_seed_gives_an_order_that_keeps_files_whole(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        tests = "\n".join(f"def test_{name}{n}(): pass" for n in range(5))
        (tmp_path / f"test_{name}.py").write_text(tests)

    def order(seed: int) -> list[str]:
        words = ["--collect-only", "-q", "-p", "tests.shuffled", f"--hypothesis-seed={seed}"]
        options = ["-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)]
        command = [sys.executable, "-m", "pytest", *words, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return re.findall(r"::test_(\w\d)", done.stdout)

    first, again, other = order(1), order(1), order(2)
    assert first == again != other and sorted(first) == sorted(other) and len(first) == 20
    files = [name[0] for name in first]
    assert sum(left != right for left, right in pairwise(files)) == 3


@pytest.mark.parametrize("name", PARTS)
def test_every_pattern_of_a_part_finds_files(name: str) -> None:
    part = PARTS[name]
    for pattern in (*part.sources, *part.tests, *part.not_tests):
        assert list(ROOT.glob(pattern)), pattern
    assert files_of(part)


def test_every_module_of_the_three_packages_is_in_one_part() -> None:
    changed = [path for part in PARTS.values() for name in part.sources for path in ROOT.glob(name)]
    modules = [
        path
        for package in ("privacy", "rounds", "secagg")
        for path in (ROOT / "fedcore" / package).rglob("*.py")
    ]
    assert len(changed) == len(set(changed))
    assert {path.name for path in set(modules) - set(changed)} == {"__init__.py"}
    (named,) = re.findall(r"^PARTS \?= (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert named.split() == list(PARTS)


def function(text: str) -> ast.AST:
    return ast.parse(text).body[0]


def test_a_change_of_words_alone_is_told_from_any_other() -> None:
    said = 'def f(x):\n    raise Error(f"no {x:d} of them", why="it is too large", code="n-1")'
    same = meaning(function(said))
    for other in ('why="IT IS TOO LARGE"', 'why="XXit is too largeXX"'):
        assert meaning(function(said.replace('why="it is too large"', other))) == same
    for was, now in (("{x:d}", "{y:d}"), ("n-1", "N-1"), ('why="it is too large", ', "")):
        assert meaning(function(said.replace(was, now))) != same


def test_shares_are_of_all_lines_and_of_all_branches() -> None:
    def file(lines: int, of: int, branches: int, of_branches: int) -> dict[str, object]:
        keys = ("covered_lines", "num_statements", "covered_branches", "num_branches")
        return {"summary": dict(zip(keys, (lines, of, branches, of_branches), strict=True))}

    report = {
        "fedcore/privacy/audit/tails.py": file(30, 40, 1, 2),
        "fedcore/privacy/plan.py": file(60, 60, 3, 4),
        "server/fedserver/serving/gate.py": file(0, 100, 0, 0),
    }
    assert shares(json.dumps({"files": report})) == {
        "fedcore.privacy": (90.0, pytest.approx(66.67, abs=0.01)),
        "fedserver": (0.0, 100.0),
        "all": (45.0, pytest.approx(66.67, abs=0.01)),
    }
