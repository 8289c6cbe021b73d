"""A server dies at the worst lines of a private round: one release a round, each paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedcore import failpoints
from fedcore.federated.payments import Payment
from fedcore.privacy import released_mean
from fedserver.store.records import TaskState
from tests.server.federation.test_rounds import CLIENTS, MASKED
from tests.server.federation.world import World, task_of, world_in

PLACES = [
    "release.before_reserve",
    "release.after_reserve",
    "secagg.after_persist",
    "release.before_publish",
    "release.after_publish",
    "complete.before_commit",
    "complete.after_commit",
    "round.after_persist",
]
QUICK = [("release.after_reserve", "shares")]


class Died(BaseException):
    """The process is gone."""


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.disarm()


def dies(place: str, died: asyncio.Event, *, hit: int = 1) -> None:
    """Makes the process die where it comes by `place` for the `hit`-th time."""
    loop, left = asyncio.get_running_loop(), [hit]

    def act() -> None:
        left[0] -= 1
        if not left[0]:
            loop.call_soon_threadsafe(died.set)
            raise Died

    failpoints._armed[place] = act


async def releases_of(world: World) -> list[bytes]:
    """What the ledger released, round by round."""
    account = await world.account()
    found = []
    for round in range(world.task.rounds.count):
        mean = released_mean(account.ledger, round)
        assert mean is not None
        found.append(mean.vector.tobytes())
    assert account.ledger.history.reservations == world.task.rounds.count
    assert account.ledger.participations.total == world.task.rounds.count * len(world.devices)
    return found


@pytest.mark.parametrize(
    ("place", "noise"),
    [
        pytest.param(place, noise, marks=[] if (place, noise) in QUICK else [pytest.mark.slow])
        for place in PLACES
        for noise in ("central", "shares")
    ],
)
async def test_one_release_a_round_and_the_model_is_made_of_it(
    tmp_path: Path, place: str, noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, bytes]] = []  # every noisy sum that was ever made
    release = Payment.release

    def released(self: Payment, *args: object, **options: object) -> object:
        mean = release(self, *args, **options)  # type: ignore[arg-type]
        drawn.append((self.reservation.seq, mean.vector.tobytes()))
        return mean

    monkeypatch.setattr(Payment, "release", released)
    task = task_of(rounds=1, minimum=5, secure=MASKED, privacy=CLIENTS.format(noise=noise))
    async with world_in(tmp_path, task) as world:
        died = asyncio.Event()
        dies(place, died, hit=4 if place == "round.after_persist" else 1)
        running = asyncio.ensure_future(world.run())
        await asyncio.wait_for(died.wait(), 20)
        failpoints.disarm()
        await world.crash()
        record = await asyncio.wait_for(running, 30)
        assert record.state is TaskState.COMPLETED
        [only] = await releases_of(world)
        assert [vector for _, vector in drawn if vector != only] == []
        assert all(device.contributions == 1 for device in world.devices)
