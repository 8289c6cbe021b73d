"""Availability as it was recorded: a CSV file that says from when until when each client was there.

    client,from_s,until_s
    writer-03,0,3600
    writer-03,7200,9000.5

Times are seconds from the begin of the simulation. The windows of a client do not overlap, and may
stand in any order. A trace that repeats has a period, within which all of its windows lie.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fedcore.data.source import read_lines
from fedcore.errors import DataFormatError
from fedsim.devices.availability import NEVER, Places, Times

__all__ = ["Record", "Trace", "read_trace"]

_HEADER: Final = ["client", "from_s", "until_s"]
_LATEST_S: Final = 1e12


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The windows of recorded clients, in milliseconds, those of one after those of another.

    Shapes: begins, ends (w,), ascending within a client; offsets (c + 1,): client c has
    `begins[offsets[c]:offsets[c + 1]]`, and `names` its name.
    """

    begins: Times
    ends: Times
    offsets: Places
    names: tuple[str, ...]


class Trace:
    """The clients of a population as there were those of a record.

    `rows` (P,): whose windows each client follows, -1 for one that is never there. `period`: in
    milliseconds, after which all of it repeats; 0 for never.
    """

    def __init__(self, record: Record, *, rows: Places, period: int = 0) -> None:
        self._rows, self._period = rows, period
        self._begins, self._ends, self._offsets = record.begins, record.ends, record.offsets
        # One rising sequence for all clients, so that one search serves all of them.
        self._stride = int(self._ends.max(initial=0)) + 1
        owners = np.repeat(np.arange(len(self._offsets) - 1), np.diff(self._offsets))
        self._rising = owners * self._stride + self._ends

    def window(self, clients: Places, at: int) -> tuple[Times, Times]:
        turn, now = divmod(at, self._period) if self._period else (0, at)
        begins, ends = self._following(clients, now)
        if self._period:
            first, last = self._following(clients, 0)
            over = (begins == NEVER) & (first < NEVER)
            begins = np.where(over, first + self._period, begins)
            ends = np.where(over, last + self._period, ends)
            # Who is there at the end of a period and at the begin of the next was never away.
            ends += np.where((ends == self._period) & (first == 0), last, 0)
        found = begins < NEVER
        shift = np.where(found, turn * self._period, 0)
        return begins + shift, ends + shift

    def windows(self, clients: Places, at: int) -> tuple[Times, Times]:
        rows = self._rows[clients]
        rows = rows[rows >= 0]
        sizes = np.diff(self._offsets)[rows]
        starts = np.repeat(self._offsets[rows] - np.cumsum(sizes) + sizes, sizes)
        chosen = starts + np.arange(sizes.sum())
        begins, ends = self._begins[chosen], self._ends[chosen]
        if self._period:
            turn = at // self._period * self._period
            begins = np.concatenate([begins + turn, begins + turn + self._period])
            ends = np.concatenate([ends + turn, ends + turn + self._period])
        later = ends > at
        return begins[later], ends[later]

    def longest(self, clients: Places) -> Times:
        sizes, lengths = np.diff(self._offsets), self._ends - self._begins
        found = np.zeros(len(sizes) + 1, np.int64)  # the last is that of clients without a record
        np.maximum.at(found, np.repeat(np.arange(len(sizes)), sizes), lengths)
        some = np.flatnonzero(sizes)
        first, last = self._offsets[some], self._offsets[some + 1] - 1
        # Who is there at the end of a period and at the begin of the next was never away.
        around = (self._begins[first] == 0) & (self._ends[last] == self._period)
        joined = np.where(first == last, NEVER, lengths[first] + lengths[last])
        found[some] = np.where(around, np.maximum(found[some], joined), found[some])
        longest: Times = found[self._rows[clients]]
        return longest

    def _following(self, clients: Places, now: int) -> tuple[Times, Times]:
        """The first window of each client that ends after `now`, without repetitions."""
        rows = self._rows[clients]
        place = np.searchsorted(
            self._rising, rows * self._stride + min(now, self._stride - 1), side="right"
        )
        found = (rows >= 0) & (place < self._offsets[rows + 1])
        place = np.where(found, place, 0)
        if not len(self._begins):
            return np.full(len(rows), NEVER), np.full(len(rows), NEVER)
        return (
            np.where(found, self._begins[place], NEVER),
            np.where(found, self._ends[place], NEVER),
        )


def read_trace(path: Path, *, period: int = 0) -> Record:
    """The windows of a file, in milliseconds; those of a client that touch are one.

    `period`: after which they repeat, in milliseconds, 0 for never.
    Raises: DataFormatError, with the line.
    """
    found: dict[str, list[tuple[int, int, int]]] = {}
    for line, row in _rows(path):
        begin, end = _time(path, line, "from_s", row[1]), _time(path, line, "until_s", row[2])
        if not row[0] or begin >= end:
            raise _damaged(path, line, f"{','.join(row):.80}", "a named client is there for a time")
        found.setdefault(row[0], []).append((begin, end, line))
    begins: list[int] = []
    ends: list[int] = []
    offsets = [0]
    for windows in found.values():
        last = -1
        for begin, end, line in sorted(windows):
            if period and end > period:
                why = f"the trace repeats after {period / 1000} s"
                raise _damaged(path, line, f"a window until {end / 1000} s", why)
            if begin < last:
                why = "it overlaps another window of its client"
                raise _damaged(path, line, f"{begin / 1000} to {end / 1000} s", why)
            if begin == last:
                ends[-1] = end
            else:
                begins.append(begin)
                ends.append(end)
            last = end
        offsets.append(len(begins))
    return Record(
        begins=np.array(begins, np.int64),
        ends=np.array(ends, np.int64),
        offsets=np.array(offsets, np.int64),
        names=tuple(found),
    )


def _rows(path: Path) -> Sequence[tuple[int, list[str]]]:
    try:
        rows = [(number, row) for number, row in enumerate(csv.reader(read_lines(path)), 1) if row]
    except csv.Error as error:
        raise DataFormatError(
            f"the trace {path.name} is no CSV file", why=str(error), fix="save it as CSV in UTF-8"
        ) from error
    if not rows or rows[0][1] != _HEADER:
        shown = ",".join(rows[0][1]) if rows else ""
        raise _damaged(path, 1, f"{shown!r:.80}", f"the first line is {','.join(_HEADER)}")
    for number, row in rows[1:]:
        if len(row) != len(_HEADER):
            raise _damaged(path, number, f"{len(row)} fields", "a line has three")
    return rows[1:]


def _time(path: Path, line: int, name: str, text: str) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LATEST_S:
        raise _damaged(path, line, f"{name} = {text!r:.40}", "it is a number of seconds from 0 on")
    return round(1000 * seconds)


def _damaged(path: Path, line: int, what: str, why: str) -> DataFormatError:
    return DataFormatError(
        f"the trace {path.name}: {what}",
        why=why,
        fix="write client,from_s,until_s on the first line, and a window on each other",
        where=f"{path.name}:{line}",
    )
