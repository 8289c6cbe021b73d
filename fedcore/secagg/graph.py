"""Who masks with whom: a ring that nobody can choose, because the root of the roster draws it.

Each client's neighbours are the k/2 clients before and after it on the ring. From the set of
survivors any client can see for itself that the honest among them hang together, without knowing
who is honest: that is the window check.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedcore.errors import AxisError, DtypeError, ParameterError, ShapeError
from fedcore.secagg.params import LARGEST_SESSION
from fedcore.secagg.transcript import digest

__all__ = ["Graph", "build_graph"]

_ROOT_BYTES = 32


@dataclass(frozen=True, eq=False)
class Graph:
    """Which of n clients are neighbours; made by `build_graph`.

    `degree`: k, the neighbours of each client; even unless the graph is complete.
    `order`: (n,) int64, the client at each position of the ring.
    `positions`: (n,) int64, the position of each client. Both read-only; a complete graph has them
    too, but they decide nothing there.
    """

    n: int
    degree: int
    complete: bool
    order: NDArray[np.int64] = field(repr=False)
    positions: NDArray[np.int64] = field(repr=False)

    def neighbours(self, client: int) -> NDArray[np.int64]:
        """The (k,) int64 indices of a client's neighbours, ascending. Raises: AxisError."""
        if not 0 <= client < self.n:
            raise AxisError(
                f"there is no client {client}",
                why=f"the roster has the indices 0 to {self.n - 1}",
                fix="name a client by its index in the roster",
            )
        if self.complete:
            return np.delete(np.arange(self.n), client)
        half = self.degree // 2
        distances = np.delete(np.arange(-half, half + 1), half)
        return np.sort(self.order[(self.positions[client] + distances) % self.n])

    def windows_hold(self, members: NDArray[np.bool_], minimum: int) -> bool:
        """Whether any k/2 consecutive positions hold `minimum` members; always, if complete.

        members: (n,) bool, by client. If no window holds `minimum` corrupt clients, each then holds
        an honest member, and consecutive honest members are neighbours. 10 µs at n = 1024.

        Raises: ShapeError, DtypeError.
        """
        if members.shape != (self.n,):
            raise ShapeError(
                f"the set of members has shape {members.shape}",
                why=f"it says for each of {self.n} clients whether it is a member",
                fix=f"pass an array of shape ({self.n},)",
            )
        if members.dtype != np.bool_:
            raise DtypeError(
                f"the set of members has dtype {members.dtype}",
                why="indices or counts would be mistaken for members",
                fix="pass an array of bool",
            )
        if self.complete:
            return True
        around = members[self.order]
        half = self.degree // 2
        before = np.concatenate([[0], np.cumsum(np.concatenate([around, around[: half - 1]]))])
        return bool((before[half:] - before[:-half] >= minimum).all())


def build_graph(root: bytes, n: int, *, degree: int, complete: bool) -> Graph:
    """The graph of a session: the ring that its 32-byte root draws, or everyone with everyone.

    Client i's key is the i-th 128-bit little-endian integer of a keystream of AES-128-CTR; the
    clients stand on the ring in the order of their keys, the smaller index first where two are
    equal. `degree` is even and at most n − 1; of a complete graph, n − 1.

    Raises: ParameterError.

    >>> graph = build_graph(bytes(32), 7, degree=2, complete=False)
    >>> graph.neighbours(0)
    array([2, 4])
    """
    if len(root) != _ROOT_BYTES:
        raise ParameterError(
            f"the root has {len(root)} bytes",
            why=f"it is a SHA-256 digest, of {_ROOT_BYTES}",
            fix="pass the root of the roster",
        )
    if not 2 <= n <= LARGEST_SESSION:
        raise ParameterError(
            f"n = {n} clients make no session",
            why=f"it has from 2 to {LARGEST_SESSION}",
            fix="split a larger roster into sessions and add their sums",
        )
    fits = degree == n - 1 if complete else 2 <= degree <= n - 1 and degree % 2 == 0
    if not fits:
        raise ParameterError(
            f"degree = {degree} fits no {'complete graph' if complete else 'ring'} of {n} clients",
            why="everyone else is a neighbour"
            if complete
            else f"as many neighbours stand before as after, and there are {n - 1} others",
            fix="take degree and complete from parameters()",
        )
    keys = np.frombuffer(_keystream(digest("graph", root), 16 * n), "<u8").reshape(n, 2)
    # The last row is the primary key of a lexsort, which is stable.
    order = np.lexsort((keys[:, 0], keys[:, 1])).astype(np.int64)
    positions = np.empty(n, np.int64)
    positions[order] = np.arange(n)
    order.flags.writeable = positions.flags.writeable = False
    return Graph(n, degree, complete, order, positions)


def _keystream(seed: bytes, size: int) -> bytes:
    cipher = Cipher(algorithms.AES128(seed[:16]), modes.CTR(seed[16:]))
    return cipher.encryptor().update(bytes(size))
