"""What the attempts at a round cost in privacy, as a server pays for them."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from fedcore.federated.payments import Account, Payment
from fedcore.federated.task import Task
from fedcore.privacy import Uncontrolled
from fedcore.rounds import Phase
from fedsim.clock import Attempt
from fedsim.clock.attempt import place_of

__all__ = ["Payments"]


class Payments:
    """Those of one round. `names`: of all clients, by their places."""

    def __init__(self, account: Account, task: Task, round: int, names: Sequence[bytes]) -> None:
        self._account, self._task, self._round, self._names = account, task, round, names
        self._paid: dict[int, Payment] = {}
        self._settled = 0

    def allowed(self, attempts: Sequence[Attempt]) -> Set[int] | None:
        """Who may take part after these attempts within the plan's bounds; None for all."""
        self.settle(attempts)
        if not isinstance(self._account.plan.sampling, Uncontrolled):
            return None
        may = self._account.ledger.may_participate(self._names, anew=True)
        return frozenset(np.flatnonzero(may).tolist())

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
        if members := _members(attempt):
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


def _members(attempt: Attempt) -> list[int]:
    """Who was asked for an update."""
    asked = [one.cohort for one in attempt.transitions if one.to_phase is Phase.COLLECTING]
    return sorted(place_of(client) for client in asked[0]) if asked else []
