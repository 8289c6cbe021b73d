"""When a set of clients is enough to go on: the answers that a round's driver owes its machine."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from typing import Protocol

from fedcore.errors import AbortError
from fedcore.rounds import Phase
from fedcore.secagg import Parameters, SessionConfig

__all__ = ["CountedSession", "OpenSession", "Session"]

Places = Set[int]


class Session(Protocol):
    """One attempt's aggregation. A mode may give its own; clients are places in the population."""

    def close(self, phase: Phase, arrived: Places) -> Places:
        """Who goes on after a phase. Raises: FedcoreError if the attempt cannot."""
        ...

    def release(self, survivors: Places) -> bytes:
        """The SHA-256 of the result, which is durable. Raises: FedcoreError if there is none."""
        ...


class OpenSession:
    """Of reports that are not masked: whoever reports is in the sum."""

    def close(self, phase: Phase, arrived: Places) -> Places:
        return arrived

    def release(self, survivors: Places) -> bytes:
        return _named(survivors)


class CountedSession:
    """Of masked reports, by the counts alone that a session of these terms needs at each stage.

    Where it goes on, so does the real session, but for what happens with the probabilities that the
    terms allow. On a ring, it asks for as many answers as make sure that the sum can be opened.
    """

    def __init__(self, config: SessionConfig) -> None:
        self._config = config
        self._terms: Parameters | None = None
        self._dealers: Places = frozenset()
        self._survivors: Places = frozenset()

    def close(self, phase: Phase, arrived: Places) -> Places:
        if phase is Phase.KEYS:
            self._terms = self._config.parameters(len(arrived))
            return arrived
        assert self._terms is not None
        match phase:
            case Phase.SHARES:
                self._require(phase, len(arrived), self._terms.minimum_survivors)
                self._dealers = arrived
            case Phase.COLLECTING:
                self._require(phase, len(arrived), self._terms.minimum_survivors)
                self._survivors = arrived
            case Phase.CONFIRMING:
                self._require(phase, len(arrived), self._terms.quorum)
                return self._survivors  # whoever is in the sum may help to open it
            case _:
                needed = self._terms.threshold
                if not self._terms.complete:
                    needed = self._terms.minimum_survivors
                if self._dealers - arrived:
                    self._require(phase, len(arrived), needed)
        return arrived

    def release(self, survivors: Places) -> bytes:
        return _named(survivors)

    def _require(self, phase: Phase, found: int, needed: int) -> None:
        if found >= needed:
            return
        assert self._terms is not None
        raise AbortError(
            f"{found} of {self._terms.n} clients are left at {phase.name}",
            why=f"{needed} must be; delta provides for {self._terms.dropouts} lost",
            fix="begin a new attempt, or plan the task with a larger delta",
        )


def _named(survivors: Places) -> bytes:
    """Stands for the digest of a result that nobody computes here."""
    return hashlib.sha256(",".join(map(str, sorted(survivors))).encode()).digest()
