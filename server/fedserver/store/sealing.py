"""Encryption at rest: what the database holds of a secure aggregation is useless without its keys.

A sealed value is AES-256-GCM under the first of the datastore keys, and every key of the list opens
what it sealed: a key is rotated by putting a new one in front. The table, the row's key and the
column are authenticated with it, so that no value can be moved to another place.

What an attempt at a round holds is sealed under a key of its own, and that one under the datastore
keys. So to forget an attempt 32 bytes have to be erased, wherever copies of the rest may lie.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedcore.errors import ArgumentError, StoreError

__all__ = ["KEY_BYTES", "Sealer", "derived_key"]

KEY_BYTES = 32
_FORMAT = 1
_HEADER = struct.Struct(">B4s12s")  # the format, which key, the nonce


class Sealer:
    """Seals and opens values of the database.

    `keys`: of 32 random bytes each, the first one seals. Raises: ArgumentError.

    >>> sealer = Sealer([bytes(32)])
    >>> sealed = sealer.seal(b"a share", "session_record", "task/1/1", "value")
    >>> sealer.open(sealed, "session_record", "task/1/1", "value")
    b'a share'
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ArgumentError(
                "the datastore keys are no list of keys",
                why=f"there must be one or more, each of {KEY_BYTES} bytes",
                fix="give the file that `fed ca init` wrote, unchanged",
            )
        self._first = _name_of(keys[0])
        self._ciphers = {_name_of(key): AESGCM(key) for key in keys}

    def seal(self, plain: bytes, table: str, key: str, column: str) -> bytes:
        """`plain`, readable only with the key, and only in that place."""
        header = _HEADER.pack(_FORMAT, self._first, os.urandom(12))
        bound = _bound(header, table, key, column)
        return header + self._ciphers[self._first].encrypt(header[-12:], plain, bound)

    def open(self, sealed: bytes, table: str, key: str, column: str) -> bytes:
        """What was sealed for that place. Raises: StoreError: no key fits, or it was changed."""
        header = sealed[: _HEADER.size]
        if len(header) < _HEADER.size or header[0] != _FORMAT:
            raise _unreadable(table, key, "it is not a sealed value of this version")
        _, name, nonce = _HEADER.unpack(header)
        if name not in self._ciphers:
            raise _unreadable(table, key, "it was sealed under a key that is not in the list")
        try:
            return self._ciphers[name].decrypt(
                nonce, sealed[_HEADER.size :], _bound(header, table, key, column)
            )
        except InvalidTag:
            raise _unreadable(table, key, "it was changed, or moved from another place") from None


def derived_key(key: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose, which tells nothing of `key`: HKDF-SHA-256, RFC 5869."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"fedcore/" + purpose).derive(key)


def _name_of(key: bytes) -> bytes:
    """Four bytes that tell keys of a list apart, and say nothing about them."""
    return hashlib.sha256(b"fedcore/datastore-key" + key).digest()[:4]


def _bound(header: bytes, *place: str) -> bytes:
    parts = [header, *(part.encode() for part in place)]
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _unreadable(table: str, key: str, why: str) -> StoreError:
    return StoreError(
        f"the value of {table} {key} cannot be opened",
        why=why,
        fix="start the server with every datastore key that was in use since; if one is lost,"
        " `fed db epoch` gives up the attempts that were open",
    )
