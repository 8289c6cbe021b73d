"""A worker as an actor of Ray, on whatever machine: text and arrays come in and go out.

Ray finds the class by its import path. So no code of ours travels, and what an actor is told is
what a process of `Processes` is told, but that arrays come with it: machines share no files.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.tensor import blas
from fedsim.algorithms import State
from fedsim.engine.carried_states import CarriedStates
from fedsim.engine.jobs import Facts, Job, Round, described
from fedsim.engine.plan import Plan
from fedsim.engine.worker import Worker
from fedsim.partition import HeldOutRows, Partition
from fedsim.population import Population

__all__ = ["RayWorker", "packed_states", "unpacked_states", "versions_here"]

Array: TypeAlias = NDArray[Any]
Told: TypeAlias = "dict[str, Any]"


class RayWorker:
    """Does what it is asked for, one after another. What goes wrong is answered, not raised.

    Errors would travel as code does.
    """

    def __init__(self) -> None:
        blas.prepare()
        self._worker: Worker | None = None
        self._states = CarriedStates()
        self._round = self._test = -1

    def start(self, plan: str, names: str, x: Array, y: Array, *rows: Array) -> str:
        """Makes the worker of a plan, for a population whose arrays nobody changes.

        `rows`: the rows and offsets of what clients train on, and of what they hold out.
        """
        try:
            trained, offsets, held, ends = rows
            partition = Partition(trained, offsets, tuple(json.loads(names)))
            people = Population(Dataset(x, y), partition, held_out=HeldOutRows(held, ends))
            self._worker = Plan.from_json(json.loads(plan)).worker(people, states=self._states)
        except Exception as error:
            return json.dumps({"failure": described(error)})
        kernels = blas.kernels() or platform.machine()
        return json.dumps({"versions": {**versions_here(), "the kind of processor": kernels}})

    def work(
        self, told: str, vectors: list[Array], test: list[Array], states: list[Array]
    ) -> tuple[str, list[Array]]:
        """Does a job in a round, which is begun first if it is another than before.

        `vectors`: the model and what is sent beside it; `test`: x and y, where pieces are measured;
        `states`: what clients keep. The answer's arrays: sum or rows, if any, and then states.
        """
        try:
            return self._work(json.loads(told), vectors, test, states)
        except Exception as error:
            return json.dumps({"failure": described(error)}), []

    def _work(
        self, told: Told, vectors: list[Array], test: list[Array], states: list[Array]
    ) -> tuple[str, list[Array]]:
        worker = self._worker
        assert worker is not None
        if told["round"] != self._round:
            theta, *sent = vectors
            named = dict(zip(told["names"], sent, strict=True))
            worker.begin(Round(theta, Facts(**told["facts"]), named))
            self._round = told["round"]
        if test and told["test"] != self._test:
            x, y = test
            worker.load(Dataset(x, y))
            self._test = told["test"]
        self._states.bring(unpacked_states(told["states"], states))
        job = Job.from_json(told["do"])
        found, reports = self._done(worker, job)
        keys, kept = packed_states(self._states.take())
        values = [report.to_json() for report in reports]
        answer = {"reports": values, "found": len(found), "states": keys}
        return json.dumps(answer), [*found, *kept]

    def _done(self, worker: Worker, job: Job) -> tuple[list[Array], list[Any]]:
        length, dtype = worker.way.length, worker.way.dtype
        if job.work == "rows":
            rows = np.zeros((len(job.rows), length), dtype)
            worker.rows(rows)
            reports, _ = worker.do(replace(job, rows=tuple(range(len(rows)))), rows)
            return [rows], reports
        out = np.empty(length if job.work == "sum" else 0, dtype)
        reports, anybody = worker.do(job, out)
        return [out] if anybody else [], reports


def versions_here() -> dict[str, str]:
    """What this machine has installed, of that on which last bits depend."""
    return {"fedcore": metadata.version("fedcore-fl"), "NumPy": np.__version__}


def packed_states(states: Mapping[int, State]) -> tuple[list[tuple[int, list[str]]], list[Array]]:
    """States as plain values, and their arrays one after another."""
    keys = [(client, list(state)) for client, state in states.items()]
    return keys, [vector for state in states.values() for vector in state.values()]


def unpacked_states(
    keys: Sequence[tuple[int, list[str]]], arrays: Sequence[Array]
) -> dict[int, State]:
    """What `packed_states` was given."""
    coming = iter(arrays)
    return {client: {name: next(coming) for name in names} for client, names in keys}
