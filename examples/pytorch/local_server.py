"""A federation's server on this machine, by the commands that an operator types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Server", "running_server"]

_FED = (sys.executable, "-c", "import sys; from fedcore.cli import main; sys.exit(main())")
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
calls_per_second = 50 # a round of this example takes a second
calls_at_once = 100
disk_free = 0.0
"""


class Server:
    """The server in `folder`, whose administrator we are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fed(self, *words: str) -> Any:
        """The data that a `fed` command gives. Raises: RuntimeError if it fails."""
        return json.loads(self._run([*words, "--format", "json"], stdout=subprocess.PIPE))["data"]

    def watch(self, task_id: str) -> None:
        """Shows a line a round, until the task is over. Raises: RuntimeError if it failed."""
        self._run(["task", "watch", task_id], stdout=None)

    def _run(self, words: list[str], *, stdout: int | None) -> str:
        environment = {**os.environ, "FEDCORE_PROFILE": str(self.folder.resolve() / "ada")}
        command = [*_FED, *words]
        found = subprocess.run(
            command, cwd=self.folder, env=environment, stdout=stdout, stderr=sys.stderr, text=True
        )
        if found.returncode:
            raise RuntimeError(f"fed {words[0]} {words[1]} ended with {found.returncode}")
        return found.stdout or ""


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """A server with a certificate authority of its own, until the context is left."""
    folder.mkdir(parents=True)
    (folder / "server.toml").write_text(_SETTINGS, "utf-8")
    server = Server(folder)
    host, place = ("--host", "localhost"), ("--directory", "authority")
    server.fed("ca", "init", "--trust-domain", "mine.example", *host, *place)
    command = [*_FED, "server", "start", "--config", "server.toml", "--format", "jsonl"]
    with (
        (folder / "server.log").open("wb") as log,
        # A session of its own: Ctrl-C ends this program, which ends the server in good order.
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start: see {log.name}")
            address = json.loads(line)["data"]["service"]
            who = ("--name", "ada", "--role", "admin", "--address", address)
            server.fed("ca", "issue", *who, *place, "--output", "ada")
            yield server
        finally:
            process.terminate()
