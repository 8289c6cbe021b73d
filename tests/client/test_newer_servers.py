"""A server that knows more than this device: new fields, values and instructions harm no round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from fedclient import Outcome
from fedclient.connection import Connection
from fedcore.data import Dataset
from fedcore.federated.task import Task
from fedcore.v1 import round_service_pb2
from tests.client.devices import join, run_all
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]

# Field 1999 as text, 2000 as a number, 2001 as a message, which no message has.
UNKNOWN = bytes.fromhex("fa7c036e6577") + bytes.fromhex("807d2a") + bytes.fromhex("8a7d020801")


def grown(message: Message) -> Message:
    """The message with unknown fields in it, and in every message within."""
    message.MergeFromString(UNKNOWN)
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in [value] if not field.is_repeated else value:
            grown(inner)
    return message


class Newer:
    """Answers come as those of a newer server do. `change`: what else they are, by method."""

    def __init__(self, change: Callable[[str, Any], Any]) -> None:
        self._change = change
        self.seen: set[str] = set()

    def wrap(self, channel: grpc.Channel) -> grpc.Channel:
        made, change, seen = channel.unary_unary, self._change, self.seen

        def unary_unary(method: str, *given: Any, **named: Any) -> Any:
            parse = named.pop("response_deserializer")

            def parsed(data: bytes) -> Any:
                answer = change(method, grown(parse(data)))
                seen.add(method.rpartition("/")[2])
                return parse(answer.SerializeToString())

            return made(method, *given, response_deserializer=parsed, **named)

        channel.unary_unary = unary_unary  # type: ignore[method-assign]
        return channel


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, Any], Any]], Newer]:
    """Lets every connection of devices hear a newer server."""
    opened = Connection.channel.fget
    assert opened is not None

    def install(change: Callable[[str, Any], Any]) -> Newer:
        made = Newer(change)

        def channel(connection: Connection) -> grpc.Channel:
            fresh = connection._channel is None
            found: grpc.Channel = opened(connection)
            return made.wrap(found) if fresh else found

        monkeypatch.setattr(Connection, "channel", property(channel))
        return made

    return install


def test_unknown_fields_are_real() -> None:
    message = grown(round_service_pb2.NextResponse(train=round_service_pb2.Train(model_bytes=1)))
    assert message.SerializeToString().count(UNKNOWN) == 2


@pytest.mark.parametrize("secure", [pytest.param(False, marks=pytest.mark.slow), True])
def test_fields_that_nobody_knows_are_passed_over_in_every_answer(
    newer: Callable[..., Newer],
    serve: Serve,
    open_task: Task,
    secure_task: Task,
    flowers: Flowers,
    tmp_path: Path,
    secure: bool,
) -> None:
    heard = newer(lambda method, answer: answer)
    devices = join(serve(secure_task if secure else open_task, goal=4), tmp_path, 4)
    found = run_all(devices, flowers)
    assert all(summary.outcome is Outcome.COMPLETED for [summary] in found)
    for device in devices:
        device.close()
    common = {"Enrol", "CheckIn", "GetTask", "Next", "GetChunk", "Begin", "PutChunk", "Commit"}
    masked = {"Advertise", "Share", "Confirm", "Answer"}
    assert common | {"Report"} | (masked if secure else set()) <= heard.seen


def test_an_instruction_that_nobody_knows_is_waited_out(
    newer: Callable[..., Newer],
    serve: Serve,
    open_task: Task,
    flowers: Flowers,
    folder: Path,
) -> None:
    strange: list[str] = []

    def change(method: str, answer: Any) -> Any:
        if method.endswith("/Next") and len(strange) < 3:
            strange.append(answer.WhichOneof("instruction"))
            return round_service_pb2.NextResponse.FromString(UNKNOWN)
        return answer

    newer(change)
    [device] = join(serve(open_task, goal=1), folder, 1)
    [[summary]] = run_all([device], flowers)
    assert summary.outcome is Outcome.COMPLETED and len(strange) == 3
    device.close()


@pytest.mark.slow
def test_an_outcome_that_nobody_knows_ends_the_round_without_this_device(
    newer: Callable[..., Newer],
    serve: Serve,
    open_task: Task,
    flowers: Flowers,
    tmp_path: Path,
) -> None:
    def change(method: str, answer: Any) -> Any:
        if method.endswith("/Next") and answer.WhichOneof("instruction") == "finished":
            answer.finished.outcome = 99
        return answer

    newer(change)
    devices = join(serve(open_task), tmp_path, 5)
    assert all(summary.outcome is Outcome.DROPPED for [summary] in run_all(devices, flowers))
    for device in devices:
        assert device.assignment is None
        device.close()
