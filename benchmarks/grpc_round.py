"""One server process carries a masked round of 1,000 clients, to the very model it should find."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.federation import passed_on
from benchmarks.federation.crowd import Outcome
from benchmarks.federation.open_loop import Latencies
from benchmarks.federation.processes import Process, one_core_each, resident_bytes, started
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import linear_task, toy_data
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.federated.models import initial_theta
from fedcore.federated.parameters import parameters_of
from fedcore.federated.reference import train_in_process
from fedcore.model_format import encode_model
from fedserver.model_files import ModelOrigin

__all__ = ["grpc_round"]

_CLIENTS, _FEW = 1000, 40
_EACH = 250  # clients of one process
_WORK = "the clients' own work"
_HELD = ("CheckIn", "Next")  # their time is the wait for others


def _round(_peers: Peers, *, clients: int) -> Iterator[Figure]:
    found = _measured(clients)
    name = "grpc-round-1000"
    yield Figure(name, found.elapsed_s, "s", found.elapsed_s / found.work_s, _WORK)
    yield Figure(f"{name}.server", found.server_s, "s", found.server_s / found.work_s, _WORK)
    yield Figure(f"{name}.memory", found.most_bytes / 1e6, "MB")
    yield Figure(f"{name}.sent", found.sent / 1e6, "MB by clients")
    yield Figure(f"{name}.received", found.received / 1e6, "MB by clients")
    yield Figure(f"{name}.refused", found.refused, "calls")
    for rpc, seconds in sorted(found.seconds.items()):
        if rpc not in _HELD:
            late = 1000 * Latencies(tuple(sorted(seconds)), 0, found.elapsed_s).at(0.99)
            yield Figure(f"{name}.p99-{rpc.lower()}", late, "ms")
    bound = Target("value", "<=", 0)
    yield Figure(f"{name}.other-models", found.other_models, "models", None, None, bound)


@benchmark(
    "grpc-round-1000",
    "What does a masked round of 1,000 clients cost one server process?",
    short=partial(_round, clients=_FEW),
)
def grpc_round(peers: Peers) -> Iterator[Figure]:
    """One server on one core, against a server that lies; processes of 250 clients on another.

    A round lasts from the first check-in to the last report. The clients' work is training,
    signatures, keys, shares and masks; one store of verified certificates serves 250 of them.
    Times of calls are the clients', who share their core with that work.
    """
    yield from _round(peers, clients=_CLIENTS)


@dataclass(frozen=True)
class _Found:
    elapsed_s: float
    work_s: float
    server_s: float
    most_bytes: int
    sent: int
    received: int
    refused: int
    other_models: int
    seconds: dict[str, list[float]]


def _measured(clients: int) -> _Found:
    serves, loads = one_core_each()
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        task = linear_task(clients=clients, masked=True)
        stage = Stage(folder, clients=clients, task=task)
        passed_on.write(stage)
        expected = _model_of(stage)
        server = stack.enter_context(stage.serving(cores=serves))
        crowds = [
            stack.enter_context(_crowd(folder, server.address, part, loads))
            for part in _parts(clients)
        ]
        assert [crowd.line() for crowd in crowds] == [b"ready\n"] * len(crowds)
        begin, spent_s = time.perf_counter(), server.cpu_s()
        for crowd in crowds:
            crowd.tell("begin")
        outcomes = [Outcome(**json.loads(crowd.line())) for crowd in crowds]
        elapsed_s, spent_s = time.perf_counter() - begin, server.cpu_s() - spent_s
        most = resident_bytes(server.pid, most=True)
    assert not any(outcome.bare for outcome in outcomes), "a refusal without a wait"
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for rpc, times in outcome.seconds.items():
            seconds[rpc] += times
    return _Found(
        elapsed_s,
        sum(outcome.work_s for outcome in outcomes),
        spent_s,
        most,
        sum(outcome.sent for outcome in outcomes),
        sum(outcome.received for outcome in outcomes),
        sum(outcome.refused for outcome in outcomes),
        len({digest for outcome in outcomes for digest in outcome.digests} - {expected.hex()}),
        seconds,
    )


def _parts(clients: int) -> list[range]:
    return [range(at, min(at + _EACH, clients)) for at in range(0, clients, _EACH)]


def _crowd(
    folder: Path, address: str, part: range, cores: frozenset[int]
) -> AbstractContextManager[Process]:
    module = "benchmarks.federation.crowd"
    command = [sys.executable, "-m", module, str(folder), address, str(part.start), str(part.stop)]
    return started(command, folder=folder, cores=cores)


def _model_of(stage: Stage) -> bytes:
    """SHA-256 of the model that the same clients find in one process, by sums of plain integers."""
    task = stage.task
    data = {name: toy_data(name) for name in (device.id.hex() for device in stage.devices)}
    digest = b""
    for number, theta in enumerate([initial_theta(task), *train_in_process(task, data)]):
        origin = ModelOrigin(task.digest.hex(), number, digest)
        pieces = encode_model(theta, parameters_of(task), metadata=origin.texts)
        digest = hashlib.sha256(b"".join(pieces)).digest()
    return digest
