"""Whoever may try without being known is slowed down, and whoever guesses is locked out.

Counted by network, in memory: a restart forgets, which gives a guesser of 256-bit tokens
nothing. An attempt that succeeds is given back, so that a ward full of devices behind one address
can enrol at the speed of its tokens.

Whoever is known gets a new certificate as often as a device could want one, and no more often: each
is a row of the database, and another of the audit log.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from fedcore.errors import OverloadedError
from fedserver.admission import Rates
from fedserver.networks import network_of

__all__ = ["EnrolmentLimits", "RenewalLimits", "Try"]

_MINUTE_MS: Final = 60_000
_LOCKED_MS: Final = 15 * _MINUTE_MS
_ADDRESSES: Final = 65_536
_RENEWALS_AT_ONCE: Final = 20
_RENEWAL_EVERY_S: Final = 600.0


@dataclass(slots=True)
class _Record:
    """Of one address: tries left, as of when; failures in a row; locked until when."""

    left: float
    at_ms: int
    failures: int = 0
    locked_until_ms: int = 0


class Try:
    """One attempt, for its owner to say how it ended; without a word it counts, and is no guess."""

    def __init__(self, record: _Record, limits: EnrolmentLimits) -> None:
        self._record, self._limits = record, limits

    def succeeded(self) -> None:
        """Gives the attempt back, and forgets earlier failures."""
        self._record.left = min(self._record.left + 1, self._limits.per_minute)
        self._record.failures = 0

    def failed(self) -> None:
        """Counts a wrong guess; the last of too many locks the address."""
        self._record.failures += 1
        if self._record.failures >= self._limits.failures:
            self._record.locked_until_ms = self._limits.now_ms() + _LOCKED_MS
            self._record.failures = 0


class EnrolmentLimits:
    """How often an address may try: `per_minute`, and `failures` in a row before 15 locked minutes.

    `now_ms`: a clock in milliseconds. Of 65,536 addresses the one that tried first is forgotten.
    """

    def __init__(
        self, now_ms: Callable[[], int], *, per_minute: int = 60, failures: int = 10
    ) -> None:
        self.now_ms, self.per_minute, self.failures = now_ms, per_minute, failures
        self._records: OrderedDict[str, _Record] = OrderedDict()

    @contextmanager
    def attempt(self, address: str) -> Iterator[Try]:
        """One attempt of an address. Raises: OverloadedError, which says when it may try again."""
        record, now_ms = self._record(network_of(address)), self.now_ms()
        if now_ms < record.locked_until_ms:
            raise _slowed("it tried too many wrong tokens", record.locked_until_ms - now_ms)
        regained = max(0, now_ms - record.at_ms) * self.per_minute / _MINUTE_MS
        record.left, record.at_ms = min(self.per_minute, record.left + regained), now_ms
        if record.left < 1:
            wait_ms = int((1 - record.left) * _MINUTE_MS / self.per_minute) + 1
            raise _slowed(f"it may try {self.per_minute} times a minute", wait_ms)
        record.left -= 1
        yield Try(record, self)

    def _record(self, network: str) -> _Record:
        record = self._records.setdefault(network, _Record(self.per_minute, self.now_ms()))
        self._records.move_to_end(network)
        if len(self._records) > _ADDRESSES:
            self._records.popitem(last=False)
        return record


class RenewalLimits:
    """How often a client may have another certificate: 20 at once, then one in ten minutes.

    A device wants one in 16 hours, and again for each answer that was lost or not kept. Only one
    whose clock is most of a day fast wants more. Up to a day it goes on with what it has when it is
    refused; beyond that it comes again when it is told to.
    `now_s`: any clock that never goes back.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._rates = Rates(rate=1 / _RENEWAL_EVERY_S, burst=_RENEWALS_AT_ONCE, most=_ADDRESSES)

    def count(self, client_id: bytes) -> None:
        """Counts a certificate. Raises: OverloadedError, which says when there is another."""
        wait_s = self._rates.take(client_id.hex(), now_s=self._now_s())
        if wait_s > 0:
            raise OverloadedError(
                "this client renews its certificate too often",
                why=f"it had {_RENEWALS_AT_ONCE} at once, and one more comes free every"
                f" {_RENEWAL_EVERY_S / 60:g} minutes",
                fix="go on with the newest one; see whether the device's clock is right",
                retry=(int(1000 * wait_s) + 1, int(1500 * wait_s) + 1),
            )


def _slowed(why: str, wait_ms: int) -> OverloadedError:
    return OverloadedError(
        "this network address tries to enrol too often",
        why=why,
        fix="wait, and check the join string",
        retry=(wait_ms, wait_ms + wait_ms // 2),
    )
