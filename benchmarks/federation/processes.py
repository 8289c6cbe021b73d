"""Processes that are measured from outside: on which cores they run, and what memory they take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FED", "Process", "one_core_each", "resident_bytes", "started"]

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = (_ROOT, *(_ROOT / name for name in ("client", "server", "simulations")))
FED = (sys.executable, "-c", "import sys; from fedcore.cli import main; sys.exit(main())")


class Process:
    """A running program. `address`, `ops`: where it answers, once somebody knows."""

    def __init__(self, popen: subprocess.Popen[bytes], *, log: Path) -> None:
        self._popen, self._log, self.address = popen, log, ""
        self.ops = 0
        self.pid = popen.pid

    def line(self) -> bytes:
        """The next line that it prints. Raises: RuntimeError if it has ended."""
        assert self._popen.stdout is not None
        if not (line := self._popen.stdout.readline()):
            code, words = self._popen.wait(), self._log.read_text("utf-8", "replace")
            raise RuntimeError(f"a process ended with exit code {code}: {words[-2000:]}")
        return line

    def kill(self) -> None:
        """Ends it at once, as the loss of its machine would."""
        self._popen.kill()
        self._popen.wait()

    def tell(self, line: str) -> None:
        """Writes a line to its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{line}\n".encode())
        self._popen.stdin.flush()

    def cpu_s(self) -> float:
        """Processor seconds that all its threads have spent."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(
    command: Sequence[str],
    *,
    folder: Path,
    cores: frozenset[int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """The program, until the block ends; what it complains of goes into `folder`/process.log.

    `cores`: on which all of its threads run. `environment`: variables beside those of this process.
    """
    log = folder / "process.log"
    variables = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # The sources beside this file, whichever are installed; and benchmarks as programs.
        "PYTHONPATH": os.pathsep.join(map(str, _SOURCES)),
        **(environment or {}),
    }
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start compiles every source anew
    pinned = ("taskset", "--cpu-list", ",".join(map(str, sorted(cores)))) if cores else ()
    with log.open("ab") as errors:
        popen = subprocess.Popen(
            [*pinned, *command],
            cwd=folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield Process(popen, log=log)
    finally:
        popen.terminate()
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
        assert popen.stdin is not None and popen.stdout is not None
        popen.stdin.close()
        popen.stdout.close()


def one_core_each() -> tuple[frozenset[int], frozenset[int]]:
    """A core for the server, and one for whoever loads it: the same where there is but one."""
    cores = sorted(os.sched_getaffinity(0))
    return frozenset(cores[:1]), frozenset(cores[1:2] or cores)


def resident_bytes(pid: int, *, most: bool = False) -> int:
    """The memory of a process that is resident now, or `most` of it since it began."""
    key = "VmHWM" if most else "VmRSS"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"the kernel does not tell {key}")
