"""A disk whose power can be cut at any step; what was not synced is lost, as on the worst disk."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from fedserver.disk import FilePath, FsOps


class PowerCut(Exception):
    """The power is off: this step, and every later one, does not happen."""


class Loss(Enum):
    """What a cut leaves behind of that which was not synced."""

    ALL = auto()  # no byte and no name
    BYTES = auto()  # names and lengths are there, the bytes are zeros
    ORDER = auto()  # the same, but the last write of each file is there
    NOTHING = auto()  # as when only the process is killed


class LossyDisk(FsOps):
    """Works on the real folder `root`, and knows what of it would survive a cut.

    `cut_at`: the step, counted from 1, that does not happen any more; 0 for none.
    """

    def __init__(self, root: Path, *, cut_at: int = 0) -> None:
        self.root, self.steps, self._cut_at = root, 0, cut_at
        self._synced: dict[int, bytes] = {}  # by inode
        self._last: dict[int, tuple[int, bytes]] = {}  # by inode: what was written last, and where
        self._names: dict[Path, int] = {}
        self._folders: set[Path] = set()
        for path in sorted(root.rglob("*")) if root.exists() else ():
            if path.is_dir():
                self._folders.add(path)
            else:
                self._names[path] = path.stat().st_ino
                self._synced[path.stat().st_ino] = path.read_bytes()

    def keeps(self, path: Path) -> bool:
        """Whether that file would be there by its name after a cut now, whatever the loss."""
        return path in self._names and path.parent in self._folders | {self.root}

    def left_over(self, loss: Loss, target: Path) -> Path:
        """A new folder `target` with what is there when the power comes back."""
        if loss is Loss.NOTHING:
            shutil.copytree(self.root, target)
            return target
        target.mkdir(parents=True)
        names = dict(self._names)
        folders = set(self._folders)
        if loss is not Loss.ALL:
            paths = list(self.root.rglob("*"))
            names = {path: path.stat().st_ino for path in paths if path.is_file()}
            folders = {path for path in paths if path.is_dir()}
        for folder in sorted(folders):
            if folder.parent == self.root or folder.parent in folders:
                (target / folder.relative_to(self.root)).mkdir()
        for path, inode in names.items():
            kept = target / path.relative_to(self.root)
            if kept.parent.exists():
                data = self._synced.get(inode, b"")
                if loss is not Loss.ALL:
                    data = data[: path.stat().st_size].ljust(path.stat().st_size, b"\0")
                if loss is Loss.ORDER:
                    offset, last = self._last.get(inode, (0, b""))
                    data = data[:offset] + last + data[offset + len(last) :]
                kept.write_bytes(data)
        return target

    def create(self, path: FilePath) -> int:
        self._step()
        file = super().create(path)
        self._synced[os.fstat(file).st_ino] = b""
        self._last.pop(os.fstat(file).st_ino, None)
        return file

    def pwrite(self, file: int, data: bytes | memoryview, offset: int) -> None:
        self._step()
        super().pwrite(file, data, offset)
        self._last[os.fstat(file).st_ino] = (offset, bytes(data))

    def truncate(self, file: int, size: int) -> None:
        self._step()
        super().truncate(file, size)

    def fsync(self, file: int) -> None:
        self._step()
        status = os.fstat(file)
        self._synced[status.st_ino] = os.pread(file, status.st_size, 0)
        self._last.pop(status.st_ino, None)

    def rename(self, source: FilePath, target: FilePath) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: FilePath) -> None:
        self._step()
        super().unlink(path)

    def fsync_folder(self, path: FilePath) -> None:
        self._step()
        folder = Path(path)
        inside = list(folder.iterdir())
        self._folders |= {entry for entry in inside if entry.is_dir()}
        others = {name: inode for name, inode in self._names.items() if name.parent != folder}
        self._names = others | {e: e.stat().st_ino for e in inside if e.is_file()}

    def _step(self) -> None:
        self.steps += 1
        if self._cut_at and self.steps >= self._cut_at:
            raise PowerCut


async def every_cut(
    folder: Path,
    story: Callable[[LossyDisk], Awaitable[None]],
    *,
    kind: type[LossyDisk] = LossyDisk,
    start: Path | None = None,
) -> AsyncIterator[tuple[LossyDisk, Loss, Path]]:
    """Tell `story` again and again, cut one step later each time, until it comes to its end.

    (disk, loss, what is left over) for each cut and each kind of loss, that of the end included.
    `start`: a folder whose content lies on the disk at first.
    """
    for cut_at in itertools.count(1):
        root = folder / str(cut_at) / "disk"
        if start is None:
            root.mkdir(parents=True)
        else:
            shutil.copytree(start, root)
        disk = kind(root, cut_at=cut_at)
        ended = False
        with suppress(PowerCut):
            await story(disk)
            ended = True
        for loss in Loss:
            yield disk, loss, disk.left_over(loss, folder / str(cut_at) / loss.name)
        if ended:
            break
