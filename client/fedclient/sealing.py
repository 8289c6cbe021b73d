"""What a device keeps is sealed, so that a stolen disk without its key file tells nothing.

AES-256-GCM. A value is bound to the name under which it is kept: one cannot stand in for another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedcore.errors import ClientStateError

__all__ = ["KEY_BYTES", "Seal", "frame_sizes", "open_frames", "seal_frames"]

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_FRAME_BYTES = 2**20


class Seal:
    """Seals values under one key of 32 bytes. Raises: ClientStateError for another length.

    >>> seal = Seal(bytes(32))
    >>> seal.opened("a name", seal.sealed("a name", b"a secret"))
    b'a secret'
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise _unreadable(f"the device's key has {len(key)} bytes", f"it has {KEY_BYTES}")
        self._cipher = AESGCM(key)

    def sealed(self, name: str, value: bytes) -> bytes:
        """`value`, readable only with the key, and only under `name`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, name.encode())

    def opened(self, name: str, sealed: bytes) -> bytes:
        """What `sealed` was given. Raises: ClientStateError if anything was changed."""
        if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
            raise _unreadable(f"the record {name!r} is cut short", "a sealed record is longer")
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, rest, name.encode())
        except InvalidTag:
            raise _unreadable(
                f"the record {name!r} cannot be opened",
                "it was changed, moved, or sealed with another key",
            ) from None

    def __repr__(self) -> str:
        return "Seal()"


def seal_frames(key: bytes, data: Iterable[memoryview]) -> Iterator[bytes]:
    """Each piece of `data`, at most 1 MiB at a time, under a key that seals nothing else."""
    cipher, place = AESGCM(key), 0
    for piece in data:
        for start in range(0, len(piece), _FRAME_BYTES):
            yield cipher.encrypt(_counter(place), piece[start : start + _FRAME_BYTES], None)
            place += 1


def open_frames(key: bytes, sealed: Iterable[bytes]) -> Iterator[bytes]:
    """What `seal_frames` was given, frame by frame. Raises: ClientStateError."""
    cipher = AESGCM(key)
    for place, frame in enumerate(sealed):
        try:
            yield cipher.decrypt(_counter(place), frame, None)
        except InvalidTag:
            raise _unreadable(
                "a kept contribution cannot be opened", f"its frame {place} was changed"
            ) from None


def frame_sizes(size: int) -> Iterator[int]:
    """The sizes of the sealed frames of one piece of so many bytes."""
    for start in range(0, size, _FRAME_BYTES):
        yield min(_FRAME_BYTES, size - start) + _TAG_BYTES


def _counter(place: int) -> bytes:
    return place.to_bytes(_NONCE_BYTES, "big")


def _unreadable(what: str, why: str) -> ClientStateError:
    return ClientStateError(
        what,
        why=why,
        fix="restore the whole folder as it was, or join again in an empty one",
    )
