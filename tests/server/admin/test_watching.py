"""Who follows a task does not press a server that answers at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedcore.console import Console
from fedcore.v1 import admin_service_pb2
from fedserver.admin import watching


def test_a_server_that_answers_at_once_with_nothing_new_is_asked_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = ["RUNNING", "RUNNING", "FAILED", "FAILED"]
    asked: list[int] = []
    slept: list[float] = []

    def ask(_: Any, request: admin_service_pb2.ListRoundsRequest, *, timeout_s: float) -> Any:
        asked.append(request.wait_ms)
        task = admin_service_pb2.TaskEntry(state=states[len(asked) - 1])
        return admin_service_pb2.ListRoundsResponse(task=task)

    clock = SimpleNamespace(monotonic=lambda: 7.0, sleep=slept.append)
    monkeypatch.setattr(watching, "time", clock)
    server: Any = SimpleNamespace(ask=ask, admin=SimpleNamespace(ListRounds=None))
    ended = watching.follow(server, "t", Console("task watch", "json"))
    assert ended.state == "FAILED"
    assert [wait > 0 for wait in asked] == [False, True, True]
    assert slept == [watching._PAUSE_S]
