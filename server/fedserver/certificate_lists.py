"""Lists beside the authority's keys: users it has named, certificates disowned, keys exchanged.

gRPC for Python offers no revocation lists, so a disowned certificate is refused after the
handshake, by whoever reads the list. All are files of JSON lines that only ever grow, so that an
operator can read them, and `fed ca revoke` takes effect in a server that runs. A list is replaced
whole: a disk that is full, or a power cut, leaves it as it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fedcore.errors import AuthorityError, RefusedError
from fedserver.key_files import locked, write_public

__all__ = ["ACTS", "CertificateLists", "Exchange", "Listed", "nobody_is_let_in"]

T = TypeVar("T")

ACTS: Final = ("renew", "retire", "rotate")
"""What is done with keys."""

_ISSUED: Final = "issued.jsonl"
_REVOKED: Final = "revoked.jsonl"
_EXCHANGED: Final = "exchanged.jsonl"
_FINGERPRINT_BYTES: Final = 32
_MODE: Final = 0o644
_LATEST: Final = 253_402_300_800  # the year 10000, which no calendar here has
_BEGINS: Final = '{"fingerprint": "'
_ASK_AGAIN_MS: Final = (5_000, 30_000)

_COMPLETE: Final = (
    "run that `fed ca revoke` again, which completes the line; where nobody knows for whom it was,"
    " take the half line out"
)
_TAKE_OUT: Final = (
    "take the damaged line out, and then run `fed ca recover`: it puts back what the audit log has"
)
_FOR_GOOD: Final = "take the damaged line out; what a server has read of it is in the audit log"


@dataclass(frozen=True, slots=True)
class Listed:
    """A line: a user's certificate (`role`), or one that counts no more (`reason`).

    `fingerprint`: SHA-256 of the certificate's DER. `issuer`: of the public key that signed it,
    empty where an older program wrote the line. Times are Unix seconds.
    """

    fingerprint: bytes
    name: str
    at: int
    not_after: int = 0
    role: str = ""
    reason: str = ""
    issuer: bytes = b""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was done with a key of the authority, like "rotate" with "datastore", and when."""

    act: str
    key: str
    at: int


class CertificateLists:
    """The lists in the authority's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._revoked_path = os.fspath(directory / _REVOKED)  # asked for with every call
        self._revoked: frozenset[bytes] = frozenset()
        self._stamp: tuple[int, int, int] | None = None
        self._lost: frozenset[bytes] = frozenset()
        self._damage: AuthorityError | None = None  # of the file of that stamp

    @property
    def lost(self) -> frozenset[bytes]:
        """What `revoked` has read before, and found no more when it read last."""
        return self._lost

    def note(self, issued: Listed) -> None:
        """Writes down a user's certificate, durably. Raises: AuthorityError, KeyFileError."""
        with locked(self._directory / _ISSUED):
            # Of a line that was cut off the certificate was never given to anybody.
            text, _ = self._whole(_ISSUED)
            self._write(_ISSUED, text, _line_of(issued))

    def exchanged(self, exchange: Exchange) -> None:
        """Writes down what was done with a key, durably. Raises: AuthorityError, KeyFileError."""
        with locked(self._directory / _EXCHANGED):
            text, _ = self._whole(_EXCHANGED)
            line = {"act": exchange.act, "key": exchange.key, "at": exchange.at}
            self._write(_EXCHANGED, text, line)

    def revoke(self, fingerprint: bytes, *, reason: str, now: int, name: str = "") -> bool:
        """Disowns a certificate by its fingerprint; False if it was disowned before.

        A line that was cut off is completed by the same fingerprint, and by no other.
        Raises: AuthorityError for another length, or a damaged list; KeyFileError.
        """
        if len(fingerprint) != _FINGERPRINT_BYTES:
            raise AuthorityError(
                "this is no fingerprint of a certificate",
                why=f"a SHA-256 has {_FINGERPRINT_BYTES} bytes, and {len(fingerprint)} were given",
                fix="`fed ca list` shows the fingerprints of users",
            )
        with locked(self._directory / _REVOKED):
            text, cut_off = self._whole(_REVOKED)
            own = _BEGINS + fingerprint.hex()
            if not (own.startswith(cut_off) or cut_off.startswith(own)):
                raise self._damaged(_REVOKED, _half_a_line(cut_off), _COMPLETE)
            if any(line.fingerprint == fingerprint for line in self._listed(_REVOKED, text)):
                if cut_off:
                    raise self._damaged(_REVOKED, _half_a_line(cut_off), _COMPLETE)
                return False
            self._write(_REVOKED, text, _line_of(Listed(fingerprint, name, now, reason=reason)))
        return True

    def put_back(self, lost: Sequence[Listed]) -> None:
        """Writes revocations that the list has no more, all at once.

        Raises: AuthorityError for a damaged list; KeyFileError.
        """
        with locked(self._directory / _REVOKED):
            text, cut_off = self._whole(_REVOKED)
            there = {line.fingerprint for line in self._revocations(text, cut_off)}
            lines = [_line_of(line) for line in lost if line.fingerprint not in there]
            if lines:
                self._write(_REVOKED, text, *lines)

    def revoked(self) -> frozenset[bytes]:
        """Fingerprints that count no more; read again when the file has changed.

        What was on it once stays revoked while this process lives, also where the file is `lost`.
        2 µs otherwise, also where it is damaged: many call, and it may be long.
        Raises: AuthorityError for a damaged list: nobody is let in by mistake.
        """
        try:
            found = os.stat(self._revoked_path)
        except FileNotFoundError:
            stamp = None
        except OSError as error:
            raise self._unreadable(_REVOKED, error) from None
        else:
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            text, cut_off = self._whole(_REVOKED)
            try:
                listed = frozenset(line.fingerprint for line in self._revocations(text, cut_off))
            except AuthorityError as error:
                self._damage = error
            else:
                self._lost, self._revoked = self._revoked - listed, self._revoked | listed
                self._damage = None
            self._stamp = stamp
        if self._damage is not None:
            raise self._damage.with_traceback(None)  # which would grow with every call
        return self._revoked

    def users(self) -> list[Listed]:
        """Certificates of users, the oldest first. Raises: AuthorityError for a damaged list."""
        text, _ = self._whole(_ISSUED)
        return self._listed(_ISSUED, text)

    def names(self) -> dict[bytes, str]:
        """Of users, by fingerprint; none while their list is damaged.

        What they are for, a revocation, waits for no list but its own.
        """
        try:
            return {line.fingerprint: line.name for line in self.users()}
        except AuthorityError:
            return {}

    def revocations(self) -> list[Listed]:
        """What was disowned, the oldest first. Raises: AuthorityError for a damaged list."""
        return self._revocations(*self._whole(_REVOKED))

    def exchanges(self) -> list[Exchange]:
        """What was done with keys, the oldest first. Raises: AuthorityError for a damaged list."""
        text, _ = self._whole(_EXCHANGED)
        return self._read(_EXCHANGED, text, _exchange)

    def stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What changes whenever one of the lists does. Raises: OSError."""
        return tuple(_stamp_of(self._directory / name) for name in (_ISSUED, _REVOKED, _EXCHANGED))

    def _whole(self, name: str) -> tuple[str, str]:
        """All whole lines of a list, and one at its end that was cut off, or ""."""
        try:
            text = (self._directory / name).read_text("utf-8")
        except FileNotFoundError:
            return "", ""
        except OSError as error:
            raise self._unreadable(name, error) from None
        except UnicodeDecodeError as error:
            number = 1 + error.object.count(b"\n", 0, error.start)
            raise self._damaged(name, _no_line(number, error), _without_it(name)) from None
        last = text.rpartition("\n")[2]
        if not last:
            return text, ""
        try:
            json.loads(last)
        except (ValueError, RecursionError):
            return text[: len(text) - len(last)], last
        return f"{text}\n", ""

    def _revocations(self, text: str, cut_off: str) -> list[Listed]:
        if cut_off:
            raise self._damaged(_REVOKED, _half_a_line(cut_off), _COMPLETE)
        return self._listed(_REVOKED, text)

    def _listed(self, name: str, text: str) -> list[Listed]:
        return self._read(name, text, _listed)

    def _read(self, name: str, text: str, of: Callable[[Mapping[str, object]], T]) -> list[T]:
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                found.append(of(json.loads(line)))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise self._damaged(name, _no_line(number, error), _without_it(name)) from None
        return found

    def _write(self, name: str, text: str, *lines: Mapping[str, object]) -> None:
        data = (text + "".join(f"{json.dumps(line)}\n" for line in lines)).encode()
        write_public(self._directory / name, data, replace=True, mode=_MODE)

    def _damaged(self, name: str, why: str, fix: str) -> AuthorityError:
        where = str(self._directory / name)
        return AuthorityError(f"the list {name} is damaged", why=why, fix=fix, where=where)

    def _unreadable(self, name: str, error: OSError) -> AuthorityError:
        return AuthorityError(
            f"the list {name} cannot be read",
            why=(error.strerror or str(error)).lower(),
            fix="look at the file, its owner, its mode, and the disk",
            where=str(self._directory / name),
        )


def nobody_is_let_in(error: AuthorityError) -> RefusedError:
    """What callers are told while a list cannot be read; they ask again until it was mended."""
    return RefusedError(
        "nobody can be let in now",
        why=error.what,
        fix="wait; the operator finds what to mend with `fed server doctor`",
        retry=_ASK_AGAIN_MS,
    )


def _without_it(name: str) -> str:
    return _TAKE_OUT if name == _REVOKED else _FOR_GOOD


def _half_a_line(cut_off: str) -> str:
    digits = cut_off.removeprefix(_BEGINS)[:16] if cut_off.startswith(_BEGINS) else ""
    whose = f"of a certificate that begins with {digits}" if digits else "of nobody knows whom"
    return f"its last line was cut off, by a `fed ca revoke` that was never acknowledged, {whose}"


def _no_line(number: int, error: Exception) -> str:
    return f"line {number} cannot be read ({type(error).__name__})"


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _line_of(listed: Listed) -> Mapping[str, object]:
    return {
        "fingerprint": listed.fingerprint.hex(),
        "name": listed.name,
        "at": listed.at,
        "not_after": listed.not_after,
        "role": listed.role,
        "reason": listed.reason,
        "issuer": listed.issuer.hex(),
    }


def _listed(line: Mapping[str, object]) -> Listed:
    fingerprint = bytes.fromhex(str(line["fingerprint"]))
    if len(fingerprint) != _FINGERPRINT_BYTES:
        raise ValueError("no certificate has such a fingerprint")
    return Listed(
        fingerprint,
        name=str(line["name"]),
        at=_time(line["at"]),
        not_after=_time(line["not_after"]),
        role=str(line["role"]),
        reason=str(line["reason"]),
        issuer=bytes.fromhex(str(line.get("issuer", ""))),
    )


def _exchange(line: Mapping[str, object]) -> Exchange:
    act, key = str(line["act"]), str(line["key"])
    if act not in ACTS:
        raise ValueError("nothing of that name is done with keys")
    return Exchange(act, key, _time(line["at"]))


def _time(written: object) -> int:
    seconds = int(str(written))
    if not 0 <= seconds < _LATEST:
        raise ValueError("no certificate is of that time")
    return seconds
