"""The guide to a first federation is true: its commands run as they stand, one folder a machine.

Names of hosts become localhost, and ports free ones, as the settings in the guide say them.
"""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.docs.machine import Machine
from tests.ports import free_ports

pytest.importorskip("uvicorn", reason="the guide's server needs the extra 'server'")

_FILES = {"a": ("patients.csv",), "b": ("ward-1.csv", "ward-2.csv")}


def _patients(path: Path, *, seed: int) -> None:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(60, 4))
    ill = features @ (1.0, -2.0, 0.5, 1.0) > 0
    header = "age,pressure,weight,pulse,ill"
    np.savetxt(path, np.c_[features, ill], delimiter=",", header=header, comments="", fmt="%.6g")


def _blocks(guide: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|toml)\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)


@pytest.fixture
def guide(root: Path) -> str:
    text = (root / "docs/first-federation.md").read_text("utf-8")
    text = text.replace("server.example.org", "localhost").replace('"0.0.0.0"', '"127.0.0.1"')
    for told, free in zip(("7443", "7444", "7445"), free_ports(3), strict=True):
        text = text.replace(told, str(free))
    return text


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_command_of_the_guide_runs_on_three_machines(guide: str, tmp_path: Path) -> None:
    shown: dict[str, str] = {"server": "", "a": "", "b": ""}
    with ExitStack() as stack:
        machines = {}
        for name in shown:
            (tmp_path / name).mkdir()
            machines[name] = stack.enter_context(Machine(tmp_path / name))
        for seed, (name, file) in enumerate((n, f) for n, files in _FILES.items() for f in files):
            _patients(tmp_path / name / file, seed=seed)
        for kind, block in _blocks(guide):
            if kind == "toml":
                head = re.match(r"# (\S+) on (.+)\n", block)
                assert head is not None, block
                for name in head[2].split(", "):
                    (tmp_path / name / head[1]).write_text(block, "utf-8")
                continue
            head = re.match(r"# on (\w+)\n", block)
            assert head is not None, block
            shown[head[1]] += machines[head[1]].run(block)
            if (tmp_path / "server/invitation").exists():
                for name in ("a", "b"):
                    shutil.copy(tmp_path / "server/invitation", tmp_path / name)
    assert "nothing was handed in" in shown["server"]
    assert re.search(r"round 5/5 .*acc ", shown["server"])
    assert "COMPLETED" in shown["server"] and "in one chain" in shown["server"]
    assert shown["a"].count(": completed") >= 5
    assert (tmp_path / "server/model.safetensors").stat().st_size > 40


def test_each_block_of_the_guide_says_where_it_belongs(guide: str) -> None:
    blocks = _blocks(guide)
    assert len(blocks) >= 12
    for kind, block in blocks:
        head = r"# on (server|a|b)\n" if kind == "sh" else r"# [a-z]+\.toml on (server|a, b)\n"
        assert re.match(head, block), block
