"""What clients keep from round to round: a file for each round in which they took part.

A worker writes what a client keeps after a round under that round's number, and reads what the
server tells it to, by number (see `Commits`). So nothing that counts is ever written over, and what
an abandoned attempt has left counts for nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from fedsim.algorithms import State
from fedsim.records.saved_arrays import load_arrays, save_arrays

__all__ = ["RESTORE", "ClientStates", "States", "state_file"]

RESTORE: Final = (
    "restore it from a copy, or remove checkpoint.safetensors and client-state from the run's "
    "folder and resume the run: it begins with its first round"
)
"""What to do about a file of what clients keep that is lost or damaged."""

_UNWRITTEN = 16  # states that wait for the disk: whoever trains faster than it writes waits, too


def state_file(folder: Path, client: int, round: int) -> Path:
    """Where a client's state after a round lies."""
    return folder / f"{client // 1000:05d}" / f"{client}-{round}.safetensors"


class States(Protocol):
    """One worker's way to what clients keep."""

    def begin(self, round: int) -> None:
        """Forgets what this round or a later one has left in memory: it was abandoned."""
        ...

    def know(self, clients: Sequence[int], versions: Sequence[int]) -> None:
        """Of each of these clients, the round that its state is of; -1 for none."""
        ...

    def get(self, client: int) -> State:
        """What it kept, empty if that is nothing.

        Raises: DataFormatError for a file that is lost or damaged.
        """
        ...

    def put(self, client: int, round: int, state: State) -> None:
        """What it keeps after a round. Raises: CheckpointError."""
        ...

    def flush(self) -> None:
        """Waits until all is where it belongs. Raises: CheckpointError."""
        ...

    def close(self) -> None:
        """Ends what it started."""
        ...


class ClientStates:
    """One worker's way to the states in `folder`, of which it holds `cache_bytes` in memory.

    Files are written behind, each whole or not at all, and are on the disk after `flush`.
    """

    def __init__(self, folder: Path, *, cache_bytes: int) -> None:
        self._folder, self._most = folder, cache_bytes
        self._versions: dict[int, int] = {}
        self._cache: OrderedDict[tuple[int, int], State] = OrderedDict()
        self._held = 0
        self._writer = ThreadPoolExecutor(1, "client-states")
        self._writing: deque[Future[None]] = deque()

    @property
    def held_bytes(self) -> int:
        """How much is in memory."""
        return self._held

    def begin(self, round: int) -> None:
        for key in [key for key in self._cache if key[1] >= round]:
            self._drop(key)

    def know(self, clients: Sequence[int], versions: Sequence[int]) -> None:
        self._versions = dict(zip(clients, versions, strict=True))

    def get(self, client: int) -> State:
        key = client, self._versions.get(client, -1)
        if key[1] < 0:
            return {}
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        found = load_arrays(state_file(self._folder, *key), fix=RESTORE).arrays
        self._hold(key, found)
        return found

    def put(self, client: int, round: int, state: State) -> None:
        """Writes it behind. Raises: CheckpointError if one before it could not be written."""
        if len(self._writing) >= _UNWRITTEN:
            self._writing.popleft().result()
        path = state_file(self._folder, client, round)
        self._writing.append(self._writer.submit(_write, path, dict(state)))
        self._hold((client, round), state)

    def flush(self) -> None:
        """Waits until all is on the disk. Raises: CheckpointError."""
        while self._writing:
            self._writing.popleft().result()

    def close(self) -> None:
        """Ends the thread that writes."""
        self._writer.shutdown()

    def _hold(self, key: tuple[int, int], state: State) -> None:
        self._drop(key)
        self._cache[key] = state
        self._held += _bytes(state)
        while self._held > self._most:
            self._drop(next(iter(self._cache)))

    def _drop(self, key: tuple[int, int]) -> None:
        self._held -= _bytes(self._cache.pop(key, {}))


def _write(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, state)


def _bytes(state: State) -> int:
    return sum(vector.nbytes for vector in state.values())
