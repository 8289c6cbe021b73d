"""A secret lives in a file of its own that nobody else can read, written whole or not at all.

Key files are text: lines of 64 hexadecimal digits, one key of 32 bytes each. Where a list of keys
makes sense the first is the one in use, and the others still open what they once sealed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fedcore.entropy import Entropy, SystemEntropy
from fedcore.errors import KeyFileError
from fedserver.disk import MAKE_ROOM, lacks_room

__all__ = [
    "AUDIT_SIGNER",
    "DATASTORE_KEYS",
    "KEY_BYTES",
    "PARTICIPATION_KEY",
    "REGISTRAR_KEY",
    "check_directory",
    "create_key",
    "keep_first_key",
    "load_key",
    "load_keys",
    "locked",
    "prepend_key",
    "private_directory",
    "read_secret",
    "secret_from",
    "write_public",
    "write_secret",
]

KEY_BYTES: Final = 32

# The names under which `fed ca init` leaves them and the server looks for them.
AUDIT_SIGNER: Final = "audit-signer.key"  # Ed25519, signs the heads of the audit log
DATASTORE_KEYS: Final = "datastore.keys"  # AES-256-GCM, seals what the database must not show
PARTICIPATION_KEY: Final = "participation.key"  # hashes and seals names in the privacy ledger
REGISTRAR_KEY: Final = "registrar.key"  # Ed25519, says which identity key is whose

_LARGEST: Final = 64 * 1024
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_KEY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

# An access control list as Linux keeps it, posix_acl_xattr(5): a version, then entries.
_ACL: Final = "system.posix_acl_access"
_ACL_VERSION_BYTES: Final = 4
_ACL_ENTRY: Final = struct.Struct("<HHI")  # whom it is for, what they may do, and their number
_ACL_OWNER, _ACL_USER, _ACL_MASK = 0x01, 0x02, 0x10


def private_directory(path: Path) -> Path:
    """The directory, made with mode 0700, as are all above it that were not there, each durably.

    Raises: KeyFileError if others can look into it.
    """
    with _explained(path, "made"):
        # `parents=True` would make those above it by the umask: a state directory open to others.
        for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(missing.parent)  # else a power cut takes all that is synced inside
        path.mkdir(mode=0o700, exist_ok=True)
    return check_directory(path)


def check_directory(path: Path) -> Path:
    """A directory that is private, or can be made so: nothing is made here.

    Raises: KeyFileError.
    """
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise _cannot(path, "made", NotADirectoryError(errno.ENOTDIR, f"{nearest} is a file"))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _cannot(path, "made", PermissionError(errno.EACCES, f"{nearest} is not writable"))
    if path.exists() and (mode := path.stat().st_mode) & 0o077:
        raise _open_to_others(path, mode)
    return path


def write_secret(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Writes a file of mode 0400 that is durable and whole when it has its name.

    Raises: KeyFileError where a file is already there, unless it is to be replaced.
    """
    private_directory(path.parent)
    _write(path, data, mode=0o400, replace=replace)


def write_public(path: Path, data: bytes, *, replace: bool = False, mode: int = 0o444) -> None:
    """Writes a file that all may read in the same way. Raises: KeyFileError."""
    _write(path, data, mode=mode, replace=replace)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes from this block for the same file, while it is entered.

    Raises: KeyFileError.
    """
    lock = path.with_suffix(".lock")
    with _explained(lock, "locked"):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with _explained(lock, "locked"):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_secret(path: Path) -> bytes:
    """The bytes of a file that only its owner can read.

    Raises: KeyFileError if it is missing, larger than 64 KiB, or open to the group or the world.
    """
    # O_NONBLOCK: a pipe would be waited for until somebody writes to it.
    with _explained(path, "read"), os.fdopen(os.open(path, _READ), "rb") as file:
        # Of what was opened, so that nothing can be exchanged between the look and the reading.
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or _others_may_read(file.fileno(), found):
            raise _open_to_others(path, found.st_mode)
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise KeyFileError(
            f"{path.name} is no key",
            why=f"it is larger than {_LARGEST} bytes",
            fix="name the file that holds the key and nothing else",
            where=str(path),
        )
    return data


def secret_from(source: str) -> bytes:
    """A passphrase from where the settings say that it is: `env:NAME`, or the path of a file.

    Line ends after it do not belong to it. Raises: KeyFileError.
    """
    if not source.startswith("env:"):
        return read_secret(Path(source)).rstrip(b"\r\n")
    name = source.removeprefix("env:")
    if name not in os.environ:
        raise KeyFileError(
            "a passphrase is missing",
            why=f"the environment has no variable {name}",
            fix=f"set {name}, or name a file that only its owner can read",
        )
    return os.environ[name].encode("utf-8", "surrogateescape")


def create_key(path: Path, *, entropy: Entropy | None = None) -> bytes:
    """A new key of 32 bytes, written to a file that must not be there yet. Raises: KeyFileError."""
    key = (entropy or SystemEntropy()).token(KEY_BYTES)
    write_secret(path, key.hex().encode("ascii") + b"\n")
    return key


def load_key(path: Path) -> bytes:
    """The one key in a file, 32 bytes. Raises: KeyFileError."""
    keys = load_keys(path)
    if len(keys) != 1:
        raise _not_keys(path, f"it holds {len(keys)} keys, and there can be one")
    return keys[0]


def load_keys(path: Path) -> tuple[bytes, ...]:
    """All keys in a file, 32 bytes each, the one in use first. Raises: KeyFileError."""
    lines = read_secret(path).decode("ascii", "replace").split()
    if not lines or not all(_KEY.fullmatch(line) for line in lines):
        raise _not_keys(path, "a key is a line of 64 hexadecimal digits in lower case")
    keys = tuple(bytes.fromhex(line) for line in lines)
    if len(set(keys)) < len(keys):
        raise _not_keys(path, "it holds a key twice")
    return keys


def prepend_key(path: Path, *, entropy: Entropy | None = None) -> tuple[bytes, ...]:
    """Puts a new key before those in a file, to seal with from now on; alone if the file is gone.

    Raises: KeyFileError.
    """
    known = load_keys(path) if path.exists() else ()
    keys = ((entropy or SystemEntropy()).token(KEY_BYTES), *known)
    write_secret(path, b"".join(key.hex().encode("ascii") + b"\n" for key in keys), replace=True)
    return keys


def keep_first_key(path: Path) -> int:
    """Forgets all keys in a file but the one in use; gives how many. Raises: KeyFileError."""
    first, *others = load_keys(path)
    if others:
        write_secret(path, first.hex().encode("ascii") + b"\n", replace=True)
    return len(others)


def _others_may_read(descriptor: int, found: os.stat_result) -> bool:
    """Whether anybody but the owner and this process may.

    A credential of systemd belongs to root and has an access control list for the one user that it
    is for; the group's bits of its mode are then no group's, but the mask of that list.
    """
    if not found.st_mode & 0o077:
        return False
    try:
        listed = os.getxattr(descriptor, _ACL)[_ACL_VERSION_BYTES:]
    except (AttributeError, OSError):  # a system or a disk without such lists
        return True
    return any(
        may and not (who in (_ACL_OWNER, _ACL_MASK) or (who == _ACL_USER and user == os.geteuid()))
        for who, may, user in _ACL_ENTRY.iter_unpack(listed)
    )


def _write(path: Path, data: bytes, *, mode: int, replace: bool) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    with _explained(path, "written"):
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                path.hardlink_to(draft)  # fails where a file is, in one step; a rename would not
        finally:
            draft.unlink(missing_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path, act: str) -> Iterator[None]:
    try:
        yield
    except KeyFileError:
        raise
    except OSError as error:
        raise _cannot(path, act, error) from None


def _cannot(path: Path, act: str, error: OSError) -> KeyFileError:
    return KeyFileError(
        f"{path.name} cannot be {act}",
        why=(error.strerror or str(error)).lower(),
        fix=_remedy(act, error),
        where=str(path),
    )


def _remedy(act: str, error: OSError) -> str:
    if lacks_room(error):
        return MAKE_ROOM
    in_the_way = act == "made" and isinstance(error, FileExistsError)
    if in_the_way or isinstance(error, NotADirectoryError):
        return "name another directory, or move away the file that stands in its place"
    if isinstance(error, FileExistsError):
        return "move the old file away first: what it opens would be lost with it"
    if isinstance(error, FileNotFoundError):
        return "put it there, from its backup or from the vault where it is kept"
    return "check the path, its owner and its mode; a secret has mode 0400"


def _open_to_others(path: Path, mode: int) -> KeyFileError:
    return KeyFileError(
        f"{path.name} is open to others",
        why=f"its mode is {stat.S_IMODE(mode):04o}, or it is no file; others could read secrets",
        fix=f"chmod go= {path}, and renew the secret if anybody may have read it",
        where=str(path),
    )


def _not_keys(path: Path, why: str) -> KeyFileError:
    return KeyFileError(
        f"{path.name} is not a file of keys",
        why=why,
        fix="restore it from its backup; `fed ca init` makes the first",
        where=str(path),
    )
