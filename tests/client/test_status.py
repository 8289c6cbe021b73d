"""The owner sees what was spent, what is left and what failed; no text of a server acts on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedclient import Client, Progress, Stage, Summary
from fedclient.commands import main
from fedclient.identity import DeviceIdentity
from fedclient.policy import BudgetRules
from fedclient.privacy_budget import Guarantee
from fedclient.progress import Outcome
from fedclient.state import State
from fedcore import cli
from fedcore.data import Dataset
from fedcore.errors import NotFoundError
from fedcore.federated.task import Task
from tests.client.devices import OPENLY
from tests.client.server import FakeServer
from tests.client.test_state import ASSIGNMENT

HOSTILE = "late\x1b[2J\r\nfed client: all is well\x9b31m\u202e"


@pytest.fixture
def member(serve: Callable[..., FakeServer], open_task: Task, folder: Path) -> FakeServer:
    found = serve(open_task, goal=1)
    Client.join(found.join_string, directory=folder, name="ward-3").close()
    return found


def give(folder: Path, *, task: str, guarantee: Guarantee | None, warning: str = "") -> None:
    key = DeviceIdentity(folder / "identity").device_key
    place = replace(ASSIGNMENT, task_id=task, task_digest=task.encode()[:1] * 32)
    with closing(State(folder, key=key)) as state:
        state.answered(assignment=place, at_ms=1000)
        state.give(place, guarantee=guarantee)
        state.warn(place, warning)
        state.finish(place, Outcome.COMPLETED)


def status(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[Any, str]:
    arguments = ["status", "--directory", str(folder), *options]
    assert main([*arguments, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert main(arguments) == 0
    return data, capsys.readouterr().out


def test_what_each_task_has_spent_is_told_and_what_is_left_by_a_policy(
    member: FakeServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give(folder, task="a", guarantee=Guarantee(1.5, 1e-5))
    give(folder, task="b", guarantee=Guarantee(2.0, 1e-5), warning="failed here: KeyError")
    data, text = status(folder, capsys)
    privacy = data["privacy"]
    assert [(one["task"], one["epsilon"]) for one in privacy["tasks"]] == [("a", 1.5), ("b", 2.0)]
    assert (privacy["epsilon"], privacy["epsilon_left"]) == (3.5, None)
    assert "all tasks: epsilon 3.5, delta 2e-05" in text and "failed here: KeyError" in text
    assert {charge["warning"] for charge in data["charges"]} == {"", "failed here: KeyError"}
    path = tmp_path / "policy.toml"
    path.write_text("[privacy]\ntotal_epsilon = 5.0\n")
    data, text = status(folder, capsys, "--policy", str(path))
    assert (data["privacy"]["epsilon_left"], data["privacy"]["delta_left"]) == (1.5, "inf")
    assert "left for further tasks: epsilon 1.5, delta inf" in text
    give(folder, task="c", guarantee=None)
    data, text = status(folder, capsys, "--policy", str(path))
    assert (data["privacy"]["epsilon"], data["privacy"]["epsilon_left"]) == ("inf", 0.0)
    assert "privacy of c: without bound" in text


def test_a_refusal_is_told_with_the_rule_that_made_it(
    member: FakeServer, folder: Path, flowers: Callable[[int], Dataset], capsys: Any
) -> None:
    policy = replace(OPENLY, budget=BudgetRules(largest_upload=1))
    with Client.open(folder) as device:
        device.run(datasets={"flowers": flowers(0)}, policy=policy, rounds=1)
    data, text = status(folder, capsys)
    [charge] = data["charges"]
    assert charge["outcome"] == "refused" and "largest_upload" in charge["reason"]
    assert f"refused ({charge['reason']}), up 0" in text


def test_no_text_of_a_server_acts_on_the_owners_terminal(
    member: FakeServer,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(folder, task=f"c{HOSTILE}", guarantee=None)
    _, text = status(folder, capsys)
    for stage in Stage:
        text += str(Progress(stage, task=HOSTILE, detail=HOSTILE)) + "\n"

    def ended(client: Client, **options: Any) -> list[Summary]:
        return [Summary(HOSTILE, 1, 1, Outcome.FAILED, warning=HOSTILE)]

    monkeypatch.setattr(Client, "run", ended)
    monkeypatch.setattr("fedclient.commands._stop_on_signals", lambda client: None)
    monkeypatch.setattr("fedclient.commands._bound", lambda options: ({}, {}))
    assert main(["run", "--directory", str(folder)]) == 0
    text += capsys.readouterr().out

    def refuse(method: str, client: bytes) -> None:
        raise NotFoundError(HOSTILE, why=HOSTILE)

    member.before = refuse
    output = str(folder / "model.safetensors")
    assert cli.main(["client", "model", "t1", "--output", output, "-d", str(folder)]) == 1
    assert cli.main(["client", "model", HOSTILE, "--output", output, "-d", str(folder)]) == 1
    text += capsys.readouterr().err
    assert "fed client: all is well" in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert not any(line.startswith("fed client: all is well") for line in text.splitlines())
