"""What clients keep, for a worker that sees no folder of the run: it comes and goes with jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedsim.algorithms import State

__all__ = ["CarriedStates"]


class CarriedStates:
    """The states of a job's clients, which were brought, and those that it puts, to be taken."""

    def __init__(self) -> None:
        self._brought: Mapping[int, State] = {}
        self._put: dict[int, State] = {}

    def bring(self, states: Mapping[int, State]) -> None:
        """What the clients of the next job keep, of those who keep anything."""
        self._brought, self._put = states, {}

    def take(self) -> dict[int, State]:
        """What clients keep after the job."""
        put, self._brought, self._put = self._put, {}, {}
        return put

    def begin(self, round: int) -> None:
        """Nothing of an abandoned round is held here."""

    def know(self, clients: Sequence[int], versions: Sequence[int]) -> None:
        """Whoever brings states has chosen them."""

    def get(self, client: int) -> State:
        return self._brought.get(client, {})

    def put(self, client: int, round: int, state: State) -> None:
        self._put[client] = state

    def flush(self) -> None:
        """Whoever takes states writes them."""

    def close(self) -> None:
        """There is nothing to end."""
