"""The README tells the truth: its files and commands run as they stand, its figures are measured.

The port of the server becomes a free one, and of the forty rounds a few are held.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fedcore.checkpoint import load_checkpoint
from fedcore.federated import Task
from fedcore.privacy import Ledger, certificate
from fedsim.scenario import Scenario
from tests.docs.blocks import Block, blocks_of, typed
from tests.docs.machine import Machine, served

README = "README.md"
FILES = {block.file: block.text for block in blocks_of(README, "python", "toml")}


def consoles(word: str) -> list[Block]:
    """The blocks of commands whose first begins with these words."""
    return [block for block in blocks_of(README, "console") if block.text.startswith(f"$ {word}")]


def write_files(folder: Path, *, rounds: int) -> None:
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("count = 40", f"count = {rounds}"), "utf-8")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_task_is_deployed_by_the_commands_as_they_stand(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the server needs the extra 'server'")
    pytest.importorskip("sklearn", reason="the clients read the digits of the extra 'demo'")
    write_files(tmp_path, rounds=3)
    variables, port = served()
    with Machine(tmp_path, variables) as machine:
        (block,) = consoles("fed ca init")
        shown = machine.run(typed(block).replace("7443", port))
    assert "COMPLETED" in shown and "round 3/3" in shown, shown
    assert load_checkpoint(tmp_path / "model.safetensors", finite=True).arrays
    assert len(list(tmp_path.glob("writer-*"))) == 13
    accuracy = re.search(r"'accuracy': ([\d.]+)", shown)
    assert accuracy is not None and float(accuracy[1]) > 0.3, shown  # ten classes, three rounds


@pytest.mark.slow
def test_the_task_is_simulated_by_the_commands_as_they_stand(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the scenario reads the digits of the extra 'demo'")
    write_files(tmp_path, rounds=3)
    with Machine(tmp_path) as machine:
        (block,) = consoles("fed sim")
        shown = machine.run(typed(block))
    assert "round 3/3" in shown and "epsilon" in shown
    assert (tmp_path / "runs/digits/report.html").exists()


def test_the_task_promises_what_is_said_and_is_the_one_that_is_simulated(tmp_path: Path) -> None:
    task = Task.from_toml(FILES["task.toml"]).resolved()
    assert task.plan is not None and task.secure_aggregation is not None
    assert task.plan.epsilon == 3.0
    assert Task.from_canonical(task.canonical) == task
    write_files(tmp_path, rounds=40)
    assert Scenario.from_toml(tmp_path / "scenario.toml").task.digest == task.digest


def test_the_demo_s_certificate_states_what_is_said_and_against_whom(
    root: Path, tmp_path: Path
) -> None:
    plan = Task.from_toml(root / "examples/federated_digits.toml").resolved().plan
    assert plan is not None
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        for number in range(plan.rounds):
            ledger.reserve(number)
        stated = certificate(ledger)["adversaries"]
    readme = (root / README).read_text("utf-8")
    of_all, of_who_knows = map(float, re.findall(r"ε = ([\d.]+) against", readme))
    assert [one["name"] for one in stated] == ["readers", "who knows participants", "the server"]
    for one, said in zip(stated, (of_all, of_who_knows, of_all), strict=True):
        assert said == pytest.approx(one["epsilon"], rel=2e-3)


@pytest.mark.parametrize("kind", ["python", "toml"])
def test_what_is_said_to_take_ten_lines_takes_about_ten(kind: str) -> None:
    for block in blocks_of(README, kind):
        lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
        assert len(lines) <= 10, block


def test_every_figure_is_within_a_tenth_of_the_one_that_was_measured(root: Path) -> None:
    table = (root / "benchmarks/README.md").read_text("utf-8")
    named = {
        "secure aggregation among 1,000 clients": "secagg-flower.client",
        "the same: sums opened by the server": "secagg-flower.server",
        "clients trained a second by the bare training loop": "train-A",
        "the same loop, CNN of 1,690,046": "train-B",
        "the same loop, CNN of 49,918": "train-C",
        "clients trained a second by `fed sim run`": "sim-A",
        "the same, beside rounds of Flower's simulation": "sim-A.flower",
        "the same, the CNN of 1,690,046": "sim-B.flower",
        "the same, the CNN of 49,918": "sim-C.flower",
    }
    readme = (root / README).read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| ([\d.,]+) \| ([\d.]+) × (.+?) \|$", readme, re.MULTILINE)
    assert len(rows) == len(named)
    figures = [
        (name, value, ratio, rival)
        for words, value, ratio, rival in rows
        for begin, name in named.items()
        if words.startswith(begin)
    ]
    assert [name for name, *_ in figures] == list(named.values())
    beside = re.search(r"([\d.]+) sessions a second, ([\d.]+) × (Flower)", readme)
    assert beside is not None
    figures.append(("secagg-flower.client-verifying", *beside.groups()))
    for name, value, ratio, rival in figures:
        row = re.search(rf"^\| {name} \|.*$", table, re.MULTILINE)
        assert row is not None
        cells = [cell.strip() for cell in row[0].split("|")]
        assert float(value.replace(",", "")) == pytest.approx(
            float(cells[3].replace(",", "")), rel=0.1
        )
        assert float(ratio) == pytest.approx(float(cells[5]), rel=0.1)
        assert rival.startswith(cells[6].split()[0])


def test_systems_are_named_by_the_versions_that_were_measured(root: Path) -> None:
    measured = set(
        re.findall(r"Flower \d+\.\d+", (root / "benchmarks/README.md").read_text("utf-8"))
    )
    assert set(re.findall(r"Flower \d+\.\d+", (root / README).read_text("utf-8"))) == measured


def test_every_file_and_link_it_names_exists(root: Path) -> None:
    readme = (root / README).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", readme)
    assert len(links) > 10
    assert [name for name in links if not (root / name).exists()] == []


def test_every_extra_it_names_is_one_of_the_project(root: Path) -> None:
    readme = (root / README).read_text("utf-8")
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"].keys()
    listed = readme[readme.index("Extras add to it") :].split("\n\n", 1)[0]
    named = set(re.findall(r"`(\w+)`", listed))
    assert named == extras - {"oracle"}  # of `make test-oracle`, with an index of its own


def test_it_can_be_read_in_minutes(root: Path) -> None:
    assert len((root / README).read_text("utf-8").splitlines()) <= 220
