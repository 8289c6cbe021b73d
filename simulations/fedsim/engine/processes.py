"""Workers in processes of their own, one BLAS thread each: Python's lock is nobody's neighbour."""

from __future__ import annotations

import io
import json
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import asdict
from threading import Thread
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import SimulationError
from fedsim.engine.jobs import ClientReport, Job, Round
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Done
from fedsim.engine.scratch import SLOTS, Scratch
from fedsim.population import Population

__all__ = ["Processes", "Starting"]

Vector: TypeAlias = NDArray[np.float32]

_SENT = 4  # vectors that clients are sent at most, about
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Starting:
    """`count` processes that import what a worker needs while its data are still being read.

    Those that nobody takes are ended by `close`.
    """

    def __init__(self, count: int) -> None:
        self._left = [_started() for _ in range(count)]

    def take(self) -> subprocess.Popen[bytes]:
        """One of them, or a new one where none is left."""
        return self._left.pop() if self._left else _started()

    def close(self) -> None:
        """Ends those that are left."""
        for process in self._left:
            process.kill()
            process.communicate()
        self._left.clear()


def _started() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-m", "fedsim.engine.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
    )


class Processes:
    """`count` workers, of those that are `starting` first.

    Raises: SimulationError if one does not start.
    """

    def __init__(
        self, plan: Plan, population: Population, count: int, starting: Starting | None = None
    ) -> None:
        self.count = count
        self._length, self._dtype = plan.shape
        data, each = population.data, self._length * np.dtype(self._dtype).itemsize
        room = data.x.nbytes + data.y.nbytes + (count * SLOTS + _SENT) * each
        self._scratch = Scratch.new(room=2 * room)  # rows and a test set are to come
        self._members: list[_Member] = []
        self._vectors: dict[tuple[str, int], NDArray[Any]] = {}
        self._made, self._is_closed = 0, False
        try:
            for number in range(count):
                slots = [
                    self._scratch.array(f"out-{number}-{slot}", self._length, self._dtype, new=True)
                    for slot in range(SLOTS)
                ]
                process = _started() if starting is None else starting.take()
                self._members.append(_Member(process, self._scratch, number, slots))
            self._scratch.put(population)  # while they import what they need
            for number, member in enumerate(self._members):
                member.say({"folder": str(self._scratch.folder), "number": number})
                member.say(plan.to_json())
            for member in self._members:
                member.hear()
        except BaseException:
            self.close()
            raise

    def begin(self, round: Round) -> None:
        self._settle()
        vectors = [round.theta, *round.sent.values()]
        places = [(f"vector-{at}-{len(vector)}", len(vector)) for at, vector in enumerate(vectors)]
        for place, vector in zip(places, vectors, strict=True):
            if place not in self._vectors:
                self._vectors[place] = self._scratch.array(*place, "f4", new=True)
            self._vectors[place][:] = vector
        told = {"begin": asdict(round.facts), "names": list(round.sent), "vectors": places}
        self._tell(told)

    def rows(self, count: int) -> NDArray[Any]:
        name = self._new("rows")
        memory = self._scratch.array(name, (count, self._length), self._dtype, new=True)
        self._ask({"rows": name, "count": count})
        # All have mapped it, and nobody else will: its memory is free once nobody uses it.
        self._scratch.forget(name)
        return memory

    def load(self, test: Dataset) -> None:
        name = self._new("test")
        self._scratch.put_data(name, test)
        self._ask({"test": name})
        self._scratch.forget(name)

    def run(
        self, jobs: Sequence[Job], meanwhile: Callable[[], None]
    ) -> Generator[Done, None, None]:
        self._settle()
        waiting, left = deque(enumerate(jobs)), len(jobs)
        try:
            # One job each before anybody has two: nobody waits for a neighbour's second.
            for _ in range(SLOTS):
                for member in self._members:
                    member.give(waiting)
            meanwhile()
            with selectors.DefaultSelector() as selector:
                for member in self._members:
                    selector.register(member, selectors.EVENT_READ, member)
                while left:
                    for key, _ in selector.select():
                        member = key.data
                        member.read()
                        while member.lines:
                            answer = member.hear()
                            left -= 1
                            out = member.slots[answer["slot"]] if answer["anybody"] else None
                            reports = list(map(ClientReport.from_json, answer["reports"]))
                            yield answer["job"], reports, out
                            member.free.append(answer["slot"])
                            member.give(waiting)
        except SimulationError:
            self.close(kill=True)
            raise

    def close(self, *, kill: bool = False) -> None:
        self._is_closed = True
        for member in self._members:
            member.hang_up(kill=kill)
        for member in self._members:
            member.end()
        self._scratch.remove()

    def _new(self, name: str) -> str:
        self._made += 1
        return f"{name}-{self._made}"

    def _ask(self, values: dict[str, Any]) -> None:
        """Tells all workers something, and waits until all have heard it."""
        self._settle()
        self._tell(values, answered=True)

    def _tell(self, values: dict[str, Any], *, answered: bool = False) -> None:
        try:
            for member in self._members:
                member.say(values)
            for member in self._members if answered else ():
                member.hear()
        except SimulationError:
            self.close(kill=True)
            raise

    def _settle(self) -> None:
        """Waits for what a run that nobody read to its end has left under way."""
        if self._is_closed:
            raise _closed()
        try:
            for member in self._members:
                while member.under_way:
                    member.hear()
                member.free = list(range(SLOTS))
        except SimulationError:
            self.close(kill=True)
            raise


def _closed() -> SimulationError:
    return SimulationError(
        "the engine is closed",
        why="its owner closed it, or it was closed because a worker was lost",
        fix="make an Engine anew, and rewind it to the round that the run has kept",
    )


class _Member:
    """One process, and what is on its way to and from it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        scratch: Scratch,
        number: int,
        slots: list[NDArray[Any]],
    ) -> None:
        self.slots, self.free = slots, list(range(len(slots)))
        self.under_way, self.lines = 0, deque[dict[str, Any]]()
        self._process, self._number, self._rest, self._said = process, number, b"", ""
        self._pass_on = Thread(target=self._listen, daemon=True)
        self._pass_on.start()

    def fileno(self) -> int:
        """Where its answers come from."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def say(self, values: dict[str, Any]) -> None:
        """Writes a line to it. Raises: SimulationError if it is gone."""
        assert self._process.stdin is not None
        rest = memoryview(json.dumps(values).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._process.stdin.write(rest) :]
        except OSError as error:
            raise self._lost() from error

    def give(self, waiting: deque[tuple[int, Job]]) -> None:
        """A job, if there is one, and a memory for its result."""
        if waiting and self.free:
            number, job = waiting.popleft()
            self.say({"job": number, "slot": self.free.pop(), "do": job.to_json()})
            self.under_way += 1

    def read(self) -> None:
        """Waits for something to come. Raises: SimulationError if it is gone."""
        data = os.read(self.fileno(), 1 << 20)
        if not data:
            raise self._lost()
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.lines.extend(map(json.loads, lines))

    def hear(self) -> dict[str, Any]:
        """The next answer, which is waited for."""
        while not self.lines:
            self.read()
        answer = self.lines.popleft()
        self.under_way -= "job" in answer
        return answer

    def hang_up(self, *, kill: bool) -> None:
        """Closes its input, which ends it, or ends it at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if kill:
            self._process.kill()

    def end(self) -> None:
        """Waits until it has ended."""
        assert self._process.stdout is not None
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pass_on.join()
        self._process.stdout.close()

    def _listen(self) -> None:
        """Passes on what it writes to standard error, and keeps the last line."""
        assert self._process.stderr is not None
        with io.TextIOWrapper(self._process.stderr, errors="replace") as lines:
            for line in lines:
                self._said = line.strip() or self._said
                with suppress(OSError, ValueError):  # nobody has to listen
                    sys.stderr.write(line)

    def _lost(self) -> SimulationError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._process.kill()
        code = self._process.wait()
        self._pass_on.join()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return SimulationError(
            f"worker {self._number} has ended with {how}",
            why=self._said[:400] or "it was killed, as happens where memory runs out",
            fix="take fewer workers or lanes, and resume the run: nothing that was kept is lost",
        )
