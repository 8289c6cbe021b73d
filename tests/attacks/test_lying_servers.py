"""A server that keeps to the wire and not to its word, before the real client program."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from fedclient import Client, Outcome
from fedclient.policy import PrivacyRules, TaskRules
from fedcore.data import Dataset
from fedcore.federated.clipping import announced, encode_clipping
from fedcore.federated.parameters import parameters_of
from fedcore.federated.programs import Progress, TrainingRequest, TrainingResult
from fedcore.federated.task import Task
from fedcore.model_format import encode_model
from fedcore.privacy import Adaptive
from fedcore.secagg import SecAggServer, Stage, encode
from fedcore.v1 import round_service_pb2 as rounds
from fedserver.services import fields
from tests.client.conftest import OPEN
from tests.client.devices import OPENLY, join, run_all
from tests.client.seats import Seat
from tests.client.server import NUMBERS, FakeServer
from tests.variants import mostly_slow

Flowers = Callable[[int], Dataset]


class TwoModels(FakeServer):
    """Lets clients train one model and says later that it was the one of the session."""

    def train(self, digest: bytes) -> dict[str, Any]:
        return {
            "train": rounds.Train(
                model_digest=digest,
                model_bytes=len(self.models[digest]),
                update_bytes=self.task.layout.upload_bytes,
            )
        }

    def decoy(self) -> bytes:
        data = b"".join(encode_model(self.theta + 1, parameters_of(self.task), metadata={}))
        digest = hashlib.sha256(data).digest()
        self.models[digest] = data
        return digest

    def _orders(self, seat: Seat) -> Iterator[tuple[int, dict[str, Any]]]:
        if len(self.present()) < self.goal:
            return
        assert self.session is not None
        stage = self.session.stage
        if stage is Stage.PREKEYS:
            yield 1, self.train(self.decoy())
            yield 2, self.train(self.digest)
            yield 3, {"advertise": rounds.Advertise()}
        else:
            for effect in self._due(seat.client):
                number = NUMBERS[type(effect.message)] + 1
                yield number, {"secure_aggregation": encode(effect.message)}


def test_a_session_gets_no_vector_that_was_trained_on_another_model(
    secure_task: Task, flowers: Flowers, tmp_path: Path
) -> None:
    server = TwoModels(secure_task, goal=5)
    server.start()
    try:
        devices = join(server, tmp_path, 5)
        found = run_all(devices, flowers)
    finally:
        server.stop()
    assert server.calls["Begin"] == 0
    assert [summary.outcome for [summary] in found] == [Outcome.FAILED] * 5
    for device in devices:
        device.close()


class TwoNorms(FakeServer):
    """Lets one client clip by the plan's norm and all others to next to nothing."""

    def _orders(self, seat: Seat) -> Iterator[tuple[int, dict[str, Any]]]:
        first = min(found.client for found in self.present())
        for number, order in super()._orders(seat):
            if "train" in order:
                order["train"].clipping = self.states[seat.client != first]
            yield number, order

    @cached_property
    def states(self) -> tuple[bytes, bytes]:
        plan = self.task.plan
        assert plan is not None and isinstance(plan.clipping, Adaptive)
        honest = plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
        tiny = honest
        for _ in range(8):
            tiny = tiny.next(2**40)  # as if every update had been far below the norm
        return encode_clipping(honest), encode_clipping(tiny)


@pytest.mark.parametrize("named", mostly_slow(["the others", "the model alone", "the first"]))
def test_a_session_gets_no_vectors_that_were_clipped_otherwise(
    flowers: Flowers, tmp_path: Path, named: str
) -> None:
    text = ADAPTIVE.replace('profile = "off"', 'profile = "malicious"\ngamma = 0.1\ndelta = 0.2')
    server = TwoNorms(Task.from_toml(text).resolved(), goal=5)
    honest, tiny = server.states
    assert honest != tiny
    kept = {"the model alone": b"", "the first": honest, "the others": tiny}[named]
    server.session = SecAggServer(
        server.task.session_config(),
        model_digest=announced(server.digest, kept),
        round=0,
        attempt=1,
        trust=server.trust,
        now=int(time.time()) + 600,
    )
    server.start()
    try:
        devices = join(server, tmp_path, 5)
        working = threading.Thread(target=run_all, args=(devices, flowers), daemon=True)
        working.start()
        server.wait_for(lambda: sum(seat.report is not None for seat in server.seats.values()) >= 1)
        server.end(rounds.Finished.OUTCOME_ABANDONED)
        working.join(20)
    finally:
        server.stop()
    given = {"the model alone": 0, "the first": 1, "the others": 4}[named]
    assert server.calls["Commit"] <= given and not server.totals
    for device in devices:
        device.close()


def test_a_place_in_a_task_that_is_assigned_again_gets_no_second_update(
    serve: Callable[..., FakeServer], open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    with Client.join(server.join_string, directory=folder) as device:
        [[first]] = run_all([device], flowers)
        assert first.outcome is Outcome.COMPLETED and len(server.totals) == 1
        server.theta = server.theta + 1  # another model, for the same round and attempt
        server.seats.clear()
        server.ended.clear()
        server._open_round()
        [[second]] = run_all([device], flowers)
    assert second.outcome is Outcome.REFUSED
    assert len(server.totals) == 1 and server.calls["Begin"] == 1


PRIVATE = (
    OPEN
    + """
[privacy]
unit = "client"
epsilon = 8.0
delta = 1e-2
population = 5
clipping_norm = 1.0
noise = "central"
minimum_separation = 1
maximum_participations = 4
"""
)


ADAPTIVE = PRIVATE.replace(
    'noise = "central"', 'noise = "shares"\nclipping = "adaptive"\ndenominator = 100'
)


class Loose(FakeServer):
    """Says that clipping has adapted to a norm far above that of the task."""

    def _orders(self, seat: Seat) -> Iterator[tuple[int, dict[str, Any]]]:
        plan = self.task.plan
        assert plan is not None and isinstance(plan.clipping, Adaptive)
        state = plan.clipping.start(noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid)
        for _ in range(8):
            state = state.next(-(2**40))
        for number, order in super()._orders(seat):
            if "train" in order:
                order["train"].clipping = encode_clipping(state)
            yield number, order


def test_clipping_adapts_to_no_norm_above_the_owners_ceiling(
    flowers: Flowers, folder: Path
) -> None:
    text = ADAPTIVE.replace('noise = "shares"', 'noise = "central"')
    server = Loose(Task.from_toml(text).resolved(), goal=1)
    server.start()
    policy = replace(OPENLY, privacy=PrivacyRules(clipping_ceiling=1.0))
    try:
        with Client.join(server.join_string, directory=folder) as device:
            [[summary]] = run_all([device], flowers, policy=policy)
    finally:
        server.stop()
    assert summary.outcome is Outcome.REFUSED and "clipping_ceiling" in summary.reason
    assert server.calls["Begin"] == 0


class Telling:
    """A program that says how far it is, and goes on once that was heard of."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def train(self, request: TrainingRequest) -> TrainingResult:
        request.progress(Progress(1, 3, 0.0))
        before = sum(self._server.beats.values())
        self._server.wait_for(lambda: sum(self._server.beats.values()) >= before + 2)
        return TrainingResult(request.theta * 0, len(request.dataset))


def test_what_a_policy_forbids_fits_into_a_report(
    serve: Callable[..., FakeServer], open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    authors = tuple(f"{number:064x}" for number in range(9))
    policy = replace(OPENLY, tasks=TaskRules(authors=authors))
    with Client.join(server.join_string, directory=folder) as device:
        [[summary]] = run_all([device], flowers, policy=policy)
    assert summary.outcome is Outcome.REFUSED
    [report] = [seat.report for seat in server.seats.values()]
    assert report is not None and "tasks.authors" in fields.text(report.detail, "detail")


def test_under_privacy_neither_energy_nor_progress_tell_of_the_data(
    serve: Callable[..., FakeServer], flowers: Flowers, folder: Path
) -> None:
    text = PRIVATE.replace('loss = "cross_entropy"', 'program = "telling"\nloss = "cross_entropy"')
    text = text.replace(
        'epochs = 1\nbatch_size = 8\n[training.optimizer]\nname = "sgd"\nlr = 0.1\n', ""
    )
    server = serve(Task.from_toml(text).resolved(), goal=1)
    heard: set[int] = set()
    beat = server.Heartbeat

    def heartbeat(client: bytes, request: Any) -> Any:
        heard.add(request.progress)
        return beat(client, request)

    server.Heartbeat = heartbeat  # type: ignore[method-assign]
    with Client.join(server.join_string, directory=folder) as device:
        [[summary]] = run_all([device], flowers, programs={"telling": Telling(server)})
    assert summary.outcome is Outcome.COMPLETED, summary.reason
    assert summary.energy.joules > 0, "the owner is told"
    [report] = [seat.report for seat in server.seats.values()]
    assert report is not None
    assert (report.energy_j, report.energy_measured) == (0.0, False)
    assert heard == {0}


def test_a_round_beyond_all_numbers_is_waited_out(
    serve: Callable[..., FakeServer], open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    server.round = 2**63
    told: list[str] = []
    with Client.join(server.join_string, directory=folder) as device:

        def tell(progress: object) -> None:
            told.append(str(progress))
            if "a round that is none" in told[-1]:
                device.stop()

        run = device.run(datasets={"flowers": flowers(0)}, policy=OPENLY, on_progress=tell)
        assert run == [] and device.assignment is None
    assert "a round that is none" in told[-1]
