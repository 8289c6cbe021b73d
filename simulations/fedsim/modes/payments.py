"""What the attempts at a round cost in privacy, as a server pays for them."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import BudgetError
from fedcore.federated.payments import Account, Payment
from fedcore.federated.task import Task
from fedcore.privacy import Uncontrolled
from fedcore.rounds import Phase
from fedsim.clock import Attempt
from fedsim.clock.attempt import place_of

__all__ = ["Payments", "allowed_places", "members_of"]


class Payments:
    """Those of one round. `names`: of all clients, by their places."""

    def __init__(self, account: Account, task: Task, round: int, names: Sequence[bytes]) -> None:
        self._account, self._task, self._round, self._names = account, task, round, names
        self._paid: dict[int, Payment] = {}
        self._settled = 0

    def allowed(self, attempts: Sequence[Attempt]) -> Set[int] | None:
        """Who may take part after these attempts within the plan's bounds; None for all.

        Raises: BudgetError if they are too few for a round.
        """
        self.settle(attempts)
        if not isinstance(self._account.plan.sampling, Uncontrolled):
            return None
        may = self._account.ledger.may_participate(self._names, anew=True)
        return allowed_places(may, needed=self._task.cohort.minimum)

    def drawn(self, attempt: int) -> Set[int]:
        """Whom the plan draws for an attempt, which is paid for first."""
        places = {name: place for place, name in enumerate(self._names)}
        return frozenset(places[name] for name in self._pay(attempt).draw(self._names))

    def settle(self, attempts: Sequence[Attempt]) -> Payment | None:
        """Pays for each attempt that asked clients for updates, once; that of the last, if any."""
        for number in range(self._settled + 1, len(attempts) + 1):
            self._begin(number, attempts[number - 1])
        self._settled = len(attempts)
        return self._paid.get(self._settled)

    def _begin(self, number: int, attempt: Attempt) -> None:
        if members := members_of(attempt):
            terms = None
            if self._task.secure_aggregation is not None:
                clients = len(attempt.roster) or len(attempt.cohort)
                terms = self._task.session_config().parameters(clients)
            self._pay(number).begin([self._names[place] for place in members], terms)
        if not attempt.completed and number in self._paid:
            self._paid[number].give_up("the attempt was given up")

    def _pay(self, attempt: int) -> Payment:
        if attempt not in self._paid:
            self._paid[attempt] = self._account.pay(self._round, self._account.intent())
        return self._paid[attempt]


def allowed_places(may: NDArray[np.bool_], *, needed: int) -> Set[int]:
    """The places (n,) of those that may. Raises: BudgetError if fewer than are needed for a round.

    Who comes too seldom makes a round wait; who may not come again makes it the last.
    """
    if (found := int(may.sum())) < needed:
        raise BudgetError(
            f"a round needs {needed} clients, and {found} may still take part",
            why="the others came as often as privacy.maximum_participations lets them, or come "
            "again after privacy.minimum_separation rounds, of which there is none",
            fix="what was released before is the result",
        )
    return frozenset(np.flatnonzero(may).tolist())


def members_of(attempt: Attempt) -> list[int]:
    """Who was asked for an update."""
    asked = [one.cohort for one in attempt.transitions if one.to_phase is Phase.COLLECTING]
    return sorted(place_of(client) for client in asked[0]) if asked else []
