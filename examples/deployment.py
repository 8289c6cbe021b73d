"""A federation's processes on one machine: a server and its clients, each with a folder and a log.

Everything is started by the commands that an operator types. Leaving the context ends all of it,
whatever happened.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Deployment", "PartFailed", "PartLate"]

_FED = (sys.executable, "-c", "import sys; from fedcore.cli import main; sys.exit(main())")
_LATE = 3  # the exit code of a command whose server did not answer in time
# Fourteen clients share few processors: one thread each.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
_SETTINGS = """\
[server]
port = 0 # the system chooses
enrolment_port = 0
ops_port = 0
hosts = ["localhost"]
state_directory = "state"
notice_s = 0

[authority]
directory = "authority"

[limits]
calls_per_second = 50 # a round of this demo takes a second
calls_at_once = 100
disk_free = 0.0 # a demo needs little
"""


class PartFailed(RuntimeError):
    """A process has ended that should not; the message says which log to read."""


class PartLate(PartFailed):
    """A command had no answer in time: the machine has too much to do."""


class Deployment:
    """The processes, in `folder`: server.toml, authority, state, profile, logs and writers.

    `show`: told each command before it is run. Use it as a context manager.
    """

    def __init__(self, folder: Path, *, show: Any = print) -> None:
        self.folder, self._show = folder, show
        self.profile, self.logs = folder / "profile", folder / "logs"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._stop)
            self.logs.mkdir(parents=True)
            (self.folder / "server.toml").write_text(_SETTINGS, "utf-8")
            domain, host = ("--trust-domain", "demo.example"), ("--host", "localhost")
            self.fed("ca", "init", *domain, *host, "--directory", "authority")
            self._start_server()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def fed(self, *arguments: str) -> Any:
        """The data of one `fed` command, run to its end.

        Raises: PartFailed with what it said; PartLate if the server did not answer in time.
        """
        self._show(f"$ fed {shlex.join(arguments)}")
        found = subprocess.run(
            [*_FED, *arguments, "--format", "json"],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        if found.returncode:
            said = f"fed {arguments[0]} {arguments[1]} failed\n{found.stderr.strip()}"
            if found.returncode == _LATE:
                raise PartLate(f"{said}\nThis machine is too busy: run the demo again later.")
            raise PartFailed(said)
        if found.stderr:
            self._show(textwrap.indent(found.stderr.rstrip(), "  "))
        return json.loads(found.stdout)["data"]

    def start_writer(self, name: str, *, join_string: str = "") -> None:
        """Starts a client's process in its folder; with a join string, for the first time."""
        program = Path(__file__).with_name("writer.py")
        self._start(name, [sys.executable, str(program), f"writers/{name}"], text=join_string)

    def kill(self, name: str) -> None:
        """SIGKILL: what was not yet on the disk is lost."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def check(self) -> None:
        """Raises: PartFailed if a process has ended by itself."""
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                raise PartFailed(f"{name} ended with exit code {code}: see {self._log(name)}")

    def _start_server(self) -> None:
        command = ("server", "start", "--config", "server.toml")
        self._show(f"$ fed {shlex.join(command)} &")
        process = self._start("server", [*_FED, *command, "--format", "jsonl"])
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise PartFailed(f"the server did not start: see {self._log('server')}")
        address = json.loads(line)["data"]["service"]
        user, place = ("--name", "ada", "--role", "admin"), ("--directory", "authority")
        self.fed("ca", "issue", *user, "--address", address, *place, "--output", "profile")

    def _start(self, name: str, command: list[str], *, text: str = "") -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
            # A session of its own: Ctrl-C reaches this program alone, which ends the others.
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if name == "server" else log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[name] = process
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(f"{text}\n".encode())
        return process

    def _stop(self) -> None:
        """Ends the clients, then the server, which closes its database in good order."""
        names = sorted(self._processes, key=lambda name: name == "server")
        try:
            for name in names:
                self._processes[name].terminate()
            for name in names:
                self._processes[name].wait(20)
        except subprocess.TimeoutExpired:
            self._show(f"{name} did not end in time, and was killed: see {self._log(name)}")
        finally:  # also where Ctrl-C comes a second time
            for process in self._processes.values():
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
            self._processes.clear()

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, **_ENVIRONMENT, "FEDCORE_PROFILE": str(self.profile.resolve())}
