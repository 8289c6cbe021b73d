"""A disk for SQLite on which only synced bytes survive, and a replay of what the writer executed.

The store's own connection cannot be given a VFS from Python; what it executes can be recorded, and
executed again by apsw on the lossy disk. Whoever cuts the power at every sync has seen every state
in which a power cut can leave the files.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

_numbers = itertools.count()


class PowerCut(Exception):
    """The power is off."""


class LossyVfs(apsw.VFS):
    """Remembers what each file held when it was synced last. `cut_at`: the sync that never ends.

    `before_sync`: what is called before each of them.
    """

    def __init__(self, cut_at: int, *, before_sync: Callable[[], None] = lambda: None) -> None:
        self.name = f"lossy-{next(_numbers)}"
        super().__init__(self.name, "")
        self.cut_at, self.syncs, self.was_cut = cut_at, 0, False
        self.synced: dict[str, bytes] = {}
        self.before_sync = before_sync

    def xOpen(self, name, flags):  # type: ignore[no-untyped-def]
        return _LossyFile(self, name, flags)

    def image(self, folder: Path) -> None:
        """Writes what a machine finds that is started again: what was never synced is not there."""
        folder.mkdir()
        for name, data in self.synced.items():
            (folder / Path(name).name).write_bytes(data)


class _LossyFile(apsw.VFSFile):
    def __init__(self, vfs: LossyVfs, name, flags) -> None:  # type: ignore[no-untyped-def]
        super().__init__("", name, flags)
        self._vfs = vfs
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xSync(self, flags) -> None:  # type: ignore[no-untyped-def]
        self._vfs.before_sync()
        self._vfs.syncs += 1
        if self._vfs.syncs >= self._vfs.cut_at:
            self._vfs.was_cut = True
            raise PowerCut
        super().xSync(flags)
        self._vfs.synced[self._path] = Path(self._path).read_bytes()


def replay(
    statements: Sequence[str], database: Path, *, cut_at: int, synchronous: str = "FULL"
) -> tuple[LossyVfs, int]:
    """Executes statements until the power is cut; gives the disk, and how many commits returned."""
    vfs, commits, connection = LossyVfs(cut_at), 0, None
    vfs.synced[str(database)] = database.read_bytes()
    try:
        connection = apsw.Connection(str(database), vfs=vfs.name)
        for statement in statements:
            if statement.startswith("PRAGMA synchronous"):
                statement = f"PRAGMA synchronous={synchronous}"
            connection.execute(statement).fetchall()
            commits += statement == "COMMIT"
    except PowerCut:
        pass
    finally:
        if connection is not None:
            was_cut, vfs.cut_at = vfs.was_cut, 0  # closing syncs nothing any more
            with contextlib.suppress(PowerCut, apsw.Error):
                connection.close()
            vfs.was_cut = was_cut
    return vfs, commits
