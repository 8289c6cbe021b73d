"""Under privacy the owner learns that a program failed on the data, and the server cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedclient import Client, Outcome, Progress
from fedcore.data import Dataset
from fedcore.federated.programs import TrainingRequest, TrainingResult
from fedcore.federated.task import Task
from tests.client.devices import OPENLY, run_all
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]
SECRET = "patient 7 is 93.25 years old"


class Failing:
    """A program whose error tells of the data."""

    def train(self, request: TrainingRequest, /) -> TrainingResult:
        raise KeyError(f"{SECRET}\x1b[2J")


class Idle:
    """A program that learns nothing."""

    def train(self, request: TrainingRequest, /) -> TrainingResult:
        return TrainingResult(np.zeros_like(request.theta), len(request.dataset))


def seen_by_the_server(server: FakeServer) -> list[Any]:
    """All that one seat shows of its client."""
    [seat] = server.present()
    assert seat.report is not None and seat.upload is not None
    report = seat.report
    told = (report.failure, report.detail, report.bytes_up, report.bytes_down, report.energy_j)
    return [told, seat.upload.data, seat.upload.header]


def test_a_program_that_fails_gives_what_one_gives_that_learns_nothing(
    serve: Serve, private_task: Callable[..., Task], flowers: Flowers, tmp_path: Path
) -> None:
    task = private_task("own", training='program = "own"\n')
    seen, told = [], []
    for name, program in (("failing", Failing()), ("idle", Idle())):
        server = serve(task, goal=1)
        with Client.join(server.join_string, directory=tmp_path / name) as device:
            lines: list[Progress] = []
            options: dict[str, Any] = {"programs": {"own": program}, "on_progress": lines.append}
            [[summary]] = run_all([device], flowers, policy=OPENLY, **options)
            [charge] = device.charges()
        assert summary.outcome is Outcome.COMPLETED and summary.warning == charge.warning
        seen.append(seen_by_the_server(server))
        told.append((summary.warning, "\n".join(map(str, lines))))
    assert seen[0] == seen[1]
    (warning, text), (no_warning, other_text) = told
    assert "KeyError" in warning and not no_warning
    assert SECRET in text and "\x1b" not in text and "KeyError" not in other_text
    # What is kept on the disk is the sort of the failure alone.
    assert SECRET not in warning
    for path in (tmp_path / "failing").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
