"""The generators that load a server: what they count, and that bare frames are calls of gRPC."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the server needs the extra 'server'")

from benchmarks.__main__ import main
from benchmarks.federation.bare_http2 import ENDED, OVERLOADED, Answer, Wire, head_of
from benchmarks.federation.processes import started
from benchmarks.federation.stage import Stage
from benchmarks.federation.storm import Storm, Tally
from benchmarks.federation.tasks import linear_task
from benchmarks.grpc_overload import Way
from benchmarks.grpc_soak import growth

PIECE = 1 << 20


def test_what_is_useful_is_what_was_answered_while_the_load_lasted() -> None:
    tally = Tally(due=5, seconds=[0.1, 0.2, 0.3], useful=2, refused=1, elapsed_s=4.0)
    assert (tally.goodput, tally.open, tally.latest_s) == (0.5, 1, float("inf"))
    assert Tally(due=2, seconds=[0.1, 0.2]).latest_s == 0.2


def test_calls_are_told_apart_by_how_they_ended() -> None:
    answers = [
        Answer(0, False, b""),
        Answer(OVERLOADED, True, b""),
        Answer(OVERLOADED, False, b""),
        Answer(ENDED, False, b""),
        Answer(4, False, b""),
    ]

    tally, storm = Tally(due=len(answers) + 1), Storm([], patience_s=60.0)
    for answer in answers:
        storm._note(tally, time.perf_counter(), answer)
    storm._note(tally, time.perf_counter() - 61.0, answers[0])
    assert (len(tally.seconds), tally.refused, tally.bare, tally.ended) == (1, 2, 1, 1)
    assert (tally.failed, tally.open) == (2, 0)
    storm.close()


def test_a_slope_is_not_moved_by_a_few_samples_that_stray() -> None:
    assert growth([(at, 3.0 * at + (1e9 if at % 7 == 3 else 0)) for at in range(60)]) == 3.0


def test_no_piece_is_sent_far_ahead_of_one_that_was_refused() -> None:
    way, ended = Way(None, b"", list(range(0, 12 * PIECE, PIECE))), list[Answer]()  # type: ignore[arg-type]
    taken = [way.take(4 * PIECE) for _ in range(6)]
    assert taken == [0, PIECE, 2 * PIECE, 3 * PIECE, None, None]
    way.end(PIECE, ended.append, Answer(0, hinted=False, message=b""))
    assert way.take(4 * PIECE) is None  # the first is still on its way
    way.end(0, ended.append, Answer(8, hinted=True, message=b""))
    assert [way.take(4 * PIECE) for _ in range(2)] == [0, None]
    way.end(0, ended.append, Answer(0, hinted=False, message=b""))
    assert way.take(4 * PIECE) == 4 * PIECE
    assert [answer.status for answer in ended] == [0, 8, 0]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("stage"), clients=2, task=linear_task(clients=2))


@pytest.fixture
def storm(stage: Stage) -> Iterator[tuple[Storm, list[Wire]]]:
    """Connections to the handler that returns nothing."""
    command = [sys.executable, "-m", "benchmarks.federation.empty_server", str(stage.folder)]
    with started(command, folder=stage.folder) as process:
        address = process.line().decode().strip()
        wires = [Wire(address, device, stage.root) for device in stage.devices]
        storm = Storm(wires, patience_s=30.0)
        yield storm, wires
        storm.close()


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 80, PIECE + 100])
def test_a_call_in_bare_frames_is_answered(storm: Any, size: int) -> None:
    drives, wires = storm

    def begin(done: Any) -> bool:
        wires[0].call(head_of("/fedcore.v1.ClientService/CheckIn", timeout_s=30), bytes(size), done)
        return True

    tally = drives.offered(begin, rate=100, seconds=0.2)
    # On a busy machine not all of the twenty are due in time.
    assert 0 < len(tally.seconds) == tally.due <= 20 and not tally.failed + tally.refused


@pytest.mark.slow
def test_more_calls_than_a_connection_takes_at_once_wait_for_their_turn(storm: Any) -> None:
    drives, wires = storm

    def begin(done: Any) -> bool:
        wires[1].call(head_of("/fedcore.v1.ClientService/CheckIn", timeout_s=30), b"", done)
        return True

    tally = drives.filled(begin, at_once=250, seconds=0.3)
    assert tally.due == len(tally.seconds) >= 250 and tally.failed == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["grpc-round-1000", "grpc-overload", "grpc-soak"])
def test_what_is_promised_whatever_the_machine_holds_in_the_short_form(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not what hangs on time: rates, slopes, and how soon a server that others disturb recovers."""
    assert main(["run", name, "--short"]) == 0
    found = {one["name"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    timed = (name, f"{name}.uploads-at-3", f"{name}.check-ins-at-3", f"{name}.threads")
    for figure in found.values():
        if figure["name"] not in timed and "recovery" not in figure["name"]:
            assert figure["meets"] is not False, figure
