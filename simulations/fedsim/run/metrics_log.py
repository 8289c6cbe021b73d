"""The rounds of a run, one line of JSON each; the last line may be torn, and then it never was."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fedcore.errors import DataFormatError
from fedsim.records import RoundRecord
from fedsim.records.durable import append_line
from fedsim.records.plain_json import from_plain, parse_json, to_plain

__all__ = ["MetricsLog", "line_of", "read_metrics"]


def line_of(record: RoundRecord) -> bytes:
    """The line of a record, without its end."""
    return json.dumps(to_plain(record), separators=(",", ":"), allow_nan=False).encode("ascii")


def read_metrics(path: Path) -> tuple[RoundRecord, ...]:
    """The records of a file, from round 0; a last line without its end is left out.

    Raises: DataFormatError for any other damage, with the line; OSError.
    """
    return _records(path.name, path.read_bytes())


def _records(name: str, data: bytes) -> tuple[RoundRecord, ...]:
    found: list[RoundRecord] = []
    for number, line in enumerate(data.split(b"\n")[:-1]):
        place = f"{name}, line {number + 1}"
        record = from_plain(RoundRecord, parse_json(line, place=place), place=place)
        if record.round != number:
            raise DataFormatError(
                f"{place} is of round {record.round}",
                why=f"rounds follow each other from 0, so it has to be {number}",
                fix="use the file as the simulator wrote it",
            )
        found.append(record)
    return tuple(found)


class MetricsLog:
    """The file of a run that goes on, cut back to its first `keep` rounds; None keeps all.

    Raises: as `read_metrics`.
    """

    def __init__(self, path: Path, *, keep: int | None = None) -> None:
        data = path.read_bytes()
        self.records = list(_records(path.name, data)[:keep])
        lines = data.split(b"\n")[: len(self.records)]
        self._end = sum(len(line) + 1 for line in lines)
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._torn = False
        if self._end < len(data):
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)

    def append(self, record: RoundRecord) -> None:
        """Adds the next round; after an error it may be tried again. Raises: OSError."""
        assert self._descriptor is not None, "the log is closed"
        line = line_of(record)
        if self._torn:
            os.ftruncate(self._descriptor, self._end)
        self._torn = True
        append_line(self._descriptor, line)
        self._torn = False
        self._end += len(line) + 1
        self.records.append(record)

    def close(self) -> None:
        """Gives the file back; a second time, nothing happens."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
