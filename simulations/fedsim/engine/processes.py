"""Workers in processes of their own, one BLAS thread each: Python's lock is nobody's neighbour."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import SimulationError
from fedsim.engine.jobs import ClientReport, Facts, Job
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Done
from fedsim.engine.process import SLOTS
from fedsim.engine.scratch import Scratch
from fedsim.population import Population

__all__ = ["Processes"]

Vector: TypeAlias = NDArray[np.float32]

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Processes:
    """`count` workers. Raises: SimulationError if one does not start."""

    def __init__(
        self, plan: Plan, population: Population, count: int, *, length: int, dtype: str
    ) -> None:
        self.count = count
        self._scratch = Scratch.new()
        self._members: list[_Member] = []
        try:
            self._scratch.put(population)
            self._theta = self._scratch.array("theta", plan.task.dimension, "f4", new=True)
            for number in range(count):
                slots = [
                    self._scratch.array(f"out-{number}-{slot}", length, dtype, new=True)
                    for slot in range(SLOTS)
                ]
                self._members.append(_Member(self._scratch, number, slots))
            for member in self._members:
                member.say(plan.to_json())
            for member in self._members:
                member.hear()
        except BaseException:
            self.close()
            raise

    def begin(self, theta: Vector, facts: Facts) -> None:
        self._theta[:] = theta
        for member in self._members:
            begun = {"round": facts.round, "evaluate": facts.evaluate, "clipping": facts.clipping}
            member.say({"begin": begun, "length": len(theta)})

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        waiting = deque(enumerate(jobs))
        with selectors.DefaultSelector() as selector:
            for member in self._members:
                member.free = list(range(SLOTS))
                selector.register(member, selectors.EVENT_READ, member)
            # One job each before anybody has two, so that nobody waits for a neighbour's second.
            for _ in range(SLOTS):
                for member in self._members:
                    member.give(waiting)
            left = len(jobs)
            while left:
                for key, _ in selector.select():
                    member = key.data
                    for answer in member.answers():
                        left -= 1
                        out = member.slots[answer["slot"]] if answer["anybody"] else None
                        reports = list(map(ClientReport.from_json, answer["reports"]))
                        yield answer["job"], reports, out
                        member.free.append(answer["slot"])
                        member.give(waiting)

    def close(self) -> None:
        for member in self._members:
            member.end()
        self._scratch.remove()


class _Member:
    """One process, and what is on its way to and from it."""

    def __init__(self, scratch: Scratch, number: int, slots: list[NDArray[Any]]) -> None:
        self.slots, self.free = slots, list(range(len(slots)))
        self._number, self._rest = number, b""
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(  # noqa: S603, our own module in our own interpreter
            [sys.executable, "-m", "fedsim.engine.process", str(scratch.folder), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def fileno(self) -> int:
        """Where its answers come from."""
        return self._stdout.fileno()

    def say(self, values: dict[str, Any]) -> None:
        """Writes a line to it. Raises: SimulationError if it is gone."""
        try:
            self._stdin.write(json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise self._lost() from error

    def give(self, waiting: deque[tuple[int, Job]]) -> None:
        """A job, if there is one, and a memory for its result."""
        if waiting and self.free:
            number, job = waiting.popleft()
            self.say({"job": number, "slot": self.free.pop(), "leaves": job.leaves})

    def answers(self) -> Iterator[dict[str, Any]]:
        """Every whole line that has come. Raises: SimulationError if it is gone."""
        data = os.read(self.fileno(), 1 << 20)
        if not data:
            raise self._lost()
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from map(json.loads, lines)

    def hear(self) -> dict[str, Any]:
        """The next line, which is waited for."""
        while True:
            for answer in self.answers():
                return answer

    def end(self) -> None:
        """Closes its input, which ends it."""
        self._stdin.close()
        self._stdout.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _lost(self) -> SimulationError:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return SimulationError(
            f"worker {self._number} has ended with {how}",
            why="it was killed, as when memory runs out, or failed as standard error says",
            fix="take fewer workers or lanes, and resume the run: nothing that was kept is lost",
        )
