"""What a private round has released, and how the round went: both outlive a kill.

The ledger keeps what was released, for nothing. How the round went is written down just before, so
that a process that is killed before its checkpoint has paid for the round once and not in vain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedcore.errors import DataFormatError
from fedcore.federated.payments import Account, Payment
from fedcore.privacy import Head, PrivateMean, QuantileState
from fedsim.clock import ClockState, RoundTimeline
from fedsim.modes.exact import Totals
from fedsim.modes.passed import Passed
from fedsim.records.durable import disk, write_atomically
from fedsim.records.plain_json import canonical_json, from_plain, parse_json, to_plain

__all__ = ["Release", "Releases", "announced_head"]

_NAME: Final = "release.json"


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """A round's mean under its noise, how the round went, and where the clock stands after it."""

    mean: PrivateMean
    passed: Passed
    clock: ClockState


@dataclass(frozen=True, slots=True, kw_only=True)
class _Announced:
    """What is durable before a release. `clock`: the record of its state, as JSON.

    `head`: the ledger's, as JSON, with the reservation in it; "" in runs of earlier releases.
    """

    round: int
    reservation: int
    passed: Passed
    clock: str
    head: str = ""


class Releases:
    """The releases of one run, paid from its `account`. `folder`: the run's."""

    def __init__(self, account: Account, folder: Path) -> None:
        self.account, self._path = account, folder / _NAME

    def found(self, number: int, clipping: QuantileState | None) -> Release | None:
        """What a process that was killed has released for a round, or None.

        Raises: DataFormatError if it is not said how that round went; LedgerError.
        """
        mean = self.account.released(number, clipping)
        if mean is None:
            return None
        told = _told(self._path)
        if told is None or (told.round, told.reservation) != (number, mean.receipt.seq):
            raise DataFormatError(
                f"{_NAME} does not tell of round {number + 1}",
                where=str(self._path),
                why="the ledger has released that round, and it is not released twice",
                fix="restore the file, or begin a new run: what was released is in the ledger",
            )
        return Release(mean, told.passed, ClockState.from_record(json.loads(told.clock)))

    def release(
        self,
        number: int,
        payment: Payment,
        totals: Totals,
        *,
        timeline: RoundTimeline,
        clipping: QuantileState | None,
    ) -> Release:
        """Releases the sum of a round that went as its `timeline` says.

        Raises: CheckpointError if the disk takes nothing, before anything is released; what
        `Payment.release` raises.
        """
        passed = Passed.of_timeline(timeline)
        told = _Announced(
            round=number,
            reservation=payment.reservation.seq,
            passed=passed,
            clock=json.dumps(timeline.after.to_record()),
            head=json.dumps(self.account.ledger.head.to_json()),
        )
        with disk(self._path.parent):
            write_atomically(self._path, [canonical_json(to_plain(told)) + b"\n"])
        reports = len(timeline.last.survivors)
        mean = payment.release(totals, reports=reports, clipping=clipping)
        return Release(mean, passed, timeline.after)


def announced_head(folder: Path) -> Head | None:
    """Of the ledger as it was when a run's folder was last told of a release; None if never.

    A ledger that is older has been rolled back. Raises: DataFormatError.
    """
    told = _told(folder / _NAME)
    if told is None or not told.head:
        return None
    return Head.from_json(parse_json(told.head.encode(), place=f"{_NAME}: head"))


def _told(path: Path) -> _Announced | None:
    if not path.exists():
        return None
    return from_plain(_Announced, parse_json(path.read_bytes(), place=_NAME), place=_NAME)
