"""Examples as their READMEs tell a user to run them, and the tables that they print."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tests.conftest import ROOT

__all__ = ["EXAMPLES", "Command", "Ran", "commands", "labels", "lay_out", "module", "run", "table"]

EXAMPLES = ROOT / "examples"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^(\S(?:.*?\S)??)? {2,}((?:[\d.]+%?|infinite)(?: +(?:[\d.]+%?|infinite))*)$")


class Command(NamedTuple):
    """A line that a README has a user type, and what it says is printed."""

    words: list[str]
    shown: str


class Ran(NamedTuple):
    """What a command printed, and its exit code."""

    out: str
    err: str
    code: int


def commands(name: str) -> list[Command]:
    """The commands of an example's README, in their order."""
    found = []
    for block in _BLOCK.findall((EXAMPLES / name / "README.md").read_text("utf-8")):
        for typed in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = typed.partition("\n")
            found.append(Command(shlex.split(line, comments=True), shown))
    return found


def run(words: Sequence[str], folder: Path, *, data: Path | None = None) -> Ran:
    """Runs what a README names, in a folder beside which the examples seem to lie.

    `data`: what the example that is named has as its folder `data`; without it there is none.
    """
    (named,) = {Path(word).parts[1] for word in words if word.startswith("examples/")}
    lay_out(folder / "examples", named, data)
    fed = ["-c", "import sys; from fedcore.cli import main; sys.exit(main())"]
    typed = list(words[1:]) if words[0] == "python" else [*fed, *words[1:]]
    found = subprocess.run(
        [sys.executable, *typed],
        cwd=folder,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return Ran(found.stdout, found.stderr, found.returncode)


def lay_out(examples: Path, named: str, data: Path | None = None) -> None:
    """A copy of one example, with these data."""
    if not (examples / named).exists():
        hidden = shutil.ignore_patterns("data", "__pycache__")
        shutil.copytree(EXAMPLES / named, examples / named, ignore=hidden)
        if data is not None:
            (examples / named / "data").symlink_to(data)


def table(text: str) -> list[tuple[str, list[float]]]:
    """The rows of a printed table: each label, and its numbers, shares as fractions of 1."""
    return [
        (found[1] or "", [_number(word) for word in found[2].split()])
        for line in text.splitlines()
        if (found := _ROW.match(line))
    ]


def labels(text: str) -> list[str]:
    """The labels of a table's rows, without the numbers in them."""
    return [re.sub(r"[\d.]+", "#", label) for label, _ in table(text)]


def module(path: Path) -> ModuleType:
    """The script of an example, imported by where it lies."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def _number(word: str) -> float:
    return float(word[:-1]) / 100 if word.endswith("%") else float(word.replace("infinite", "inf"))
