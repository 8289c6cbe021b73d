"""Who follows a task does not press a server that answers at once."""

from __future__ import annotations

import json
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


def test_refusals_are_told_once_and_whenever_their_counts_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: list[dict[str, int]] = [*[{"data_missing": 1}] * 2, {"data_missing": 2}, {}]
    left = iter(counts)

    def ask(*_: Any, timeout_s: float) -> Any:
        refused = next(left)
        return admin_service_pb2.ListRoundsResponse(
            task=admin_service_pb2.TaskEntry(state="RUNNING" if refused else "FAILED"),
            waiting_for=f"waits; {refused}" if refused else "",
            refused=refused,
        )

    clock = SimpleNamespace(monotonic=lambda: 7.0, sleep=lambda _: None)
    monkeypatch.setattr(watching, "time", clock)
    server: Any = SimpleNamespace(ask=ask, admin=SimpleNamespace(ListRounds=None))
    watching.follow(server, "t", Console("task watch", "jsonl"))
    shown = [json.loads(line)["data"] for line in capsys.readouterr().out.splitlines()]
    assert [one["refused"] for one in shown] == [{"data_missing": 1}, {"data_missing": 2}]
    assert all(one["waiting_for"] == f"waits; {one['refused']}" for one in shown)
