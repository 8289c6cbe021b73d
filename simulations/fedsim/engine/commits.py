"""Which of the states that clients wrote count: those of rounds whose mean they are in.

A commit is one file a round, that names the clients whose vectors entered its mean. It is written
before the model that came of the mean is kept, so that who begins again with round r, whenever it
was killed, has every commit below r; what there is beyond is undone by `rewind`. Until `prune` says
that a model is kept, the states before are kept, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fedcore.errors import SimulationError
from fedsim.engine.client_states import RESTORE, state_file
from fedsim.records.saved_arrays import load_arrays, save_arrays

__all__ = ["Commits"]


class Commits:
    """The commits in a folder of states. One process at a time works with them.

    Raises: DataFormatError for a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "commits").mkdir(parents=True, exist_ok=True)
        # Of each client the rounds whose states are on the disk, rising: the last one counts.
        self._rounds: dict[int, list[int]] = {}
        self._uncommitted: dict[int, set[int]] = defaultdict(set)
        for round in self._committed():
            found = load_arrays(self._file(round), fix=RESTORE)
            self._enter(round, found.arrays["clients"].tolist())

    def versions(self, clients: Iterable[int]) -> tuple[int, ...]:
        """Of each client the round that its state is of, -1 for none."""
        return tuple(self._rounds.get(client, [-1])[-1] for client in clients)

    def wrote(self, round: int, clients: Iterable[int]) -> None:
        """These clients' states of a round are on the disk, and count for nothing as yet."""
        self._uncommitted[round].update(clients)

    def commit(self, round: int, members: Sequence[int]) -> None:
        """The vectors of these have entered the mean of a round: what they kept counts.

        What others kept in it is deleted. Raises: SimulationError for who kept nothing in it.
        """
        wrote = self._uncommitted.pop(round, set())
        if strangers := sorted(set(members) - wrote):
            raise SimulationError(
                f"round {round}: client {strangers[0]} is in the mean, and kept nothing",
                why="what enters a mean was trained in the same round, once",
                fix="commit a round once, for those of its clients who did not fail",
            )
        save_arrays(self._file(round), {"clients": np.array(sorted(members), np.int64)})
        self._enter(round, sorted(members))
        self._delete((client, round) for client in wrote - set(members))

    def discard(self, round: int) -> None:
        """Nothing of this round enters a mean: what its clients kept is deleted."""
        self._delete((client, round) for client in self._uncommitted.pop(round, set()))

    def prune(self, round: int) -> None:
        """Nobody will begin again with this round or one before it: older states are deleted."""
        for client, rounds in self._rounds.items():
            while len(rounds) > 1 and rounds[1] <= round:
                self._delete([(client, rounds.pop(0))])

    def rewind(self, round: int) -> None:
        """Clients are as they were before `round`, and no state but theirs is left on the disk.

        Raises: SimulationError where a state that counts then was pruned or lost.
        """
        # From the end: who is killed meanwhile has the commits of the first rounds, all of them.
        for later in reversed([found for found in self._committed() if found >= round]):
            self._file(later).unlink()
        earlier = {
            client: [found for found in rounds if found < round]
            for client, rounds in self._rounds.items()
        }
        self._rounds = {client: rounds[-1:] for client, rounds in earlier.items() if rounds}
        self._uncommitted.clear()
        kept = {state_file(self._folder, one, at) for one, [at] in self._rounds.items()}
        there = set(self._folder.glob("*/*-*.safetensors"))
        if lost := sorted(kept - there):
            raise SimulationError(
                f"the state {lost[0].name} of a client is lost",
                why=f"who begins with round {round} needs it, and it was pruned or deleted",
                fix=RESTORE,
            )
        for path in (there - kept).union(self._folder.glob("*/.*.tmp")):
            path.unlink(missing_ok=True)

    def _committed(self) -> list[int]:
        return sorted(int(path.stem) for path in (self._folder / "commits").glob("*.safetensors"))

    def _file(self, round: int) -> Path:
        return self._folder / "commits" / f"{round}.safetensors"

    def _enter(self, round: int, members: Sequence[int]) -> None:
        for client in members:
            self._rounds.setdefault(client, []).append(round)

    def _delete(self, states: Iterable[tuple[int, int]]) -> None:
        for client, round in states:
            state_file(self._folder, client, round).unlink(missing_ok=True)
