"""Runs a training in child processes, each of which ends at another call of the disk, unwarned.

`python -m tests.privacy.ledger_children FOLDER STEP` prints how many children were killed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedcore.privacy.ledger import Head, verify
from tests.privacy.ledger_world import CALLS, World, run

_KILLED, _DONE = 77, 0


class Notes(World):
    """A world on the disk, written with the calls of the system itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        for line in path.read_text().splitlines() if path.exists() else ():
            kind, *rest = json.loads(line)
            if kind == "draw":
                self.draws[rest[0]] += 1
            elif kind == "publish":
                self.published[rest[0]] = bytes.fromhex(rest[1])
            else:
                self.checkpoint = Head.from_json(rest[0])

    def note(self, *what: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(what) + "\n")


def child(folder: Path, notes: Path, kill_at: int) -> None:
    world, calls = Notes(notes), 0
    drawn, published = world.draws.copy(), dict(world.published)

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                if name == "write":
                    real(args[0], bytes(args[1][: len(args[1]) // 2]))
                os._exit(_KILLED)
            return None if name == "fsync" else real(*args, **kwargs)

        return call

    def point(name: str) -> None:
        for round_, count in (world.draws - drawn).items():
            world.note("draw", round_)
            drawn[round_] += count
        for round_ in world.published.keys() - published.keys():
            world.note("publish", round_, world.published[round_].hex())
            published[round_] = world.published[round_]
        if name == "after the checkpoint" and world.checkpoint:
            world.note("checkpoint", world.checkpoint.to_json())

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    run(folder, world, point=point)
    os._exit(_DONE)


def fork(folder: Path, notes: Path, kill_at: int) -> int:
    if (process := os.fork()) == 0:
        try:
            child(folder, notes, kill_at)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(target: Path, step: int) -> int:
    number, status, killed = 1, _KILLED, 0
    while status == _KILLED:
        folder, notes = target / f"{number}", target / f"{number}.notes"
        status = fork(folder, notes, number)
        assert status in (_KILLED, _DONE), (number, status)
        assert fork(folder, notes, 0) == _DONE, number
        world = Notes(notes)
        assert sorted(world.published) == [0, 1, 2]
        assert verify(folder, checkpoint=world.checkpoint).reservations >= world.draws.total()
        killed += status == _KILLED
        number += step
    return killed


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2])))
