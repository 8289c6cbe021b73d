"""What pages say of `make`: each target exists, and runs what a test of its own runs.

`make -n` says what would be typed. README.md and CONTRIBUTING.md name the targets.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, blocks_of, commands_of, page


def recipe(root: Path, target: str) -> str:
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", target],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_make_command_that_a_page_names_does_what_it_says(root: Path) -> None:
    named = {
        target for name in PAGES for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", page(name))
    }
    assert {"demo", "test", "lint"} <= named
    for target in sorted(named):
        assert recipe(root, target), target
    assert recipe(root, "demo").rstrip().endswith("/python examples/federated_digits.py")
    chosen = '-m "not slow and not oracle and not postgres"'
    assert re.search(rf"-m pytest -q .*{chosen}", recipe(root, "test"))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_what_is_run_by_hand_is_there(root: Path, name: str) -> None:
    for block in blocks_of(name, "console"):
        for words in commands_of(block):
            if words[:3] == [".venv/bin/python", "-m", "pytest"]:
                assert all((root / word).exists() for word in words[3:] if "/" in word)
