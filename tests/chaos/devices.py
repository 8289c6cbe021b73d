"""Members of a federation as processes: one each, or many in one where two cores have to do.

What a device says of its progress is the record of what was acknowledged to it.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from fedclient.identity import DeviceIdentity
from fedclient.state import Charge, State
from tests.chaos.programs import FED, Program

__all__ = ["Crowd", "Device", "Uploaded"]

_UPLOADED: Final = re.compile(
    r"^(?:(?P<device>\S+)\t)?(?P<task>\S+) round (?P<round>\d+): uploaded"
    r"(?: \(attempt (?P<attempt>\d+)\))?$",
    re.MULTILINE,
)
_LOST: Final = re.compile(r"^call\t\S+\t(\w+)$", re.MULTILINE)


class Uploaded(NamedTuple):
    """An update whose acknowledgement has reached its device."""

    device: str
    task: str
    round: int
    attempt: int


class Device:
    """A member, whose state lies in `folder`, and its process, if it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self.log = folder.with_name(f"{folder.name}.log")
        self.program: Program | None = None

    @property
    def client_id(self) -> bytes:
        return DeviceIdentity(self.folder / "identity").membership.client_id

    def run(self, *arguments: str, failpoints: str = "") -> Program:
        """`fed client run` with data and policy by `arguments`."""
        self.end()
        command = [FED, "client", "run", "--directory", str(self.folder), "--test-mode", *arguments]
        self.program = Program(command, log=self.log, failpoints=failpoints)
        return self.program

    def end(self) -> None:
        """Kills the process if there is one."""
        if self.program is not None:
            self.program.end()

    def forget_pause(self) -> None:
        """Lets a device that does not run ask for work at once, as if the pause were over."""
        key = DeviceIdentity(self.folder / "identity").device_key
        state = State(self.folder, key=key)
        try:
            if state.assignment is None:
                state.answered()
        finally:
            state.close()

    def uploaded(self) -> list[Uploaded]:
        """What was acknowledged to it, in all its runs."""
        return _uploaded(self.log.with_suffix(".err"), self.name)

    def charges(self) -> list[Charge]:
        """What rounds have cost a device that does not run, the newest first."""
        key = DeviceIdentity(self.folder / "identity").device_key
        state = State(self.folder, key=key)
        try:
            return state.charges(limit=1000)
        finally:
            state.close()


class Crowd:
    """Devices in the threads of one process. `data`: of each, an .npz with x and y.

    `losing`: the seed by which the next processes lose and repeat calls; None for none.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        log: Path,
        dataset: str,
        data: Sequence[Path],
        setup: str = "",
    ) -> None:
        self.devices, self.log = list(devices), log
        self.losing: int | None = None
        self._arguments: dict[str, object] = {
            "dataset": dataset,
            "setup": setup,
            "devices": [
                [str(device.folder), str(path)] for device, path in zip(devices, data, strict=True)
            ],
        }
        self.program: Program | None = None

    def run(self, *, failpoints: str = "") -> Program:
        """Starts the process anew, with all devices asking for work at once."""
        self.end()
        for device in self.devices:
            device.forget_pause()
        return self.resume(failpoints=failpoints)

    def resume(self, *, failpoints: str = "") -> Program:
        """Starts the process as it was left."""
        given = json.dumps({**self._arguments, "losing": self.losing})
        command = [sys.executable, "-m", "tests.chaos.crowd", given]
        self.program = Program(command, log=self.log, failpoints=failpoints)
        return self.program

    def end(self) -> None:
        """Kills the process if there is one."""
        if self.program is not None:
            self.program.end()

    def uploaded(self) -> list[Uploaded]:
        """What was acknowledged to any of them, in all runs."""
        return _uploaded(self.log.with_suffix(".err"), "")

    def lost(self) -> Counter[str]:
        """How many calls of all runs were "unsent", "unanswered" and "repeated"."""
        return Counter(_LOST.findall(self.log.with_suffix(".err").read_text(errors="replace")))


def _uploaded(path: Path, name: str) -> list[Uploaded]:
    if not path.exists():
        return []
    found = Counter(
        Uploaded(
            match["device"] or name,
            match["task"],
            int(match["round"]) - 1,  # people count from 1
            int(match["attempt"] or 1),
        )
        for match in _UPLOADED.finditer(path.read_text(errors="replace"))
    )
    return list(found)
