"""A machine of a guide: a shell in a folder, whose commands run as they stand on the page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from tests.ports import free_ports

__all__ = ["Machine", "served"]

_END = "--- the block has ended:"


class Machine:
    """A shell in a folder of its own, which keeps what it started in the background.

    `variables`: of its environment, beside those of this process.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._shell = subprocess.Popen(
            ["/bin/bash"],
            cwd=folder,
            env={
                **os.environ,
                **{"PATH": path, "HOME": str(folder), "OPENBLAS_NUM_THREADS": "1"},
                **(variables or {}),
            },
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


def served() -> tuple[dict[str, str], str]:
    """Variables by which a server without settings takes free ports, and that of its services."""
    names = ("PORT", "ENROLMENT_PORT", "OPS_PORT")
    ports = [str(port) for port in free_ports(len(names))]
    settings = zip(names, ports, strict=True)
    return {f"FEDCORE__SERVER__{name}": port for name, port in settings}, ports[0]
