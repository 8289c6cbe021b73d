"""A file that only grows: one writer, each line durable before the call that adds it returns.

What may be lost with the power is the line being written, and nothing was done yet on its account.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from fedcore.errors import LedgerBusyError, LedgerError
from fedcore.privacy.forks import this_process
from fedcore.privacy.ledger_records import Chain, Head, read_blocks

__all__ = ["LedgerFile", "payload_digest", "payload_path", "read_file", "stored_payloads"]

_NAME = "privacy.ledger"
_MODE = 0o600
# A pipe in a file's place makes nobody wait.
_FLAGS = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_BLOCK = 2**20


class LedgerFile:
    """The open file of a ledger, locked for this process.

    After an error of the disk every call is refused: what reached it is known only by reading it
    again. Raises: LedgerError; LedgerBusyError while another one is open.
    """

    def __init__(self, folder: Path, descriptor: int, chain: Chain) -> None:
        self._folder, self._path, self._descriptor = folder, folder / _NAME, descriptor
        self._size, self._head = chain.end, chain.head
        self._owner = this_process()
        self._usable, self._in_use, self._closed = True, False, False

    @classmethod
    def create(cls, folder: Path) -> LedgerFile:
        """A new and empty file, in a folder that is made if need be, with those above it.

        One without a whole record is left by a creation that was interrupted, and taken over.
        """
        if stored_payloads(folder):
            raise LedgerError(
                f"{folder} holds released payloads and is to get a new ledger",
                why="what was spent on them would be forgotten",
                fix="open the ledger that released them, or create one in an empty folder",
            )
        with _disk("create a ledger", folder):
            _make_folder(folder)
            descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | _FLAGS, _MODE)
        file, chain = cls._locked(folder, descriptor)
        if chain.records:
            file.close()
            raise LedgerError(
                f"{folder} already holds a ledger",
                why="a second one would forget what the first has spent",
                fix="open it, and migrate it to a changed plan",
            )
        return file

    @classmethod
    def open(cls, folder: Path) -> tuple[LedgerFile, Chain]:
        """The file that is there, without a torn last line, and its records."""
        with _disk("open a ledger", folder):
            descriptor = os.open(folder / _NAME, os.O_RDWR | _FLAGS)
        return cls._locked(folder, descriptor)

    @classmethod
    def _locked(cls, folder: Path, descriptor: int) -> tuple[LedgerFile, Chain]:
        try:
            with _disk("recover a ledger", folder):
                _lock(descriptor, folder)
                chain = _settled(descriptor)
                _sync_folder(folder)
            return cls(folder, descriptor, chain), chain
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def head(self) -> Head | None:
        """The last record; None where there is none."""
        return self._head

    @property
    def _next(self) -> int:
        return 0 if self._head is None else self._head.seq + 1

    def require_usable(self) -> None:
        """Raises: LedgerError after a failure, when closed, and in a forked child."""
        if not self.mine:
            raise LedgerError(
                "a forked process uses the ledger of its parent",
                why="both would spend the same reservation",
                fix="let the process that opened the ledger reserve and release",
            )
        if not self._usable:
            raise LedgerError(
                "the ledger is closed, or a write to it has failed",
                why="what is on the disk is known only by reading it again",
                fix="open the ledger again; what was reserved and not released is spent",
            )

    def fail(self) -> None:
        """Refuse every further call."""
        self._usable = False

    def append(self, line: bytes, head: Head) -> None:
        """Add the line that makes `head`; when this returns, it is durable."""
        with self._writing("write to the ledger"):
            self._require_untouched()
            _write(self._descriptor, line)
            os.fsync(self._descriptor)
        self._head, self._size = head, self._size + len(line)

    def store(self, payload: bytes) -> None:
        """Keep the payload that the next record releases; when this returns, it is durable."""
        with self._writing("store a payload"):
            self._require_untouched()  # for the payload goes where the folder's name leads
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
            descriptor = os.open(payload_path(self._folder, self._next), flags, _MODE)
            try:
                _write(descriptor, payload)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _sync_folder(self._folder)

    def discard_unreleased(self) -> None:
        """Take away the payload of a process that died before its record: nobody has seen it."""
        with self._writing("take away a payload"), suppress(FileNotFoundError):
            os.unlink(payload_path(self._folder, self._next))

    @property
    def mine(self) -> bool:
        """Whether this process opened it."""
        return this_process() == self._owner

    def close(self) -> None:
        """Let others open the ledger; a forked child only lets go of its copy.

        Called while it writes, as by a signal's handler, it closes once the write is over.
        """
        self._closed, self._usable = True, False
        if not self._in_use:
            self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                if self.mine:
                    # For a forked child may still hold the descriptor, and with it the lock.
                    with suppress(OSError):  # whose lock goes with the last descriptor
                        _locks().flock(descriptor, _locks().LOCK_UN)
            finally:
                os.close(descriptor)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Whatever stops a write half-way, an interrupt included, is the end of this object."""
        self.require_usable()
        self._usable, self._in_use = False, True
        try:
            with _disk(what, self._folder):
                yield
            self._usable = not self._closed
        finally:
            self._in_use = False
            if self._closed:
                self._let_go()

    def _require_untouched(self) -> None:
        """That the file is where it was, and as long: others may ignore the lock."""
        here, there = os.fstat(self._descriptor), os.stat(self._path)
        if (here.st_dev, here.st_ino, here.st_size) != (there.st_dev, there.st_ino, self._size):
            raise LedgerError(
                "the ledger was changed, moved or replaced while it was open",
                why="one process alone may write to it",
                fix="find out what touched the file; open the ledger again",
            )


def read_file(folder: Path) -> Chain:
    """The records of a ledger that may be open elsewhere; without a lock, and for reading only."""
    with _disk("read a ledger", folder):
        descriptor = os.open(folder / _NAME, os.O_RDONLY | _FLAGS)
        try:
            _require_file(descriptor, folder)
            return read_blocks(_blocks(descriptor))
        finally:
            os.close(descriptor)


def payload_digest(folder: Path, seq: int) -> str | None:
    """The SHA-256 of the payload that record `seq` releases; None where there is no such file.

    Raises: OSError.
    """
    try:
        descriptor = os.open(payload_path(folder, seq), os.O_RDONLY | _FLAGS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EMLINK):  # gone, or a link
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        digest = hashlib.sha256()
        for block in _blocks(descriptor):
            digest.update(block)
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def payload_path(folder: Path, seq: int) -> Path:
    """Where the payload lies that record `seq` releases."""
    return folder / f"release-{seq:08d}.bin"


def stored_payloads(folder: Path) -> frozenset[int]:
    """The records for which a payload lies in the folder, released or not."""
    if not folder.is_dir():
        return frozenset()
    names = (path.name[8:-4] for path in folder.glob("release-*.bin"))
    return frozenset(int(name) for name in names if name.isdecimal())


def _settled(descriptor: int) -> Chain:
    """Cuts off a torn line, and makes sure that the last whole one is on the disk.

    It may be in memory alone: its process may have died before the fsync, or the fsync may have
    failed, after which Linux takes the page for written. So it is written again, in place.
    """
    chain = read_blocks(_blocks(descriptor))
    last = os.pread(descriptor, chain.end - chain.tail, chain.tail)
    last += b"\n" if chain.unended else b""
    os.ftruncate(descriptor, chain.end)
    _write_at(descriptor, last, chain.tail)
    os.fsync(descriptor)
    locks = _locks()
    locks.fcntl(descriptor, locks.F_SETFL, locks.fcntl(descriptor, locks.F_GETFL) | os.O_APPEND)
    return replace(chain, end=chain.tail + len(last), unended=False, torn=False)


def _lock(descriptor: int, folder: Path) -> None:
    """The lock belongs to the open file, so a second opener of the same process is refused too."""
    _require_file(descriptor, folder)
    locks = _locks()
    try:
        locks.flock(descriptor, locks.LOCK_EX | locks.LOCK_NB)
    except BlockingIOError:
        raise LedgerBusyError(
            f"the ledger in {folder} is open elsewhere",
            why="two writers could spend one budget twice",
            fix="close the other one, or wait for its process to end; verify() needs no lock",
        ) from None


def _require_file(descriptor: int, folder: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise LedgerError(
            f"{_NAME} in {folder} is not a regular file",
            why="nothing else keeps what is written to it",
            fix="pass the folder that Ledger.create() made",
        )


def _locks() -> ModuleType:
    try:
        import fcntl
    except ImportError:
        raise LedgerError(
            "this system has no file locks that the ledger can use",
            why="two processes could spend one budget",
            fix="keep the ledger on a POSIX system",
        ) from None
    return fcntl


def _blocks(descriptor: int) -> Iterator[bytes]:
    at = 0
    while block := os.pread(descriptor, _BLOCK, at):
        yield block
        at += len(block)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _make_folder(folder: Path) -> None:
    """Makes what is missing of the folder and those above it; each name is durable before the next.

    Who made the one that is there may have stopped before that, but in a folder that it could read.
    """
    there, missing = folder, []
    while not there.is_dir():
        missing.append(there)
        there = there.parent
    with suppress(PermissionError):
        _sync_folder(there.parent)
    for path in reversed(missing):
        path.mkdir(mode=0o700)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise LedgerError(
            f"cannot {what}: there is none in {folder}",
            why=str(error.strerror),
            fix="pass the folder that Ledger.create() made",
        ) from error
    except OSError as error:
        if folder.is_file():
            raise LedgerError(
                f"cannot {what}: {folder} is a file",
                why="a ledger is a folder, of its records and of what they release",
                fix=f"pass a folder: {folder.parent}"
                if folder.name == _NAME
                else "pass the folder that Ledger.create() made",
            ) from error
        raise LedgerError(
            f"cannot {what}",
            why=f"{error.strerror or type(error).__name__}; what was written so far stays charged",
            fix="make room or repair the disk, then open the ledger again",
        ) from error
