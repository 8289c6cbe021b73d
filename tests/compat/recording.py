"""Records the protocol of this release, and a device that speaks it, for releases to come.

python -m tests.compat.recording

Writes `recorded/` anew: do so when a release is made, and never to please a test.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from fedclient import Client, Outcome, Policy
from fedclient.connection import Connection
from fedclient.policy import AggregationRules
from fedcore.wire.versions import installed_version
from tests.chaos.deployment import Deployment
from tests.chaos.devices import Crowd
from tests.chaos.tasks import DATASET, data_of, task_of, written
from tests.compat.descriptors import RECORDED, todays_files
from tests.compat.session import Exchange, Session, shape_of

__all__ = ["MODES"]

MODES = {"open": False, "masked": True}
"""Sessions by their names: whether the task has secure aggregation."""

_ALIKE = ("ClientService.Heartbeat", "ModelService.GetChunk", "UploadService.PutChunk")
_BY_PHASE = {("ClientService.Heartbeat", "deadline_ms")}  # the last phases have none
_PATIENT = Policy(secure_aggregation=AggregationRules(profile="off"))


class Tape:
    """What the connections of this process asked and heard while it ran."""

    def __init__(self) -> None:
        self._exchanges: list[Exchange] = []
        self._lock = threading.Lock()

    def exchanges(self) -> tuple[Exchange, ...]:
        """Without those that brought no news: waits, and all heartbeats and pieces but one."""
        found: list[Exchange] = []
        for one in self._exchanges:
            idle = {
                "ClientService.CheckIn": "assignment" not in one.heard,
                **dict.fromkeys(_ALIKE, one.call in {known.call for known in found}),
                "RoundService.Next": "wait" in one.heard or "number" not in one.heard,
            }
            if not idle.get(one.call, False):
                found.append(one)
        return tuple(found)

    def _note(self, method: str, request: Any, answer: Any) -> None:
        if answer.exception() is not None:
            return
        call = method.removeprefix("/fedcore.v1.").replace("/", ".")
        heard = tuple(name for name in shape_of(answer.result()) if (call, name) not in _BY_PHASE)
        with self._lock:
            self._exchanges.append(Exchange(call, request.SerializeToString(), heard))

    @contextmanager
    def running(self) -> Iterator[None]:
        opened = Connection.channel.fget
        assert opened is not None

        def channel(connection: Connection) -> grpc.Channel:
            fresh = connection._channel is None
            found: grpc.Channel = opened(connection)
            return self._listening(found) if fresh else found

        Connection.channel = property(channel)  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            Connection.channel = property(opened)  # type: ignore[assignment, method-assign]

    def _listening(self, channel: grpc.Channel) -> grpc.Channel:
        made = channel.unary_unary

        def unary_unary(method: str, *given: Any, **named: Any) -> Any:
            ask = made(method, *given, **named)
            future = ask.future

            def noted(request: Any, **options: Any) -> Any:
                answer = future(request, **options)
                answer.add_done_callback(lambda done: self._note(method, request, done))
                return answer

            ask.future = noted
            return ask

        channel.unary_unary = unary_unary  # type: ignore[method-assign]
        return channel


def recorded(deployment: Deployment, name: str, *, secure: bool) -> Session:
    """One device's session of one round, beside three others."""
    task = task_of(f"recorded-{name}", clients=4, rounds=1, secure=secure, heartbeat_s=0.5)
    names = [f"{name}-{i}" for i in range(4)]
    data = {one: data_of(one) for one in names}
    files = written(data, deployment.folder / name)
    others = deployment.join(*names[1:])
    crowd = Crowd(others, log=deployment.folder / f"crowd-{name}", dataset=DATASET, data=files[1:])
    join_string, tape = deployment.admin.token(), Tape()
    deployment.admin.submit(task)
    with tape.running():
        crowd.run()
        folder = deployment.folder / "recorded" / name
        with Client.join(join_string, directory=folder, name=names[0]) as device:
            [summary] = device.run(datasets={DATASET: data[names[0]]}, policy=_PATIENT, rounds=1)
    crowd.end()
    assert summary.outcome is Outcome.COMPLETED, summary
    exchanges = tape.exchanges()
    assert "ClientService.Heartbeat" in {exchange.call for exchange in exchanges}, "it was too fast"
    return Session(installed_version(), exchanges)


def main() -> None:
    RECORDED.mkdir(exist_ok=True)
    (RECORDED / "v1.binpb").write_bytes(todays_files().SerializeToString(deterministic=True))
    limits = {"calls_per_second": 1000.0, "calls_at_once": 1000}
    with (
        tempfile.TemporaryDirectory() as folder,
        Deployment(Path(folder), limits=limits) as deployment,
    ):
        deployment.start()
        for name, secure in MODES.items():
            recorded(deployment, name, secure=secure).save(name)


if __name__ == "__main__":
    main()
