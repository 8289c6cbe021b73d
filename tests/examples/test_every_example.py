"""Every example is listed, short, checked before it runs, and says what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.scenario import Scenario
from tests.examples.runs import EXAMPLES, commands, lay_out, module

NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
SIMULATED = [name for name in NAMES if (EXAMPLES / name / f"{name}.py").exists()]
SCENARIOS = [
    path for path in sorted(EXAMPLES.glob("*/*.toml")) if "[scenario]" in path.read_text("utf-8")
]


def test_the_index_has_a_line_for_each_example() -> None:
    index = (EXAMPLES / "README.md").read_text("utf-8")
    assert len(NAMES) == 6 and len(SIMULATED) == 5
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()} - {"__pycache__"}
    assert set(NAMES) == folders - {"tasks"}
    for name in [*NAMES, "federated_digits.py", "mnist_lenet.py", "tasks"]:
        assert sum(f"]({name}" in line for line in index.splitlines()) == 1, name


@pytest.mark.parametrize("name", NAMES)
def test_each_readme_says_how_to_run_it_and_what_is_printed(name: str) -> None:
    found = commands(name)
    assert any(command.words[0] == "python" and command.shown for command in found)
    for command in found:
        files = [word for word in command.words if word.startswith("examples/")]
        assert files and all((EXAMPLES.parent / file).exists() for file in files), command


@pytest.mark.parametrize("name", NAMES)
def test_each_script_is_read_in_one_sitting(name: str) -> None:
    for path in (EXAMPLES / name).glob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) < 120, path


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_each_scenario_is_one(path: Path) -> None:
    assert Scenario.from_toml(path).head.name


@pytest.mark.parametrize("name", SIMULATED)
def test_an_example_without_its_data_says_what_to_get(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = module(EXAMPLES / name / f"{name}.py")
    assert script.main(["--data", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("FED-1201") and str(tmp_path) in said.err
    assert "Fix: get " in said.err and "nothing is downloaded" in said.err


@pytest.mark.parametrize("name", [name for name in SIMULATED if name != "handwriting"])
def test_an_example_for_which_no_data_were_got_says_where_it_looks_for_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path / "examples", name)
    script = module(tmp_path / "examples" / name / f"{name}.py")
    assert script.main([]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "examples" / name / "data") in said and "--data FOLDER" in said
    readme = (EXAMPLES / name / "README.md").read_text("utf-8")
    assert f"`examples/{name}/data`" in readme and "--set population.source.path=FOLDER" in readme


def test_the_index_says_which_examples_run_at_once() -> None:
    """Those that do not fail in the test above; their own tests run them."""
    rows = [
        line for line in (EXAMPLES / "README.md").read_text("utf-8").splitlines() if "](" in line
    ]
    named = {line.split("](")[1].split(")")[0].split("/")[0] for line in rows if "at once" in line}
    assert named == {"federated_digits.py", "handwriting", "pytorch"}
