"""What a session took and the disk refused: nothing may be built on it.

A session has taken a message before its record is durable. Where that write fails, a client that
says the same again has it written again. One that never comes back leaves a message that is in
memory alone, and that a server which is killed later would not find.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from fedcore.errors import StoreError

__all__ = ["Unwritten"]

T = TypeVar("T")


class Unwritten:
    """The names of such records of one session."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    async def write(
        self, records: Mapping[str, bytes], act: Callable[[Mapping[str, bytes]], Awaitable[T]]
    ) -> T:
        """What `act` answers, which makes `records` durable. Raises: what it raises."""
        try:
            answer = await act(records)
        except BaseException:
            self._names |= records.keys()
            raise
        self._names -= records.keys()
        return answer

    def require_none(self) -> None:
        """Raises: StoreError where the session holds more than the disk: it has to be read anew."""
        if self._names:
            raise StoreError(
                f"{len(self._names)} messages of clients were not written",
                why="the database failed when they came, and they were not sent again since",
                fix="nothing: the attempt is taken up again with what is written",
            )
