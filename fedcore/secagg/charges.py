"""What a client has given: a vector is a release of its data, charged before a byte leaves."""

from __future__ import annotations

from fedcore.errors import PolicyError
from fedcore.secagg.effects import Persist
from fedcore.secagg.records import release_key
from fedcore.secagg.roster import RosterView

__all__ = ["Charges"]


class Charges:
    """The sessions to which vectors of a round were given, by the round's record; never erased.

    `attempts`: how many sessions of one round may get a vector.
    """

    def __init__(self, attempts: int, charged: dict[str, frozenset[bytes]] | None = None) -> None:
        self._attempts, self._charged = attempts, charged or {}

    def of(self, view: RosterView) -> frozenset[bytes]:
        """The sids that were charged for the round of this roster."""
        return self._charged.get(_key(view), frozenset())

    def is_spent(self, view: RosterView) -> bool:
        """Whether this session can get no vector any more, for other sessions of its round did."""
        return view.sid not in self.of(view) and len(self.of(view)) >= self._attempts

    def check(self, view: RosterView) -> None:
        """Raises: PolicyError if the round of this roster is spent."""
        if self.is_spent(view):
            raise PolicyError(
                "another session asks for a vector of the same round",
                why=f"one vector is one release, and this policy allows {self._attempts}",
                fix="go on with the next round, or let the device's owner allow more attempts",
                stage="R1",
            )

    def charge(self, view: RosterView) -> None:
        """Count a vector for this session, once."""
        self._charged[_key(view)] = self.of(view) | {view.sid}

    def record(self, view: RosterView) -> Persist:
        """What must be durable before the vector leaves."""
        return Persist(_key(view), b"".join(sorted(self.of(view))))


def _key(view: RosterView) -> str:
    return release_key(view.config.task, view.round)
