"""A program of ours as a process: started, watched, killed; its words lie in files.

Nothing here sleeps for a fixed time: whatever is awaited is looked at again and again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

__all__ = ["FED", "Program", "until"]

FED: Final = str(Path(sys.executable).with_name("fed"))
_ROOT: Final = Path(__file__).resolve().parents[2]
_LOOK_S: Final = 0.02
_END_S: Final = 120.0
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

T = TypeVar("T")


def until(
    look: Callable[[], T | None],
    what: str,
    *,
    timeout_s: float = _END_S,
    every_s: float = _LOOK_S,
) -> T:
    """What `look` finds, once it finds something. Raises: AssertionError after a while."""
    end = time.monotonic() + timeout_s
    while True:
        if found := look():
            return found
        assert time.monotonic() < end, f"in {timeout_s:g} s it never came to this: {what}"
        time.sleep(every_s)


class Program:
    """One process. `log`: where standard output (.out) and standard error (.err) are appended to.

    `failpoints`: what it finds in FEDCORE_FAILPOINTS; the command has to ask for the test mode.
    """

    def __init__(self, command: Sequence[str], *, log: Path, failpoints: str = "") -> None:
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        self._begin = self.out.stat().st_size if self.out.exists() else 0
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **_ONE_THREAD, "FEDCORE_FAILPOINTS": failpoints},
            )

    @property
    def said(self) -> str:
        """Standard output of this run."""
        with self.out.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    @property
    def complaints(self) -> str:
        """The end of standard error, for the text of an assertion."""
        return self.err.read_text(errors="replace")[-2000:]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs, and minus the number of the signal that killed it."""
        return self._process.poll()

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def kill(self) -> None:
        """Ends it as a power failure of its machine would, as far as a process can tell."""
        self._process.kill()
        self._process.wait(_END_S)

    def stop(self) -> int:
        """Asks it to end: its exit code. Raises: AssertionError if it has to be killed instead."""
        if self.code is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"it did not end in {_END_S:g} s: {self.complaints}") from None
        assert self.code is not None
        return self.code

    def end(self) -> None:
        """Kills it if it still runs."""
        if self.code is None:
            self.kill()


def environment(**values: str) -> Mapping[str, str]:
    """The environment of a process that is started without `Program`."""
    return {**os.environ, **_ONE_THREAD, **values}
