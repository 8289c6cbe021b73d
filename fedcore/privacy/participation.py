"""Who took part, and when: kept so that nobody takes part sooner or more often than was planned.

The ledger holds keyed hashes of names, sealed, padded: a reader without the key learns neither who
nor how many. They let a plan without secret sampling state what it costs a unit that takes part.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from fedcore.entropy import SystemEntropy
from fedcore.errors import ArgumentError, LedgerError, ParticipationError

__all__ = ["ParticipationTable", "Participations", "Seal"]

_NAME_BYTES = 16
_PADDED_TO = 64  # names


class Seal:
    """Hashes names and encrypts lists of them under a key of 32 bytes.

    HMAC-SHA-256 cut to 16 bytes, so that a collision, which refuses somebody, has a chance of
    2^-89 among a million; AES-256-GCM with random nonces, good for 2^32 lists (NIST SP 800-38D).
    Raises: ArgumentError for a key of another length.
    """

    __slots__ = ("_cipher", "_names", "check")

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) != 32:
            raise ArgumentError(
                "a participation key is not 32 bytes",
                why="it keys HMAC-SHA-256 and AES-256-GCM",
                fix="pass os.urandom(32), and keep it where the ledger is not",
            )
        derived = HKDFExpand(SHA256(), 80, b"fedcore participation 1").derive(key)
        self._names, self._cipher = derived[:32], AESGCM(derived[32:64])
        self.check = derived[64:].hex()
        """Tells this key from others, and nothing else of it."""

    def names(self, units: Iterable[bytes]) -> tuple[bytes, ...]:
        """The keyed hash of each unit's name. Raises: ArgumentError for one that is not bytes."""
        units = tuple(units)  # an iterator could be gone once its types are checked
        if not all(isinstance(unit, bytes) for unit in units):
            raise ArgumentError(
                "a unit's name is not bytes",
                why="it is hashed as it stands, so it must have one form",
                fix="pass what names the unit in every round, as bytes",
            )
        return tuple(hmac.digest(self._names, unit, "sha256")[:_NAME_BYTES] for unit in units)

    def close(self, names: Sequence[bytes], *, place: bytes) -> str:
        """The list, readable only with the key and at this `place` of the chain."""
        padding = -len(names) % _PADDED_TO * _NAME_BYTES
        text = len(names).to_bytes(4, "big") + b"".join(names) + bytes(padding)
        nonce = SystemEntropy().token(12)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, text, place)).decode()

    def open(self, sealed: str, *, place: bytes) -> tuple[bytes, ...]:
        """The list that `close` was given. Raises: LedgerError for anything else."""
        try:
            data = base64.b64decode(sealed, validate=True)
            text = self._cipher.decrypt(data[:12], data[12:], place)
        except (ValueError, InvalidTag) as error:
            raise LedgerError(
                "a list of participants cannot be opened",
                why="it was not sealed with this key, or not for this place in the ledger",
                fix="pass the key that the ledger was created with",
            ) from error
        body = text[4:][: int.from_bytes(text[:4], "big") * _NAME_BYTES]
        return tuple(body[at : at + _NAME_BYTES] for at in range(0, len(body), _NAME_BYTES))


@dataclass(frozen=True)
class Participations:
    """How many units took part, how often all of them together, and the most frequent one."""

    units: int
    total: int
    most: int

    def left(self, *, population: int, maximum: int) -> int:
        """How often units of the population may still come, each `maximum` times in all."""
        return max(0, population * maximum - self.total)


@dataclass(eq=False)
class _Visit:
    """What may become one release; `before`: how many there were."""

    before: int
    released: bool = False


class ParticipationTable:
    """Counts and last visits of every unit under one plan.

    Between two visits of a unit lie at least `separation` releases, its own counted; it comes at
    most `maximum` times; there are at most `population` units. None: no such bound. A visit counts
    from when it is recorded, whether or not anything comes of it.
    """

    def __init__(
        self,
        separation: int | None = None,
        maximum: int | None = None,
        population: int | None = None,
    ) -> None:
        self._separation, self._maximum, self._population = separation, maximum, population
        self._releases = 0
        self._visits: dict[bytes, list[_Visit]] = {}
        self._visit = _Visit(0)

    def begin(self) -> None:
        """A new reservation: what follows belongs to it."""
        self._visit = _Visit(self._releases)

    def refused(self, names: Sequence[bytes], *, anew: bool = False) -> list[int]:
        """Which of these may not take part now: positions, ascending.

        `anew`: in the next reservation, for which the present one has led to nothing yet.
        A name that stands twice is refused the second time, and one more than there are units.
        """
        found, seen, units = [], set[bytes](), len(self._visits)
        for position, name in enumerate(names):
            new = name not in self._visits and name not in seen
            crowded = new and units == self._population
            if crowded or name in seen or not self._may(self._visits.get(name, []), anew):
                found.append(position)
            units += new and not crowded
            seen.add(name)
        return found

    def takes_part(self, name: bytes) -> bool:
        """Whether this one is recorded in the present reservation."""
        visits = self._visits.get(name)
        return visits is not None and visits[-1] is self._visit

    def check(self, names: Sequence[bytes]) -> None:
        """Raises: ParticipationError if some of these may not take part now."""
        if refused := self.refused(names):
            raise ParticipationError(
                f"{len(refused)} of {len(names)} units may not take part in this round",
                why=self._why(),
                fix="ask may_participate() first, and select among the others; for more units, "
                "migrate() to a plan of their number",
            )

    def admit(self, names: Sequence[bytes]) -> None:
        """These take part. Raises: ParticipationError if some of them may not; then none does."""
        self.check(names)
        for name in names:
            self._visits.setdefault(name, []).append(self._visit)

    def release(self) -> None:
        """What the current reservation has led to is a release; the next one may follow."""
        self._visit.released = True
        self._releases += 1
        self.begin()

    def summary(self) -> Participations:
        """The figures for a report."""
        counts = [len(visits) for visits in self._visits.values()]
        return Participations(units=len(counts), total=sum(counts), most=max(counts, default=0))

    def _may(self, visits: list[_Visit], anew: bool) -> bool:
        if not visits:
            return True
        last = visits[-1]
        # At least so far apart in the order of noisy steps: what was drawn and not released only
        # adds to the distance.
        distance = self._releases - last.before - last.released + 1
        return (
            (anew or last is not self._visit)
            and (self._maximum is None or len(visits) < self._maximum)
            and (self._separation is None or distance >= self._separation)
        )

    def _why(self) -> str:
        bounds = ["one takes part once in a round"]
        if self._maximum is not None:
            bounds.append(f"in at most {self._maximum} rounds")
        if self._separation is not None and self._separation > 1:
            bounds.append(f"{self._separation} rounds apart")
        if self._population is not None:
            bounds.append(f"and the plan counts {self._population} units in all")
        return ", ".join(bounds) + ": the noise was made for that"
