"""Devices that take part in threads, and crash where a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedclient.aggregation
import fedclient.attempt
import fedclient.client
import fedclient.participation
import fedclient.transfer
from fedclient import Client, Policy, Summary
from fedclient.policy import AggregationRules
from fedclient.state import State
from fedcore.data import Dataset
from tests.client.server import FakeServer

OPENLY = Policy(secure_aggregation=AggregationRules(profile="off"))
MODULES = (
    fedclient.aggregation,
    fedclient.attempt,
    fedclient.client,
    fedclient.participation,
    fedclient.transfer,
)


class Crash(BaseException):
    """The end of a program: nothing in it may catch this."""


class Crasher:
    """Raises Crash at the `hit`-th time that `thread` reaches `name`; None: any thread."""

    def __init__(self, name: str, *, hit: int = 1, thread: str | None = None) -> None:
        self.name, self.hit, self.thread = name, hit, thread
        self.seen, self.crashed, self._lock = 0, False, threading.Lock()

    def __call__(self, name: str) -> None:
        if name != self.name or self.thread not in (None, threading.current_thread().name):
            return
        with self._lock:
            self.seen += 1
            if self.seen != self.hit:
                return
            self.crashed = True
        raise Crash

    def install(self, patch: pytest.MonkeyPatch) -> Crasher:
        for module in MODULES:
            patch.setattr(module, "failpoint", self)
        written = State.persist

        def persist(state: State, key: str, value: bytes) -> None:
            self("before persist")
            written(state, key, value)

        patch.setattr(State, "persist", persist)
        return self


def join(server: FakeServer, folder: Path, count: int) -> list[Client]:
    """So many members, each in a folder of its own."""
    return [
        Client.join(server.join_string, directory=folder / str(i), name=f"device-{i}")
        for i in range(count)
    ]


def run_all(
    devices: list[Client],
    data: Callable[[int], Dataset],
    *,
    policy: Policy = OPENLY,
    rounds: int = 1,
    restart: Callable[[Client], Client] | None = None,
    **options: Any,
) -> list[list[Summary]]:
    """What each of them says of its rounds. `restart`: makes the device anew after a crash."""
    found: list[list[Summary]] = [[] for _ in devices]
    failed: list[BaseException] = []

    def run(i: int) -> None:
        try:
            while True:
                try:
                    found[i] = devices[i].run(
                        datasets={"flowers": data(i)}, policy=policy, rounds=rounds, **options
                    )
                    return
                except Crash:
                    assert restart is not None
                    devices[i] = restart(devices[i])
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=run, args=(i,), name=f"device-{i}", daemon=True)
        for i in range(len(devices))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(45)
    if failed:
        raise failed[0]
    assert not any(thread.is_alive() for thread in threads), "a device did not come to an end"
    return found


def reopened(device: Client) -> Client:
    """The device after a restart of its program."""
    device.close()
    return Client.open(device._folder)
