"""The README tells the truth: its code runs as pasted, its commands and files exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def readme() -> str:
    return (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def test_every_block_of_python_runs_as_pasted(
    readme: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("sklearn", reason="the blocks read the digits of the extra 'demo'")
    pytest.importorskip("safetensors", reason="one block stores the model (the extra 'demo')")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, block {number + 1}", "exec"), names)
    shown = capsys.readouterr().out
    reached = [float(text) for text in re.findall(r"'accuracy': ([\d.]+)", shown)]
    assert len(reached) == 2
    assert min(reached) >= 0.96  # "about 0.97": one image of 359 weighs 0.003
    assert "FED-1101" in shown and "Fix: " in shown
    trained, restored = names["fitted"].model, names["restored"]  # type: ignore[attr-defined]
    for path, array in trained.state_dict().items():
        np.testing.assert_array_equal(restored.state_dict()[path], array)


def test_every_make_command_it_names_is_a_target_of_the_makefile(readme: str, root: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):.*## ", (root / "Makefile").read_text("utf-8"), re.M))
    named = set(re.findall(r"(?:`|\$ )make ([\w-]+)", readme))
    assert {"demo", "test", "lint"} <= named
    assert named <= targets


def test_every_file_and_link_it_names_exists(readme: str, root: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", readme)
    files = re.findall(r"`((?:examples|benchmarks)/[\w./-]+)`", readme)
    assert links and files
    assert [name for name in links + files if not (root / name).exists()] == []


def test_every_extra_it_names_is_one_of_the_project(readme: str, root: Path) -> None:
    extras = re.findall(r"^(\w+) = \[", (root / "pyproject.toml").read_text("utf-8"), re.M)
    listed = readme[readme.index("Extras add to it") :].split("\n\n", 1)[0]
    named = re.findall(r"`(\w+)`", listed)
    assert named and set(named) <= set(extras)


def test_the_extra_that_it_installs_is_one_of_the_project(readme: str, root: Path) -> None:
    extras = re.findall(r"^(\w+) = \[", (root / "pyproject.toml").read_text("utf-8"), re.M)
    installed = re.findall(r"pip install -e '\.\[(\w+)\]'", readme)
    assert installed and set(installed) <= set(extras)
