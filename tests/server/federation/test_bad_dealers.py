"""Who deals bad shares and falls silent costs one attempt: it takes part in the task no more."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fedcore.entropy import Entropy, SystemEntropy
from fedcore.errors import StoreError
from fedcore.federated.task import Task
from fedcore.rounds import Phase
from fedcore.secagg import Identity, client as client_machine, sharing
from fedcore.secagg.keys import Channel, Prekey
from fedcore.secagg.messages import Shares
from fedcore.secagg.roster import RosterView
from fedserver.federation.interface import CheckIn, Outcome, RetryLater
from fedserver.federation.journal import Journal
from fedserver.store.records import RoundRef, TaskState
from tests.server.federation.device import Device
from tests.server.federation.test_several_servers import driven, overtaken, servers_in
from tests.server.federation.world import World, task_of, world_in

CLIENTS, BAD = 6, 5


def small(*, rounds: int = 1, attempts: int = 3) -> Task:
    """Of six clients one may be lost."""
    return task_of(
        clients=CLIENTS,
        minimum=CLIENTS - 1,
        rounds=rounds,
        attempts=attempts,
        deadline_s=2.0,
    )


def deals_badly(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """It deals shares of another key than it published, and is silent when it is to upload."""

    def deal(
        view: RosterView,
        prekey: Prekey,
        channels: Mapping[int, Channel],
        *,
        identity: Identity,
        entropy: Entropy,
    ) -> Shares:
        if identity is device.identity:
            prekey = replace(prekey, mask_secret=SystemEntropy().token(32))
        return sharing.deal(view, prekey, channels, identity=identity, entropy=entropy)

    monkeypatch.setattr(client_machine, "deal", deal)
    device.silent_at = lambda round, place: place == "upload"


async def named(world: World) -> list[str]:
    """Whom the audit log names."""
    entries = [found.entry for found in await world.store.audit_entries()]
    return [entry.object for entry in entries if entry.action == "client.bad_shares"]


async def phases(world: World) -> list[tuple[int, str]]:
    """How each attempt ended."""
    assert world.submitted is not None
    page = await world.store.rounds(world.submitted.task_id)
    return [(found.ref.attempt, found.phase) for found in page.rounds]


async def test_the_round_is_tried_again_without_who_dealt_bad_shares_and_was_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, small(rounds=2), clients=CLIENTS) as world:
        bad = world.devices[BAD]
        deals_badly(bad, monkeypatch)
        record = await world.run()
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 2)
        assert (await phases(world))[:2] == [(1, "ABANDONED"), (2, "SCRUBBED")]
        assert await named(world) == [bad.identity.id.hex()]
        assert bad.contributions == 1
        done = [(0, 2, Outcome.COMPLETED), (1, 1, Outcome.COMPLETED)]
        assert all(device.outcomes[-2:] == done for device in world.devices[:BAD])


async def test_who_dealt_bad_shares_is_on_record_before_what_proves_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, small(), clients=CLIENTS) as world:
        bad, bar, failed = world.devices[BAD], Journal.bar, list[bytes]()
        deals_badly(bad, monkeypatch)

        async def fails_once(self: Journal, client: bytes, how: str) -> bool:
            if not failed:
                failed.append(client)
                raise StoreError("the disk is full")
            return await bar(self, client, how)

        monkeypatch.setattr(Journal, "bar", fails_once)
        record = await world.run()
        assert record.state is TaskState.COMPLETED
        assert failed == [bad.identity.id] and await named(world) == [bad.identity.id.hex()]
        assert bad.contributions == 1


@dataclass
class _Spare(Device):
    """A device that comes once the first attempt is over."""

    async def serve(self, world: World) -> None:
        assert world.submitted is not None
        await world.attempt_over(RoundRef(world.submitted.task_id, 0, 1))
        await super().serve(world)


async def test_where_owners_allow_one_update_a_round_others_take_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gives a second update, which would be a second release.

    Five have given theirs, and an attempt bears the loss of one of them: two may fail for the rest.
    """
    async with world_in(tmp_path, small(attempts=4), clients=2 * CLIENTS) as world:
        once = [replace(device.policy, attempts=1) for device in world.devices]
        kinds = [Device] * CLIENTS + [_Spare] * CLIENTS
        world.devices = [
            kind(device.name, device.identity, policy)
            for kind, device, policy in zip(kinds, world.devices, once, strict=True)
        ]
        bad = world.devices[BAD]
        deals_badly(bad, monkeypatch)
        record = await world.run()
        assert record.state is TaskState.COMPLETED, record.reason
        assert await named(world) == [bad.identity.id.hex()]
        gave = [
            device.name
            for device in world.devices[:CLIENTS]
            if any(outcome is Outcome.COMPLETED for *_, outcome in device.outcomes)
        ]
        assert gave == []


def asked() -> CheckIn:
    none = frozenset[str]()
    return CheckIn(secrets.token_bytes(16), "", "1", none, frozenset({"toy"}), none)


async def test_who_was_barred_stays_so_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_in(tmp_path, small(rounds=3), clients=CLIENTS) as world:
        bad = world.devices[BAD]
        deals_badly(bad, monkeypatch)
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.SCRUBBED)
        await world.crash()
        assert world.federation is not None
        assert isinstance(await world.federation.check_in(bad.caller, asked()), RetryLater)
        record = await running
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 3)
        assert await named(world) == [bad.identity.id.hex()]
        assert bad.contributions == 1


async def test_who_was_barred_stays_so_with_the_next_server(tmp_path: Path) -> None:
    async with servers_in(tmp_path, task_of(clients=3, minimum=3)) as world:
        first, second = world.rivals
        assert world.submitted is not None
        task_id, bad = world.submitted.task_id, world.devices[0].identity.id
        attempt = first.federation._drivers[task_id].attempt
        assert attempt is not None
        assert await attempt.journal.bar(bad, "its shares contradict each other")
        first.store.stop_at = first.store.steps + 1
        await overtaken(world)
        await driven(second, world)
        assert bad in second.federation._drivers[task_id].left_out
        assert await named(world) == [bad.hex()]
