"""The guide to a first federation is true: its commands run as they stand, one folder a machine.

Names of hosts become localhost, and ports free ones, as the settings in the guide say them.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the guide's server needs the extra 'server'")

_END = "--- the block has ended:"
_FILES = {"a": ("patients.csv",), "b": ("ward-1.csv", "ward-2.csv")}


class Machine:
    """A shell in a folder of its own, which keeps what it started in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._shell = subprocess.Popen(
            ["/bin/bash"],
            cwd=folder,
            env={**os.environ, "PATH": path, "HOME": str(folder), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, block: str) -> str:
        """What a block of commands printed. Fails if one of its lines does."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        lines = "".join(f"{line} || exit_code=$?\n" for line in _lines(block))
        self._shell.stdin.write(f'exit_code=0\n{lines}echo "{_END} $exit_code"\n')
        self._shell.stdin.flush()
        shown = []
        for line in self._shell.stdout:
            shown.append(line)
            if _END in line:
                assert line.endswith(" 0\n"), "".join(shown)
                return "".join(shown)
        raise AssertionError("the shell has ended: " + "".join(shown))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        assert self._shell.stdin is not None and self._shell.stdout is not None
        if self._shell.poll() is None:
            self._shell.stdin.write("kill $(jobs -p) 2>/dev/null; wait; exit\n")
        self._shell.stdin.close()
        self._shell.wait(30)
        self._shell.stdout.close()


def _lines(block: str) -> Iterator[str]:
    """Each command in a line of its own; those in the background cannot fail at once."""
    for line in block.splitlines():
        if line and not line.startswith("#"):
            yield f"{{ {line} }}" if line.endswith("&") else f"{{ {line}; }}"


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


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
    for told, free in zip(("7443", "7444", "7445"), _free_ports(3), strict=True):
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
    assert re.search(r"round 4/5 .*acc ", shown["server"])
    assert "COMPLETED" in shown["server"] and "in one chain" in shown["server"]
    assert shown["a"].count(": completed") >= 5
    assert (tmp_path / "server/model.safetensors").stat().st_size > 40


def test_each_block_of_the_guide_says_where_it_belongs(guide: str) -> None:
    blocks = _blocks(guide)
    assert len(blocks) >= 12
    for kind, block in blocks:
        head = r"# on (server|a|b)\n" if kind == "sh" else r"# [a-z]+\.toml on (server|a, b)\n"
        assert re.match(head, block), block
