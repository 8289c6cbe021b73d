"""Five devices go through whole rounds against a real gRPC server, masked and openly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedclient import Client, Outcome, Policy, Summary
from fedclient.policy import AggregationRules
from fedcore.data import Dataset
from fedcore.federated.task import Task
from tests.client.server import FakeServer

OPENLY = Policy(secure_aggregation=AggregationRules(profile="off"))
Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]


def join(server: FakeServer, folder: Path, count: int) -> list[Client]:
    return [
        Client.join(server.join_string, directory=folder / str(i), name=f"device-{i}")
        for i in range(count)
    ]


def run_all(
    devices: list[Client], flowers: Flowers, *, policy: Policy = OPENLY, rounds: int = 1
) -> list[list[Summary]]:
    found: list[list[Summary]] = [[] for _ in devices]

    def run(i: int) -> None:
        found[i] = devices[i].run(datasets={"flowers": flowers(i)}, policy=policy, rounds=rounds)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(devices))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_five_devices_complete_a_round_openly(
    serve: Serve, open_task: Task, flowers: Flowers, tmp_path: Path
) -> None:
    server = serve(open_task)
    devices = join(server, tmp_path, 5)
    found = run_all(devices, flowers)
    assert [[s.outcome for s in summaries] for summaries in found] == [[Outcome.COMPLETED]] * 5
    assert len(server.totals) == 1
    assert all(seat.report is not None for seat in server.seats.values())
    for device in devices:
        device.close()


def test_masked_and_open_sums_are_equal_to_the_bit(
    serve: Serve, open_task: Task, secure_task: Task, flowers: Flowers, tmp_path: Path
) -> None:
    sums = []
    for name, task in (("open", open_task), ("secure", secure_task)):
        server = serve(task)
        devices = join(server, tmp_path / name, 5)
        found = run_all(devices, flowers)
        assert all(s.outcome is Outcome.COMPLETED for [s] in found)
        for device in devices:
            device.close()
        sums.append(server.totals[0])
    assert all(np.array_equal(a, b) for a, b in zip(*sums, strict=True))
    assert any(np.any(block) for block in sums[0])
