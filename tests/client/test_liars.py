"""A server that departs from the signed task gets nothing: no shares, no vector, no training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclient import Client, Outcome, Summary
from fedclient.aggregation import _check_terms
from fedclient.assignment import OpenAssignment
from fedcore.data import Dataset
from fedcore.errors import ConsistencyError
from fedcore.federated.task import Task
from fedcore.secagg import Prg, SecAggServer
from fedcore.secagg.messages import Roster
from fedcore.secagg.transcript import path_depth
from fedcore.v1 import client_service_pb2, common_pb2
from tests.client.devices import join, run_all
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]


def session(server: FakeServer, **changes: Any) -> SecAggServer:
    """A session of other terms than the task's, each within the owner's policy."""
    place = {"round": server.round, "attempt": server.attempt, "model_digest": server.digest}
    place |= {name: changes.pop(name) for name in list(changes) if name in place}
    config = replace(server.task.session_config(), **changes)
    now = int(time.time()) + 600
    return SecAggServer(config, trust=server.trust, now=now, **place)


def refused(devices: list[Client], flowers: Flowers) -> None:
    found: list[list[Summary]] = run_all(devices, flowers)
    assert [summary.outcome for [summary] in found] == [Outcome.FAILED] * len(devices)
    for device in devices:
        assert device.assignment is None
        assert not [key for key in device._state.records() if key.startswith("session/")]
        device.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"prg": Prg.CHACHA20},
        pytest.param({"eta": 20}, marks=pytest.mark.slow),
        pytest.param({"round": 1}, marks=pytest.mark.slow),
        pytest.param({"attempt": 2}, marks=pytest.mark.slow),
        pytest.param({"task": bytes(32)}, marks=pytest.mark.slow),
    ],
)
def test_no_shares_are_dealt_for_a_session_of_other_terms_than_the_task(
    serve: Serve, secure_task: Task, flowers: Flowers, tmp_path: Path, changes: dict[str, Any]
) -> None:
    server = serve(secure_task)
    server.session = session(server, **changes)
    refused(join(server, tmp_path, 5), flowers)
    assert server.calls["Share"] == server.calls["Begin"] == 0
    reports = [seat.report for seat in server.seats.values()]
    assert all(r and r.failure == common_pb2.FAILURE_CODE_PROTOCOL for r in reports)


def test_no_shares_are_dealt_in_a_smaller_cohort_than_the_noise_was_worked_out_for(
    serve: Serve, secure_task: Task, flowers: Flowers, tmp_path: Path
) -> None:
    assert secure_task.cohort.minimum == 4
    server = serve(secure_task, goal=3)  # which the owners themselves would allow
    refused(join(server, tmp_path, 3), flowers)
    assert server.calls["Advertise"] == 3 and server.calls["Share"] == 0


@pytest.mark.parametrize("clients", [3, 4, 5, 6])
def test_the_cohorts_of_a_session_are_those_of_its_task(secure_task: Task, clients: int) -> None:
    config = secure_task.session_config().encoded
    roster = Roster(
        sid=bytes(32),
        round=0,
        attempt=1,
        nonce=bytes(32),
        config=config,
        pulse=b"",
        n=clients,
        index=0,
        pid=bytes(16),
        certificates=bytes(120 * clients),
        path=bytes(32 * path_depth(clients)),
        neighbours=(),
    )
    assignment = OpenAssignment(b"a", "t", 0, 1, secure_task.digest, b"", 1000, 0)
    if 4 <= clients <= 5:
        _check_terms(roster, secure_task, assignment)
    else:
        with pytest.raises(ConsistencyError, match=f"{clients} clients"):
            _check_terms(roster, secure_task, assignment)


def test_no_vector_is_given_for_another_model_than_the_one_to_train(
    serve: Serve, secure_task: Task, flowers: Flowers, tmp_path: Path
) -> None:
    server = serve(secure_task)
    server.session = session(server, model_digest=os.urandom(32))
    refused(join(server, tmp_path, 5), flowers)
    assert server.calls["Share"] == 5 and server.calls["Begin"] == 0


@pytest.mark.parametrize("lie", ["another task", "another signature"])
def test_only_the_task_that_was_assigned_and_signed_is_worked_on(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path, lie: str
) -> None:
    server = serve(open_task, goal=1)
    answered = server.GetTask
    other = FakeServer(replace(open_task, seed=2), goal=1)

    def get_task(client: bytes, request: Any) -> client_service_pb2.GetTaskResponse:
        if lie == "another task":
            found: client_service_pb2.GetTaskResponse = other.GetTask(client, request)
            return found
        found = answered(client, request)
        found.task.signature = Ed25519PrivateKey.generate().sign(found.task.payload)
        return found

    server.GetTask = get_task  # type: ignore[method-assign]
    with Client.join(server.join_string, directory=folder) as device:
        [[summary]] = run_all([device], flowers)
    assert summary.outcome is Outcome.FAILED and server.calls["GetChunk"] == 0
