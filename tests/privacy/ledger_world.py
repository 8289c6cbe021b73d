"""A small training run over a ledger, a disk that can stop, fail or lose power, and an oracle.

The oracle counts every draw of noise and remembers every payload that was published; both survive
whatever happens to the run.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fedcore.errors import LedgerError
from fedcore.privacy.banded import Strategy
from fedcore.privacy.clipping import Flat
from fedcore.privacy.ledger import Head, Ledger
from fedcore.privacy.noise import BandedNoise, CentralNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.sampling import Poisson, Uncontrolled, rate_of
from fedcore.privacy.units import Adjacency, Unit

__all__ = [
    "CALLS",
    "FILE",
    "KEY",
    "POINTS",
    "Disk",
    "Killed",
    "World",
    "banded",
    "bounded",
    "plan_of",
    "release",
    "run",
    "written",
]

FILE = "privacy.ledger"
KEY = bytes(range(32))
CALLS = ("open", "write", "pwrite", "fsync", "ftruncate", "mkdir")
POINTS = (
    "before the fsync of RESERVE",
    "after the fsync of RESERVE",
    "after selection",
    "after the sum",
    "after the draw",
    "after the fsync of the payload",
    "after RELEASE",
    "after the checkpoint",
    "after publishing",
)


def plan_of(**changes: Any) -> PrivacyPlan:
    """A plan of three Poisson rounds, or a changed one."""
    plan = PrivacyPlan(
        unit=Unit.CLIENT,
        adjacency=Adjacency.ADD_REMOVE,
        population=1000,
        sampling=Poisson(rate_of(Fraction(1, 100))),
        clipping=Flat(Fraction(1)),
        noise=CentralNoise(),
        noise_multiplier=Fraction(1),
        denominator=10,
        dimension=4,
        rounds=3,
        epsilon=2.0,
        delta=1e-5,
    )
    return replace(plan, **changes)


def bounded(separation: int, maximum: int, **changes: Any) -> PrivacyPlan:
    """A plan without sampling, whose participations are bounded."""
    options = {"epsilon": 50.0, "noise_multiplier": Fraction(2), "rounds": 10, **changes}
    options.setdefault("adjacency", Adjacency.ZERO_OUT)
    return plan_of(sampling=Uncontrolled(separation, maximum), **options)


def banded(rounds: int) -> PrivacyPlan:
    """A plan of one matrix of rounds."""
    return plan_of(
        sampling=Uncontrolled(2, 2),
        adjacency=Adjacency.ZERO_OUT,
        noise=BandedNoise(Strategy((1024, 512))),
        grid_steps=2**16,
        noise_multiplier=Fraction(2),
        rounds=rounds,
        epsilon=10.0,
    )


def release(ledger: Ledger, round_: int, payload: bytes = b"payload") -> Head:
    """One round, whoever takes part in it."""
    reservation = ledger.reserve(round_)
    reservation.mark_drawn()
    return reservation.release(payload).head


def written(folder: Path) -> bytes:
    """A ledger with one of each record, closed."""
    with Ledger.create(folder, bounded(1, 3), participation_key=KEY) as ledger:
        for round_ in range(2):
            reservation = ledger.reserve(round_)
            reservation.participate([b"unit"])
            reservation.mark_drawn()
            reservation.release(b"payload %d" % round_)
        ledger.reserve(2).void("nobody came")
        ledger.migrate(bounded(1, 4))
        ledger.reserve(2)
        ledger.finish()
    return (folder / FILE).read_bytes()


class Killed(BaseException):
    """The process is no more: nothing of it handles this."""


@dataclass
class World:
    """What outlives the process: the oracle's counts, what was published, the last checkpoint."""

    plan: PrivacyPlan = field(default_factory=plan_of)
    draws: Counter[int] = field(default_factory=Counter)
    published: dict[int, bytes] = field(default_factory=dict)
    checkpoint: Head | None = None

    def check(self, ledger: Ledger) -> None:
        """That every draw is paid for, and what was published is what the ledger serves."""
        spent = compose({self.plan.event: self.draws.total()}, self.plan.adjacency)
        owed = epsilon(spent, self.plan.failure)[0] if self.draws else 0.0
        assert ledger.epsilon() >= owed
        assert ledger.spent.get(self.plan.event, 0) >= self.draws.total()
        for round_, payload in self.published.items():
            assert ledger.released(round_) == payload


def open_or_create(folder: Path, world: World) -> Ledger:
    """As a training program starts."""
    if world.checkpoint is None:
        try:
            return Ledger.create(folder, world.plan, participation_key=KEY)
        except LedgerError:
            pass
    return Ledger.open(folder, checkpoint=world.checkpoint, plan=world.plan, participation_key=KEY)


def run(folder: Path, world: World, *, point: Callable[[str], None] = lambda name: None) -> None:
    """Three rounds with a toy mechanism: its noise is its payload, so no two draws are alike."""
    with open_or_create(folder, world) as ledger:
        world.check(ledger)
        for round_ in range(world.plan.rounds):
            payload = ledger.released(round_)
            if payload is None:
                point("reserve")
                reservation = ledger.reserve(round_)
                reservation.select()
                reservation.participate([b"somebody", b"and somebody else"])
                point("after selection")
                point("after the sum")
                reservation.mark_drawn()
                world.draws[round_] += 1
                payload = os.urandom(16)
                point("after the draw")
                reservation.release(payload)
                point("after RELEASE")
            world.checkpoint = ledger.head
            point("after the checkpoint")
            assert world.published.setdefault(round_, payload) == payload
            point("after publishing")
        world.check(ledger)


class Disk:
    """The calls of `os` that change a disk, counted; one of them stops the process or fails.

    Nothing is really synced: `synced` holds, by path, what a power cut leaves of a file for sure,
    and `entries` the files whose names are sure to be found.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.synced: dict[Path, bytes] = {}
        self.entries: set[Path] = set()
        self.act: Callable[[Disk, str, Callable[..., Any], tuple[Any, ...]], Any] | None = None
        self._paths: dict[int, Path] = {}
        self._dead = False
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    @contextmanager
    def process(self, act: Callable[..., Any] | None = None) -> Iterator[None]:
        """One life of a process, from its first call; `act(disk, name, perform, args)` may act."""
        self.calls, self.act, self._dead = [], act, False
        try:
            yield
        finally:
            self.act, self._dead = None, False

    def kill(self) -> Killed:
        """From here on nothing reaches the disk."""
        self._dead = True
        return Killed()

    def path(self, descriptor: int) -> Path:
        """What the descriptor was opened as."""
        return self._paths[descriptor]

    def lose_power(self, folder: Path, *, but: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """Leave what is synced, under names that are, and files of `but` with these contents."""
        for path in list(folder.iterdir()):
            if path.name in but:
                path.write_bytes(but[path.name])
            elif path in self.entries:
                path.write_bytes(self.synced.get(path, b""))
            else:
                path.unlink()
                continue
            self.entries.add(path)
            self.synced[path] = path.read_bytes()

    def copy(self, folder: Path, target: Path) -> None:
        """A twin of the folder and of what is known of it."""
        shutil.copytree(folder, target)
        for path in folder.iterdir():
            if path in self.synced:
                self.synced[target / path.name] = self.synced[path]
            if path in self.entries:
                self.entries.add(target / path.name)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._dead:
                raise Killed

            def perform() -> Any:
                if name == "fsync":
                    return self.sync(self._paths[args[0]])
                found = real(*args, **kwargs)
                if name == "open":
                    self._paths[found] = Path(args[0])
                return found

            self.calls.append(name)
            return perform() if self.act is None else self.act(self, name, perform, args)

        return call

    def sync(self, path: Path) -> None:
        """What the file, or the folder's list of names, is now survives."""
        if path.is_dir():
            self.entries |= set(path.iterdir())
        else:
            self.synced[path] = path.read_bytes()
