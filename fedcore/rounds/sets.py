"""A set of clients that never changes, and of which another one is made in constant time.

A round of 10,000 clients has as many arrivals. To copy a frozenset of them all for each made a
round's books quadratic in its cohort.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Set
from typing import TypeVar

__all__ = ["VersionedSet"]

_T = TypeVar("_T")
_SPARE = 1_000  # changes more than clients before what is past is left behind


class VersionedSet(Set[bytes]):
    """One version of a set; those that follow it share its memory, and leave it as it is.

    The changes of all versions are in one order, and each client remembers which ones were its own
    (the fat nodes of Driscoll, Sarnak, Sleator and Tarjan, 1989). Two sets that follow the same one
    cannot both share its memory: the second is a copy, in linear time. For one thread at a time.

    >>> few = VersionedSet([b"a"])
    >>> more = few.including([b"b"])
    >>> few == {b"a"}, more == {b"a", b"b"}, more.excluding([b"a"]) == {b"b"}
    (True, True, True)
    """

    __slots__ = ("_changes", "_count", "_turns", "_version")

    def __init__(self, clients: Iterable[bytes] = ()) -> None:
        self._changes = list(dict.fromkeys(clients))  # who came or went, at each version
        self._turns = {client: [version] for version, client in enumerate(self._changes)}
        self._count = self._version = len(self._changes)

    @classmethod
    def of(cls, clients: Set[bytes]) -> VersionedSet:
        """These clients, as a set of this kind."""
        return clients if isinstance(clients, cls) else cls(clients)

    def __contains__(self, client: object) -> bool:
        turns = self._turns.get(client)  # type: ignore[call-overload]
        return turns is not None and bisect_left(turns, self._version) % 2 == 1

    def __iter__(self) -> Iterator[bytes]:
        return iter([client for client in self._turns if client in self])

    def __len__(self) -> int:
        return self._count

    def __hash__(self) -> int:
        return hash(frozenset(self))  # that of an equal set

    def __repr__(self) -> str:
        return f"VersionedSet({list(self)})"

    def including(self, clients: Iterable[bytes]) -> VersionedSet:
        """The set with these clients too."""
        found = self
        for client in clients:
            if client not in found:
                found = found._turned(client, +1)
        return found

    def excluding(self, clients: Iterable[bytes]) -> VersionedSet:
        """The set without these clients, who need not be in it."""
        found = self
        for client in clients:
            if client in found:
                found = found._turned(client, -1)
        return found

    def _turned(self, client: bytes, more: int) -> VersionedSet:
        """The set in which a client has come, or gone."""
        changes, turns, version = self._changes, self._turns, self._version
        followed = version < len(changes)
        if (followed and changes[version] != client) or version > 2 * self._count + _SPARE:
            return VersionedSet(self)._turned(client, more)
        if not followed:
            changes.append(client)
            turns.setdefault(client, []).append(version)
        found = VersionedSet.__new__(VersionedSet)
        found._changes, found._turns = changes, turns
        found._version, found._count = version + 1, self._count + more
        return found

    @classmethod
    def _from_iterable(cls, them: Iterable[_T]) -> Set[_T]:
        return frozenset(them)
