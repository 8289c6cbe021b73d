"""What stops a driver again and again: how long it is tried once more, and what is said of it.

A disk that is full over night, or a database that is busy, loses nobody's work. A file that is gone
stays so: then the attempt is given up once its driver was started too often.
"""

from __future__ import annotations

import errno
from typing import Final

from fedcore.errors import BlobError, FedcoreError, LedgerError, ServerError, StoreError

__all__ = ["Interruptions", "may_pass", "unforeseen", "words_of"]

_PAUSE_S: Final = 1.0  # after the first; twice as long after each that follows
_LONGEST_PAUSE_S: Final = 10.0
_MOST_DOUBLED: Final = 16
_OFTEN: Final = 3  # in a row, before somebody is told
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNTIL_ROOM_S: Final = 24 * 3600.0  # somebody has to come and make it
_UNTIL_MENDED_S: Final = 3600.0


class Interruptions:
    """Those of one driver since its round last got on. `most`: how often it may be started."""

    def __init__(self, most: int) -> None:
        self._most, self._count, self._paused_s = most, 0, 0.0
        self._error: Exception | None = None

    def note(self, error: Exception) -> float:
        """One more; for how many seconds the driver is to pause."""
        pause_s = min(_PAUSE_S * (1 << min(self._count, _MOST_DOUBLED)), _LONGEST_PAUSE_S)
        self._error, self._count = error, self._count + 1
        self._paused_s += pause_s
        return pause_s

    def forget(self) -> None:
        """The round got on."""
        self._error, self._count, self._paused_s = None, 0, 0.0

    def too_many(self, *, starts: int) -> bool:
        """Whether the attempt is to be given up. `starts`: of its drivers, in whatever process.

        What may pass is waited for by time, which counts pauses alone: what comes once in a while
        in a round that waits for its clients for days ends nothing.
        """
        if self._error is not None and (patience_s := _patience_s(self._error)):
            return self._paused_s > patience_s
        return starts > self._most

    @property
    def last(self) -> str:
        """What the last one was, in a few words; "" where it was the end of a process."""
        if self._error is None:
            return ""
        return f"{getattr(self._error, 'code', '')} {words_of(self._error)['what']}".strip()

    @property
    def trouble(self) -> FedcoreError | None:
        """What to tell whoever has to mend it, once there were some in a row."""
        if self._count < _OFTEN or self._error is None:
            return None
        return self._error if isinstance(self._error, FedcoreError) else unforeseen(self._error)


def may_pass(error: BaseException) -> bool:
    """Whether what an error tells of may be mended with nothing lost, as a full disk is.

    A file that is gone or damaged is not. What a ledger says is of its disk, and no round's fault.
    """
    return _patience_s(error) > 0


def _patience_s(error: BaseException) -> float:
    """For how long what an error tells of is waited for; 0 for what does not pass."""
    cause = error.__cause__ if isinstance(error, BlobError | LedgerError) else error
    # While the database takes nothing, no end of an attempt is written either.
    if isinstance(error, StoreError) or (isinstance(cause, OSError) and cause.errno in _FULL):
        return _UNTIL_ROOM_S
    if isinstance(error, LedgerError | MemoryError):
        return _UNTIL_MENDED_S
    lasts = cause is None or isinstance(cause, FileNotFoundError)
    return 0.0 if lasts or not isinstance(error, OSError) else _UNTIL_MENDED_S


def unforeseen(error: Exception) -> FedcoreError:
    """What is shown in place of an error that is of no kind of ours, without what it says."""
    found = ServerError(
        f"{type(error).__name__} keeps the task from going on",
        why="nobody foresaw it; the server's log has where it came from",
        fix="look into the log, and report it; cancel the task to end it",
    )
    found.__cause__ = error
    return found


def words_of(error: Exception) -> dict[str, object]:
    """An error for a line of the log; one that nobody foresaw with where it came from."""
    if isinstance(error, FedcoreError):
        return {"code": error.code, "what": error.what, "why": error.why, "fix": error.fix}
    return {"code": "", "what": type(error).__name__, "exc_info": error}
