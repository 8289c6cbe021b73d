"""What the parties agree on is named by digests that no two different agreements share.

Every digest is SHA-256 of length-prefixed parts behind a tag, so neither moving a byte from one
part to the next nor using a digest of one kind as another gives the same bytes. From them are made:
the name of a session, the root of its roster with the Merkle tree of the prekey bundles, the
context under which a client masks (H_ctx), and the set that is unmasked (T).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, MessageError

__all__ = [
    "MerkleTree",
    "bitmap_of",
    "context_digest",
    "digest",
    "entry",
    "frame",
    "leaf_digest",
    "members_of",
    "path_depth",
    "root_of_path",
    "roster_root",
    "session_id",
    "statement",
    "survivor_digest",
    "u32",
    "u64",
]

_DOMAIN: Final = "fedcore/secagg/v1/"
_DIGEST: Final = 32


def u32(value: int) -> bytes:
    """4 bytes, little-endian. Raises: ArgumentError outside 0 … 2³² − 1.

    >>> u32(258).hex()
    '02010000'
    """
    return _unsigned(value, 4)


def u64(value: int) -> bytes:
    """8 bytes, little-endian. Raises: ArgumentError outside 0 … 2⁶⁴ − 1."""
    return _unsigned(value, 8)


def _unsigned(value: int, size: int) -> bytes:
    try:
        return value.to_bytes(size, "little")
    except OverflowError:
        raise ArgumentError(
            f"a number does not fit into {size} bytes without a sign",
            why="it is negative or too large, and every number has one fixed width",
            fix=f"keep it within 0 … 2^{8 * size} − 1",
        ) from None


def frame(tag: str, *parts: bytes) -> bytes:
    """Tag and parts as one string of bytes, each after its length, so that they could be read back.

    Different tags or lists of parts give different bytes (protocol §1).
    """
    pieces: list[bytes] = []
    for part in ((_DOMAIN + tag).encode("ascii"), *parts):
        pieces += len(part).to_bytes(8, "little"), part  # 0.7 us for 5 parts; nested loops 1.1
    return b"".join(pieces)


def digest(tag: str, *parts: bytes) -> bytes:
    """H of the protocol (§1): SHA-256 of the frame, 32 bytes.

    >>> digest("T", b"ab", b"c") == digest("T", b"a", b"bc")
    False
    """
    return hashlib.sha256(frame(tag, *parts)).digest()


def statement(tag: str, *parts: bytes) -> bytes:
    """The 32 bytes that a signature over `parts` signs (protocol §1): no digest of data is one."""
    return digest("sign/" + tag, *parts)


def entry(data: bytes, size: int, place: int) -> bytes:
    """The entry at `place` of a list whose entries have `size` bytes each.

    >>> entry(b"aabbcc", 2, 1)
    b'bb'
    """
    return data[size * place : size * (place + 1)]


def path_depth(n: int) -> int:
    """⌈log₂ n⌉: how many siblings prove a leaf of a tree of n leaves."""
    return (n - 1).bit_length()


def leaf_digest(index: int, client_id: bytes, bundle: bytes) -> bytes:
    """The leaf of a client in the Merkle tree of a roster: index, 16-byte id, prekey bundle."""
    return digest("leaf", u32(index), client_id, bundle)


class MerkleTree:
    """One `root` for many leaves of 32 bytes, and for each a path that proves it (protocol §3).

    Filled up with H("empty") to the next power of two. Raises: ArgumentError if there is no leaf,
    or one is not of 32 bytes.

    >>> leaves = [digest("leaf", name) for name in (b"a", b"b", b"c")]
    >>> tree = MerkleTree(leaves)
    >>> root_of_path(leaves[2], 2, tree.path(2)) == tree.root
    True
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves or any(len(leaf) != _DIGEST for leaf in leaves):
            raise ArgumentError(
                "a Merkle tree needs leaves of 32 bytes",
                why="there is none" if not leaves else "one of them has another length",
                fix="pass one digest a client",
            )
        self._count = len(leaves)
        padding = 2 ** path_depth(len(leaves)) - len(leaves)
        self._levels = [[*leaves, *[digest("empty")] * padding]]
        while len(below := self._levels[-1]) > 1:
            pairs = zip(below[::2], below[1::2], strict=True)
            self._levels.append([digest("node", left, right) for left, right in pairs])

    @property
    def root(self) -> bytes:
        return self._levels[-1][0]

    def path(self, index: int) -> bytes:
        """The siblings of leaf `index` from the leaf up, ⌈log₂ n⌉ × 32 bytes.

        Raises: ArgumentError for an index that no leaf has.
        """
        if not 0 <= index < self._count:
            raise ArgumentError(
                f"there is no leaf {index}",
                why=f"the tree has the leaves 0 … {self._count - 1}",
                fix="ask for one of them",
            )
        return b"".join(
            level[(index >> height) ^ 1] for height, level in enumerate(self._levels[:-1])
        )


def root_of_path(leaf: bytes, index: int, path: bytes) -> bytes:
    """The root of the tree in which `path` proves that `leaf` stands at `index`.

    The caller checks that the path has `path_depth(n)` siblings. Raises: MessageError if the path
    is not of whole siblings, or too short to reach the index.
    """
    depth, rest = divmod(len(path), _DIGEST)
    if rest or index < 0 or index >> depth:
        raise MessageError(
            "a Merkle path does not fit its leaf",
            why="it is not of whole siblings of 32 bytes, or too short for the leaf's index",
            fix="send ⌈log2 n⌉ siblings, from the leaf up",
        )
    node = leaf
    for height in range(depth):
        sibling = path[_DIGEST * height : _DIGEST * (height + 1)]
        is_right = index >> height & 1
        node = digest("node", sibling, node) if is_right else digest("node", node, sibling)
    return node


def session_id(
    *, task: bytes, round: int, attempt: int, nonce: bytes, config_digest: bytes
) -> bytes:
    """The name of one run of the protocol, `sid`: 32 bytes (protocol §3)."""
    return digest("sid", task, u64(round), u32(attempt), nonce, config_digest)


def roster_root(*, certificates: bytes, merkle_root: bytes, pulse: bytes, n: int) -> bytes:
    """Who takes part and with which keys: 32 bytes, from which the ring is drawn (protocol §3).

    `certificates`: n × 120 bytes in order of the roster. `pulse`: of the beacon, or empty.
    """
    return digest("root", u32(n), certificates, merkle_root, pulse)


def context_digest(
    *, sid: bytes, root: bytes, bitmap: bytes, model_digest: bytes, config_digest: bytes
) -> bytes:
    """H_ctx: all that a client's masks depend on; `bitmap` names U1 (protocol §7)."""
    return digest("ctx", sid, root, bitmap, model_digest, config_digest)


def survivor_digest(context: bytes, bitmap: bytes) -> bytes:
    """T: the one set U, named by `bitmap`, whose sum is opened under H_ctx (protocol §7)."""
    return digest("T", context, bitmap)


def bitmap_of(members: NDArray[np.bool_]) -> bytes:
    """A set of clients, (n,) bool, as ⌈n/8⌉ bytes: client i is bit i mod 8 of byte ⌊i/8⌋ (§1).

    >>> bitmap_of(np.array([True, False, True])).hex()
    '05'
    """
    return np.packbits(members, bitorder="little").tobytes()


def members_of(bitmap: bytes, n: int) -> NDArray[np.bool_]:
    """The set that a bitmap names, (n,) bool.

    Raises: MessageError for another length than ⌈n/8⌉ or a bit set beyond n: one set, one bitmap.
    """
    size = -(-n // 8)
    if len(bitmap) != size or (n % 8 and bitmap[-1] >> n % 8):
        raise MessageError(
            f"a bitmap of {n} clients is not in its canonical form",
            why="it has another length, or names a client beyond the roster",
            fix=f"send {size} bytes, with zeros for the bits from {n} on",
        )
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=n, bitorder="little")
    return bits.view(np.bool_)
