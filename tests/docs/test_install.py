"""What pages say of an install: its commands give a program `fed` that runs.

They run in a copy of the checkout, with pip kept from the network: what the project depends on is
lent by the environment of the tests. The pages are README.md and docs/first-federation.md.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.docs.blocks import blocks_of, typed
from tests.docs.machine import Machine

OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # of pip's own words: 0 is without isolation
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PYTHONPATH": sysconfig.get_path("purelib"),
}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/first-federation.md"])
def test_the_commands_of_an_install_give_the_commands(
    root: Path, tmp_path: Path, page: str
) -> None:
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs", "tests")
    shutil.copytree(root, tmp_path / "checkout", ignore=ignored)
    (block,) = (b for b in blocks_of(page, "console") if b.text.startswith("$ python3 -m venv"))
    with Machine(tmp_path / "checkout", OFFLINE) as machine:
        machine.run(typed(block))
        shown = machine.run(".venv/bin/fed --help")
        found = machine.run('.venv/bin/python -c "import fedsim; print(fedsim.__file__)"')
    assert "server" in shown and "sim" in shown
    assert str(tmp_path / "checkout/simulations/fedsim") in found


def test_every_extra_that_is_installed_is_one_of_the_project(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    for page in ("README.md", "docs/first-federation.md"):
        text = (root / page).read_text("utf-8")
        installed = re.findall(r"pip install -e '\.\[(\w+)\]'", text)
        assert installed and set(installed) <= set(extras)
