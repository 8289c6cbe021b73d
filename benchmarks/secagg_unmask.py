"""The server opens a sum when the last answer has come: near what the streams alone must cost."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figure import Figure, Target
from benchmarks.measure import compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.secagg_cohort import CHECKED_WORDS, COORDINATES, SecAggCohort, session_config
from benchmarks.secagg_mask import encryption_s
from fedcore.secagg.identity import TrustStore
from fedcore.secagg.loopback import unmask_in_threads
from fedcore.secagg.messages import UnmaskAnswer, decode, encode
from fedcore.secagg.packing import Layout
from fedcore.secagg.server import SecAggServer
from fedcore.secagg.stages import Stage
from fedcore.secagg.unmask import new_accumulator, total_of

__all__ = ["CLIENTS", "LOST", "Ending", "secagg_unmask"]

CLIENTS, LOST = 1000, 100

_REPEATS = 3
_LIMIT = "AES-128-CTR alone"


@benchmark("secagg-unmask", "What does opening a sum cost the server, beside the streams alone?")
def secagg_unmask(_peers: Peers) -> Iterator[Figure]:
    """CPU time from the survivors' answers to a million sums: check, rebuild, unmask, decode.

    n = 100 in a complete graph (γ = 0.3, δ = 0.2), with 5 clients lost before the upload and 5
    before they answer; n = 1000 at γ = δ = 0.1, σ = 40, k = 104, with 100 lost before the upload.
    """
    small = Ending(100, gamma=Fraction(3, 10), delta=Fraction(1, 5), lost=5, silent=5)
    found = compare(small.open_s, {_LIMIT: small.limit_s}, repeats=2 * _REPEATS, best=min)
    bound = Target("value", "<=", 0.5)
    yield Figure("secagg-unmask", found.value, "s", found.ratio, found.against, bound)

    large = Ending(CLIENTS, lost=LOST)
    found = compare(large.open_s, {_LIMIT: large.limit_s}, repeats=_REPEATS, best=min)
    bound = Target("value", "<=", 8)
    yield Figure("secagg-unmask.n1000", found.value, "core-s", found.ratio, found.against, bound)

    rates = compare(
        lambda: 1 / large.unmask_s(threads=2),
        {"one thread": lambda: 1 / large.unmask_s(threads=1)},
        repeats=_REPEATS,
        best=max,
    )
    gigabytes = large.stream_bytes / 1e9
    yield Figure(
        "secagg-unmask.threads",
        rates.value * gigabytes,
        "GB/s",
        rates.ratio,
        rates.against,
        Target("ratio", ">=", 1.5),
    )
    accumulator = 8 * large.cohort.config.layout.words
    bound = Target("value", "<=", 64)
    yield Figure(
        "secagg-unmask.memory",
        (large.growth_bytes() - accumulator) / 2**20,
        "MiB beside the accumulator",
        target=bound,
    )


class Ending:
    """A session whose survivors' answers are there, and not yet handed to the server."""

    def __init__(
        self,
        n: int,
        *,
        gamma: Fraction = Fraction(1, 10),
        delta: Fraction = Fraction(1, 10),
        lost: int,
        silent: int = 0,
    ) -> None:
        self.cohort = SecAggCohort(n, session_config(21, n, gamma=gamma, delta=delta))
        self.cohort.deal()
        self.cohort.upload(lost=range(lost))
        self.cohort.confirm()
        self._answers = self.cohort.answers(lost=range(lost, lost + silent))
        self._total = np.random.default_rng(0).integers(-1000, 1000, COORDINATES)
        self._masked = self.cohort.masked(self._total)
        server = self._server()
        _take(server, self._answers)
        self._plan = server.plan()

    @property
    def streams(self) -> int:
        """How many masks are taken off."""
        return len(self._plan.streams)

    @property
    def stream_bytes(self) -> int:
        """How many bytes they have together."""
        return self.streams * self._masked.nbytes

    def open_s(self) -> float:
        """CPU seconds from the answers to the sums, which must be right."""
        server, accumulator = self._server(), self._masked.copy()
        begin = time.process_time()
        _take(server, self._answers)
        unmask_in_threads(accumulator, server.plan(), threads=1)
        (total,) = total_of(accumulator, self.cohort.config.layout)
        spent = time.process_time() - begin
        places = np.arange(0, COORDINATES, len(accumulator))[:, np.newaxis]
        places = places + np.arange(CHECKED_WORDS)
        assert (total[places] == self._total[places]).all(), "the sum is wrong"
        return spent

    def unmask_s(self, *, threads: int) -> float:
        """Seconds of the clock to take all masks off."""
        accumulator = self._masked.copy()
        begin = time.perf_counter()
        unmask_in_threads(accumulator, self._plan, threads=threads)
        return time.perf_counter() - begin

    def limit_s(self) -> float:
        """CPU seconds of the encryption of as many bytes as the streams have."""
        return encryption_s(self.stream_bytes // 8)

    def growth_bytes(self) -> int:
        """How much a process grows that restores this session and opens it."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "session"
            answers = [(name, encode(answer)) for name, answer in self._answers.items()]
            with path.open("wb") as file:
                pickle.dump((dict(self.cohort.disk), answers), file)
            arguments = (path, self.cohort.policy.roots, self.cohort.config.layout, theirs)
            process = context.Process(target=_open_anew, args=arguments)
            process.start()
            growth: int = ours.recv()
            process.join()
        return growth

    def _server(self) -> SecAggServer:
        return SecAggServer.restore(self.cohort.disk, trust=self.cohort.trust)[0]


def _take(server: SecAggServer, answers: Mapping[bytes, UnmaskAnswer]) -> None:
    for client_id, answer in answers.items():
        server.handle(client_id, answer)
    server.close(Stage.ANSWERS)


def _open_anew(path: Path, roots: Sequence[bytes], layout: Layout, pipe: Connection) -> None:
    """What a server does from its records on; the accumulator is zero, which costs the same."""
    before = _resident_bytes("VmRSS")
    with path.open("rb") as file:
        records, answers = pickle.load(file)
    server, _ = SecAggServer.restore(records, trust=TrustStore(roots))
    accumulator = new_accumulator(layout)
    for client_id, data in answers:
        server.handle(client_id, decode(data))
    server.close(Stage.ANSWERS)
    unmask_in_threads(accumulator, server.plan(), threads=1)
    total_of(accumulator, layout)
    pipe.send(_resident_bytes("VmHWM") - before)


def _resident_bytes(key: str) -> int:
    """A line of proc_pid_status(5): what is resident now, or was at most.

    The kernel hands getrusage's ru_maxrss down from a parent to the program it starts.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"the kernel does not tell {key}")
