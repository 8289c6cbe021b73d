"""Whole tasks through a real store: what comes out is what the reference finds, to the bit."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
import structlog

from fedcore.errors import DivergenceError, StoreError
from fedcore.federated.algorithms import Algorithm
from fedcore.federated.payments import Payment
from fedcore.federated.reference import train_in_process
from fedcore.federated.task import Task
from fedcore.rounds import Phase
from fedserver.federation.federation import LocalFederation
from fedserver.federation.interface import Outcome
from fedserver.store.records import RoundRef, TaskState
from tests.server.federation.device import data_of
from tests.server.federation.world import World, task_of, world_in
from tests.variants import mostly_slow

MASKED = 'profile = "malicious"\ndelta = 0.2\ngamma = 0.0'
RECORDS = """
[privacy]
unit = "record"
epsilon = 50.0
delta = 1e-3
population = 120
clipping_norm = 1.0
noise = "shares"
sampling_rate = 0.5
"""
CLIENTS = """
[privacy]
unit = "client"
epsilon = 50.0
delta = 1e-2
population = 5
clipping_norm = 1.0
noise = "{noise}"
minimum_separation = 1
maximum_participations = 4
"""
SAMPLED = """
[privacy]
unit = "client"
epsilon = 4.0
delta = 1e-2
population = 40
clipping_norm = 1.0
noise = "central"
sampling_rate = 0.5
"""


def models_of(task: Task, world: World, *, without: frozenset[int] = frozenset()) -> list[bytes]:
    """The models that the same clients find in one process."""
    names = [device.name for i, device in enumerate(world.devices) if i not in without]
    found = train_in_process(task, {name: data_of(name) for name in names})
    return [theta.tobytes() for theta in found]


async def final_of(world: World) -> bytes:
    return (await world.theta(await world.final())).tobytes()


@pytest.mark.parametrize(
    "secure",
    # Plain sums are held against the reference by test_forgetting.py, too.
    [pytest.param("", marks=pytest.mark.slow), MASKED],
    ids=["plain", "masked"],
)
async def test_a_task_ends_with_the_models_of_the_reference(tmp_path: Path, secure: str) -> None:
    task = task_of(secure=secure)
    async with world_in(tmp_path, task) as world:
        record = await world.run()
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 2)
        assert await final_of(world) == models_of(task, world)[-1]
        told = world.metrics.exposition().decode()
        ended = re.findall(r'^fedcore_rounds_total\{outcome="(\w+)"\} ([1-9].*)$', told, re.M)
        assert ended == [("COMPLETED", "2.0")]  # each attempt is counted once
        for device in world.devices:
            assert [outcome for _, _, outcome in device.outcomes] == [Outcome.COMPLETED] * 2
            assert device.contributions == 2


async def test_figures_that_no_honest_clients_report_end_no_round_and_are_not_shown(
    tmp_path: Path,
) -> None:
    task = task_of(extra='[evaluation]\nevery = 1\nmetrics = ["accuracy"]')
    async with world_in(tmp_path, task) as world:
        world.devices[2].lie = {"evaluation_accuracy": 1e6}
        with structlog.testing.capture_logs() as logs:
            record = await world.run()
        assert record.state is TaskState.COMPLETED
        assert await final_of(world) == models_of(task, world)[-1]
        shown = await world.store.metrics(RoundRef(record.task_id, 1, 1))
        assert "loss" in shown and not any(name.startswith("evaluation_") for name in shown)
        told = [
            (log["round"], log["figures"]) for log in logs if log["event"] == "round.impossible"
        ]
        assert told == [(round, ["evaluation_accuracy"]) for round in (0, 1)]


PLACES = ["confirm", "upload", "train", "share", "uploading", "commit", "answer"]


@pytest.mark.parametrize("place", mostly_slow(PLACES))
async def test_a_lost_client_is_in_the_sum_if_its_update_was_acknowledged(
    tmp_path: Path, place: str
) -> None:
    task = task_of(rounds=1, minimum=4, secure=MASKED, heartbeat_s=0.5)
    async with world_in(tmp_path, task) as world:
        world.devices[2].silent_at = lambda round, where: where == place
        record = await world.run()
        assert record.state is TaskState.COMPLETED
        lost = frozenset() if place in ("confirm", "answer") else frozenset({2})
        assert await final_of(world) == models_of(task, world, without=lost)[-1]


async def test_a_round_without_enough_clients_is_tried_again_with_fresh_keys(
    tmp_path: Path,
) -> None:
    task = task_of(rounds=1, secure=MASKED, heartbeat_s=0.5)
    async with world_in(tmp_path, task) as world:
        left = {"more": 1}

        def silent(round: int, where: str) -> bool:
            if where == "upload" and left["more"]:
                left["more"] = 0
                return True
            return False

        world.devices[1].silent_at = silent
        record = await world.run()
        assert record.state is TaskState.COMPLETED
        assert await final_of(world) == models_of(task, world)[-1]
        kept = await world.store.latest_attempt(record.task_id, 0)
        assert kept is not None
        assert kept.ref.attempt == 2


KILLED_AT = [
    Phase.COLLECTING,
    Phase.KEYS,
    Phase.UNMASKING,
    Phase.SELECTING,
    Phase.SHARES,
    Phase.CONFIRMING,
    Phase.COMPLETED,
]


@pytest.mark.parametrize("phase", mostly_slow(KILLED_AT), ids=lambda phase: phase.name)
async def test_a_server_that_is_killed_ends_with_the_same_model(
    tmp_path: Path, phase: Phase
) -> None:
    task = task_of(secure=MASKED)
    async with world_in(tmp_path, task) as world:
        running = asyncio.ensure_future(world.run())
        await world.in_phase(phase)
        await world.crash()
        record = await running
        assert record.state is TaskState.COMPLETED
        assert await final_of(world) == models_of(task, world)[-1]
        assert [device.contributions for device in world.devices] == [2] * 5


@pytest.mark.parametrize(
    ("privacy", "algorithm"),
    [
        pytest.param(RECORDS, 'name = "fedsgd"\nlr = 0.5', marks=pytest.mark.slow),
        (CLIENTS.format(noise="shares"), 'name = "fedavg"'),
        pytest.param(
            CLIENTS.format(noise="central"),
            'name = "fedadam"\nlr = 0.1',
            marks=pytest.mark.slow,
        ),
        pytest.param(SAMPLED, 'name = "fedavg"', marks=pytest.mark.slow),
    ],
    ids=["records", "shares", "central", "sampled"],
)
async def test_the_ledger_is_charged_once_a_round_whatever_happens(
    tmp_path: Path, privacy: str, algorithm: str
) -> None:
    clients, minimum, secure = (40, 1, "") if privacy is SAMPLED else (5, 4, MASKED)
    task = task_of(
        clients=clients, minimum=minimum, secure=secure, privacy=privacy, algorithm=algorithm
    )
    async with world_in(tmp_path, task, clients=clients) as world:
        running = asyncio.ensure_future(world.run())
        for phase in (Phase.COLLECTING, Phase.COMPLETED):
            await world.in_phase(phase)
            await world.crash()
        record = await running
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 2)
        assert world.federation is not None
        certificate = json.loads(await world.federation.certificate(world.user, record.task_id))
        spent = await world.federation.spent(world.user, record.task_id)
        assert 0 < spent.epsilon <= spent.budget
        assert list(spent.by_round) == [0, 1]
        account = await world.account()
        assert sum(account.ledger.spent.values()) >= 2
        assert account.ledger.history.reservations == 2, certificate


async def test_a_server_that_dies_before_it_says_who_takes_part_goes_on_with_what_it_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, real_upload, begun = Payment.begin, LocalFederation.begin_upload, []

    def dies_once(payment: Payment, *terms: Any) -> None:
        begun.append(terms)
        if len(begun) == 1:
            raise StoreError("the server died", why="a test", fix="none")
        real(payment, *terms)

    async def once_it_goes_on(*asked: Any, **terms: Any) -> Any:
        for _ in range(500):
            if len(begun) == 2:
                break
            await asyncio.sleep(0.01)
        return await real_upload(*asked, **terms)

    monkeypatch.setattr(Payment, "begin", dies_once)
    monkeypatch.setattr(LocalFederation, "begin_upload", once_it_goes_on)
    monkeypatch.setattr("fedserver.federation.interruptions._PAUSE_S", 0.0)
    task = task_of(rounds=1, secure="", privacy=CLIENTS.format(noise="central"))
    async with world_in(tmp_path, task) as world:
        record = await world.run()
        found = await world.store.latest_attempt(record.task_id, 0)
        assert (record.state, found and found.ref.attempt) == (TaskState.COMPLETED, 1)
        account = await world.account()
        assert (len(begun), account.ledger.history.reservations) == (2, 1)


@pytest.mark.parametrize("privacy", mostly_slow([CLIENTS.format(noise="central"), SAMPLED]))
async def test_a_round_that_was_released_in_vain_says_why_and_what_it_has_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privacy: str
) -> None:
    def diverge(*_: object, round: int) -> NoReturn:
        raise DivergenceError(f"the model is not finite after round {round}")

    monkeypatch.setattr(Algorithm, "apply", diverge)
    clients, minimum, secure = (40, 1, "") if privacy is SAMPLED else (5, 4, MASKED)
    task = task_of(clients=clients, minimum=minimum, secure=secure, privacy=privacy)
    async with world_in(tmp_path, task, clients=clients) as world:
        record = await world.run()
        assert record.state is TaskState.FAILED
        assert record.reason == (
            "round 1 failed for good after 1 attempt: "
            "FED-1301 the model is not finite after round 0"
        )
        assert world.federation is not None
        spent = await world.federation.spent(world.user, record.task_id)
        failed = await world.store.latest_attempt(record.task_id, 0)
        assert failed is not None
        assert failed.epsilon == spent.epsilon > 0


async def test_what_failed_for_good_keeps_the_count_of_a_secret_sample(tmp_path: Path) -> None:
    task = task_of(clients=40, rounds=6, minimum=1, secure="", privacy=SAMPLED, deadline_s=0.1)
    async with world_in(tmp_path, task, clients=40) as world:
        world.devices = []  # nobody comes
        record = await world.run()
        assert record.state is TaskState.FAILED
        assert record.reason == (
            "round 1 failed for good after 3 attempts: `fed round list` says how"
        )
        found = (await world.store.rounds(record.task_id, after_event=0, limit=9)).rounds
        assert world.federation is not None
        spent = await world.federation.spent(world.user, record.task_id)
        epsilons = [one.epsilon for one in sorted(found, key=lambda one: one.ref.attempt)]
        assert len(epsilons) == 3 and epsilons == sorted(set(epsilons))
        assert epsilons[0] > 0 and epsilons[-1] == spent.epsilon
