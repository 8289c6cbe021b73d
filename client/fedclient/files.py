"""Files that are whole or absent after a crash, and secrets that nobody else here reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fedcore.errors import ClientStateError

__all__ = ["make_folder", "read_secret", "sync_folder", "write_file"]

_PRIVATE = stat.S_IRWXG | stat.S_IRWXO


def make_folder(path: Path) -> None:
    """Makes a folder for its owner alone. Raises: ClientStateError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise _failed("made", path, error) from error


def write_file(path: Path, data: bytes, *, mode: int) -> None:
    """Writes a file in one step, over what stood there: durable when it returns.

    Raises: ClientStateError.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _failed("written", path, error) from error


def read_secret(path: Path) -> bytes:
    """The bytes of a secret file. Raises: ClientStateError if it is missing or open to others."""
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise _failed("read", path, error) from error
    if mode & _PRIVATE:
        raise ClientStateError(
            f"{path.name} is open to others",
            why=f"its mode is {stat.S_IMODE(mode):04o}: other users of this device can use it",
            fix=f"chmod 0400 {path.name}, and join again if somebody may have read it",
        )
    return data


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(what: str, path: Path, error: OSError) -> ClientStateError:
    return ClientStateError(
        f"{path.name} cannot be {what}",
        why=f"{error.strerror} ({error.errno})",
        fix="check the folder, its owner and the space on the disk",
    )
