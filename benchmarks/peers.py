"""Peers are other systems on the same task: each a script run by the Python that has the system.

A peer's script prints `RESULT {json}`; the folder of scripts and the folder of virtual environments
are given on the command line, and either may be missing.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Run
from fedcore.errors import InstallError

__all__ = ["DEFAULT_SCRIPTS", "DEFAULT_VENVS", "PeerCommand", "Peers"]

DEFAULT_SCRIPTS = Path(__file__).resolve().parents[2] / "shared" / "peers"
DEFAULT_VENVS = Path("~/.cache/fedcore-peers/venvs")

_TIMEOUT_S = 600.0
_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class PeerCommand:
    """How one peer is run at its best settings: environment, script, arguments."""

    name: str
    venv: str
    script: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Peers:
    """The peers at hand: the folder of their scripts, and the folder of their environments."""

    scripts: Path
    venvs: Path

    def run(self, command: PeerCommand) -> dict[str, Any]:
        """Runs the peer in a process of its own and returns the object of its RESULT line.

        Raises: InstallError if its script or environment is missing, or if it gave no result.
        """
        script = self.scripts / command.script
        python = self.venvs.expanduser() / command.venv / "bin" / "python"
        if not script.is_file():
            raise InstallError(
                f"peer {command.name} is not installed",
                why=f"there is no script {script}",
                fix="name the folder of the peers' scripts with --peers",
            )
        if not python.exists():
            raise InstallError(
                f"peer {command.name} is not installed",
                why=f"there is no interpreter {python}",
                fix=f"bash {self.scripts / 'setup_venvs.sh'} {command.venv}, or --venvs",
            )
        # A limit on our threads is not theirs: each script sets its own.
        environment = {k: v for k, v in os.environ.items() if k not in _THREAD_LIMITS}
        environment |= {"PYTHONPATH": str(self.scripts), "PYTHONDONTWRITEBYTECODE": "1"}
        arguments = [str(python), "-W", "ignore", str(script), *command.arguments]
        try:
            ended = subprocess.run(
                arguments, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as late:
            raise _failed(command, f"it gave no result in {_TIMEOUT_S:g} s") from late
        for line in reversed(ended.stdout.splitlines()):
            if line.startswith("RESULT "):
                result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                return result
        last = (ended.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise _failed(command, f"exit status {ended.returncode}: {last}")

    def rivals(self, commands: Iterable[PeerCommand], quantity: str) -> dict[str, Run]:
        """A run of each peer by its name, as `measure.compare` takes them.

        `quantity`: the key of the number in the peer's result, as in `clients_per_s`.
        """

        def run_of(command: PeerCommand) -> Run:
            return lambda: float(self.run(command)[quantity])

        return {command.name: run_of(command) for command in commands}


def _failed(command: PeerCommand, why: str) -> InstallError:
    return InstallError(
        f"peer {command.name} did not run to its end",
        why=why,
        fix=f"run {command.script} {' '.join(command.arguments)} in the environment {command.venv}",
    )
