"""Every example of docs/commands.md runs: against a server, with devices, in an order that can be.

Names that the page only stands for become real ones: of the host, a task, a token, a certificate, a
run. A command that nobody has placed runs after all that make something.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.checkpoint import save_checkpoint
from fedcore.cli import main
from fedcore.federated import Task
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.privacy import Ledger
from tests.conftest import ROOT
from tests.docs.blocks import blocks_of, commands_of, page
from tests.docs.machine import Machine
from tests.ports import free_ports
from tests.private_terms import planned

PAGE = "docs/commands.md"
TASK_ID = "digits-75f314e1ca2c"
CLIENT_ID = "000102030405060708090a0b0c0d0e0f"
DEVICES = ("fed-client", "device-2", "device-3")
SHORTER = {
    "ca init": ("--root-passphrase", "env:ROOT"),
    "sim run": ("--set", "rounds.count=2"),
    "sim sweep": ("--set", "rounds.count=1"),
}
"""What examples get besides: a passphrase, since one of them needs it; a few rounds."""
TASK = """
task = { name = "digits", seed = 1 }
data = { dataset = "digits" }
model = { layers = [{ kind = "linear", inputs = 4, outputs = 2 }] }
algorithm = { name = "fedsgd", lr = 0.2 }
secure_aggregation = { gamma = 0.1, delta = 0.0 }
rounds = { count = 2, max_attempts = 10 }
cohort = { goal = 3, minimum = 3 }
training = { loss = "cross_entropy" }
"""
FIRST = (
    *("ca init", "ca issue", "server doctor", "server start", "server status", "token create"),
    *("client join", "client run", "task submit", "task watch", "audit signer", "sim run"),
)
LAST = ("server drain", "db backup", "db check", "db restore")


def commands() -> list[list[str]]:
    """All of the page, in an order in which each finds what it needs."""

    def place(words: list[str]) -> int:
        name = " ".join(words[1:3])
        return FIRST.index(name) if name in FIRST else len(FIRST) + (name in LAST)

    found = [words for block in blocks_of(PAGE, "console") for words in commands_of(block)]
    return sorted(found, key=place)


class World:
    """A folder in which every name of the page's is one, and a server that it tells of."""

    def __init__(self, folder: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.machine, self._capsys = folder, machine, capsys
        ports = free_ports(3)
        self.address = f"localhost:{ports[0]}"
        listening = "port = {}\nenrolment_port = {}\nops_port = {}\n".format(*ports)
        (folder / "server.toml").write_text(f"[server]\n{listening}[limits]\ndisk_free = 0.0\n")
        (folder / "digits.toml").write_text(TASK)
        (folder / "policy.toml").write_text("[secure_aggregation]\nsmallest_cohort = 3\n")
        draw = np.random.default_rng(0)
        x = draw.normal(size=(40, 4)).astype(np.float32)
        np.savez(folder / "digits.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
        task = Task.from_toml(TASK).resolved()
        arrays = FlatModel(task).model(initial_theta(task)).state_dict()
        for name in ("first", "before", "after"):
            save_checkpoint(folder / f"{name}.safetensors", arrays)
        with Ledger.create(folder / "ledger", planned()):
            pass
        for name in ("simulations/scenarios", "examples/tasks"):
            shutil.copytree(ROOT / name, folder / name)
        self.known: dict[str, str] = {"--host\0fl.example.org": "--host\0localhost"}
        self.known |= {"fl.example.org:7443": self.address, "--profile\0operator": "--profile\0ops"}

    def data(self, *words: str) -> Any:
        """The data of a command that the page has not, or not so."""
        return json.loads(self.ran([*words, "--format", "json"]))["data"]

    def ran(self, words: list[str]) -> str:
        self._capsys.readouterr()
        code = main(words)
        said = self._capsys.readouterr()
        assert code == 0, (words, said.err)
        return said.out

    def issue(self, name: str, role: str) -> None:
        user = ["--name", name, "--role", role, "--address", self.address]
        self.ran(["ca", "issue", *user, "--output", name])

    def learn_runs(self) -> None:
        """The folders of runs by the names that the page has for them."""
        told = re.findall(r"runs/([a-z-]+)-[0-9a-f]{8}-1", page(PAGE))
        for scenario in dict.fromkeys(told):
            for run in Path("runs").glob(f"{scenario}-????????-1"):
                name = re.search(rf"{scenario}-[0-9a-f]{{8}}-1", page(PAGE))
                assert name is not None
                self.known[name[0]] = run.name

    def words_of(self, words: list[str]) -> list[str]:
        """The words with real names in the place of those that only stand for some."""
        line = "\0".join(words)
        for told, real in self.known.items():
            line = line.replace(told, real)
        return line.split("\0")


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDCORE_PROFILE", str(tmp_path / "admin"))
    monkeypatch.setenv("ROOT", "a passphrase of the root key")
    with Machine(tmp_path) as machine:
        yield World(tmp_path, machine, capsys)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_runs_in_the_order_in_which_they_stand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="the server needs the extra 'server'")
    pytest.importorskip("sklearn", reason="scenarios read the digits of the extra 'demo'")
    ran = commands()
    assert len(ran) >= 50
    for words in ran:
        assert words[0] == "fed"
        name = " ".join(words[1:3])
        simulated = words[1] == "sim"
        monkeypatch.chdir(world.folder / "simulations/scenarios" if simulated else world.folder)
        own = before(world, name)
        line = world.words_of([own.get(word, word) for word in words[1:]])
        if name == "server start":
            world.machine.run(f"fed {shlex.join(line)} > server.log 2>&1 &\necho $! > server.pid")
            world.machine.run("fed server status --config server.toml --wait 60s")
        elif name == "client join":
            for folder in DEVICES:
                world.machine.run(f"fed {shlex.join(line)} --directory {folder} < invitation")
        elif name == "client run":
            for folder in DEVICES:
                command = f"fed {shlex.join(line)} --directory {folder}"
                world.machine.run(f"{command} > {folder}.log 2>&1 &")
        else:
            shorter = () if "--resume" in line else SHORTER.get(name, ())
            after(world, line, world.ran([*line, *shorter]))


def before(world: World, name: str) -> dict[str, str]:
    """Makes what a command needs that the page has not made; names that are only this one's."""
    if name == "ca issue":
        world.issue("admin", "admin")
        world.issue("ops", "operator")
    elif name == "client join":
        joined = world.data("token", "create", "--uses", str(len(DEVICES)))
        (world.folder / "invitation").write_text(joined["join_string"] + "\n")
    elif name == "task cancel":
        another = TASK.replace('name = "digits", seed', 'name = "another", seed')
        (world.folder / "another.toml").write_text(another.replace("count = 2", "count = 500"))
        return {TASK_ID: world.data("task", "submit", "another.toml")["task_id"]}
    elif name == "token revoke":
        return {CLIENT_ID: world.data("token", "clients")[0]["client_id"]}
    elif name == "ca revoke":
        return {"5f0c…": world.data("ca", "list")[0]["fingerprint"]}
    elif name == "sim compare":
        world.ran(["sim", "run", "digits-private.toml", *SHORTER["sim run"]])
        world.learn_runs()
    elif name == "db restore":
        world.machine.run("kill $(cat server.pid); wait $(cat server.pid)")
    return {}


def after(world: World, line: list[str], shown: str) -> None:
    """What later commands are told of this one."""
    if line[:2] == ["task", "submit"] and "--model" in line:
        (found,) = re.findall(r"digits-[0-9a-f]{12}", shown)
        world.known[TASK_ID] = found
    elif line[:2] == ["sim", "run"]:
        world.learn_runs()
    elif line[:2] == ["audit", "signer"]:
        world.known["$(cat signer.txt)"] = re.findall(r"[0-9a-f]{64}", shown)[0]
