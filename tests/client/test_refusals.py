"""A device that refused a task is let back when its owner has changed what made it refuse."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedclient import Client, Outcome, Policy, Stage
from fedclient.bound_data import BoundData
from fedclient.offer import Offer
from fedclient.policy import BudgetRules
from fedcore.data import Dataset
from fedcore.federated.task import Task
from fedcore.v1 import client_service_pb2, round_service_pb2
from tests.client.devices import OPENLY
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]
STRICT = replace(OPENLY, budget=BudgetRules(largest_upload=1))


def told_once(device: Client, data: Dataset, policy: Policy) -> str:
    """What the device says when it waits first."""
    told: list[str] = []

    def tell(progress: object) -> None:
        if getattr(progress, "stage", None) is Stage.WAITING:
            told.append(str(progress))
            device.stop()

    device.run(datasets={"flowers": data}, policy=policy, on_progress=tell)
    return told[0]


def test_a_refusal_names_its_terms_and_another_policy_has_others(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    data = {"flowers": flowers(0)}
    with Client.join(server.join_string, directory=folder) as device:
        [summary] = device.run(datasets=data, policy=STRICT, rounds=1)
        assert summary.outcome is Outcome.REFUSED
    [seat] = server.seats.values()
    assert seat.report is not None and seat.report.terms == server.terms[-1]
    server.next_round(attempt=True)
    with Client.open(folder) as device:
        [summary] = device.run(datasets=data, policy=OPENLY, rounds=1)
    assert summary.outcome is Outcome.COMPLETED
    assert server.terms[-1] != seat.report.terms and len(seat.report.terms) == 16


def test_a_wait_ends_with_another_policy_and_with_the_same_one_does_not(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    server.end(round_service_pb2.Finished.OUTCOME_COMPLETED)
    server.retry_ms = (60_000, 120_000)
    with Client.join(server.join_string, directory=folder) as device:
        for policy, asked in ((STRICT, 1), (STRICT, 1), (OPENLY, 2)):
            told_once(device, flowers(0), policy)
            assert server.calls["CheckIn"] == asked


def test_who_waits_says_what_it_refused_and_until_when(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    server.end(round_service_pb2.Finished.OUTCOME_COMPLETED)
    server.held = client_service_pb2.Held(task_id="digits-1", why="policy_refused", left_ms=2**63)
    with Client.join(server.join_string, directory=folder) as device:
        said = told_once(device, flowers(0), OPENLY)
    assert "this device refused digits-1 (policy_refused): it is asked again when started" in said
    assert "another policy or data, else by " in said


def test_terms_change_with_data_that_were_mended_and_tell_nobody_without_the_key(
    tmp_path: Path,
) -> None:
    path = tmp_path / "flowers.npz"

    def terms(key: bytes = bytes(32), policy: Policy = OPENLY) -> bytes:
        bound = BoundData({"flowers": path}, {})
        return Offer.of(key, policy=policy, datasets=bound, programs={}).terms

    np.savez(path, x=np.zeros((2, 4)), y=np.zeros(2))
    before = terms()
    assert before == terms() and before != terms(policy=STRICT) and before != terms(bytes([1] * 32))
    os.utime(path, ns=(1, 1))
    assert terms() != before
