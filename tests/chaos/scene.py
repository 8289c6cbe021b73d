"""One deployment with five devices, on which one task after another is run and disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fedcore.federated.task import Task
from tests.chaos.checks import check_acknowledged, check_ledger, check_models
from tests.chaos.deployment import Deployment
from tests.chaos.devices import Crowd, Uploaded
from tests.chaos.network.proxy import FaultProxy
from tests.chaos.programs import Program
from tests.chaos.tasks import DATASET, data_of, task_of, written

__all__ = ["CLIENTS", "Scene"]

CLIENTS: Final = 5
# Rounds of a second each need more calls than a device's share of a busy server.
_UNLIMITED: Final = {"calls_per_second": 1000.0, "calls_at_once": 1000}


class Scene:
    """A server, one device in a process of its own, and a crowd of the other four.

    Every task has its own name; devices come anew to each, without the pause after the last one.
    `database_url`: of PostgreSQL; empty: SQLite. `proxy`: lies between the devices and the server.
    `connections`: that the server holds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str = "",
        proxy: FaultProxy | None = None,
        connections: int = 1000,
    ) -> None:
        limits = {**_UNLIMITED, "connections": connections}
        database = {"database_url": database_url}
        made = Deployment(folder, proxy=proxy, limits=limits, server=database)
        self.deployment = made.start()
        names = [f"device-{i}" for i in range(CLIENTS)]
        self.data = {name: data_of(name) for name in names}
        first, *others = self.deployment.join(*names)
        paths = written(self.data, folder / "data")
        self._first_data = paths[0]
        self.alone = first
        self.crowd = Crowd(others, log=folder / "crowd", dataset=DATASET, data=paths[1:])
        self._tasks = 0

    def task(self, **options: object) -> Task:
        """A task for all five of them."""
        self._tasks += 1
        return task_of(f"task-{self._tasks}", clients=CLIENTS, **options)  # type: ignore[arg-type]

    def start_server(self, failpoints: str = "") -> Program:
        return self.deployment.start_again(failpoints=failpoints).server

    def start_alone(self, failpoints: str = "") -> Program:
        return self.alone.run("--data", f"{DATASET}={self._first_data}", failpoints=failpoints)

    def start_devices(self, failpoints: str = "") -> None:
        """Starts the devices for a new task; `failpoints`: of the one that is alone."""
        self.end_devices()
        self.alone.forget_pause()
        self.crowd.run()
        self.start_alone(failpoints)

    def end_devices(self) -> None:
        self.crowd.end()
        self.alone.end()

    def uploaded(self) -> list[Uploaded]:
        """What was acknowledged to any of them."""
        return self.alone.uploaded() + self.crowd.uploaded()

    def finish(self, task_id: str, task: Task, *, timeout_s: float = 200.0) -> None:
        """Waits for the end of a task, and checks all that has to hold."""
        entry = self.deployment.admin.wait(task_id, timeout_s=timeout_s)
        assert entry.state == "COMPLETED", (entry.reason, self.deployment.server.complaints)
        if task.privacy is None:
            check_models(self.deployment, task_id, task, self.data)
        else:
            check_ledger(self.deployment, task_id, task)
        check_acknowledged(self.deployment, task_id, task, self.uploaded())

    def close(self) -> None:
        self.end_devices()
        self.deployment.close()


def points_of(name: str, hits: Sequence[int]) -> list[str]:
    """Kills at a failpoint, each at so manieth time that a process reaches it."""
    return [f"{name}=kill@{hit}" for hit in hits]
