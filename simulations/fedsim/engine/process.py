"""A worker in a process of its own: lines of JSON come in and go out, arrays lie in shared files.

`python -m fedsim.engine.process FOLDER NUMBER` is started by `Processes`, and ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from fedcore.tensor import blas
from fedsim.engine.jobs import Facts, Job
from fedsim.engine.plan import Plan
from fedsim.engine.scratch import Scratch

__all__ = ["SLOTS", "main", "serve"]

SLOTS = 2
"""Memories for results of each worker: one is read while the next is written."""


def serve(folder: Path, number: int, source: IO[str], sink: IO[str]) -> None:
    """Does what the lines of `source` ask for, until they end; a line in `sink` answers each."""

    def say(**answer: Any) -> None:
        sink.write(json.dumps(answer) + "\n")
        sink.flush()

    scratch = Scratch(folder)
    worker = Plan.from_json(json.loads(source.readline())).worker(scratch.population())
    way = worker.way
    slots = [scratch.array(f"out-{number}-{slot}", way.length, way.dtype) for slot in range(SLOTS)]
    say(ready=True)
    for line in source:
        asked = json.loads(line)
        if "begin" in asked:
            theta = scratch.array("theta", asked["length"], "f4")
            worker.begin(theta, Facts(**asked["begin"]))
            continue
        job = Job(tuple(map(tuple, asked["leaves"])))
        reports, anybody = worker.sum(job, slots[asked["slot"]])
        values = [report.to_json() for report in reports]
        say(job=asked["job"], slot=asked["slot"], anybody=anybody, reports=values)


def main() -> None:
    """Serves on standard input and output; what programs print goes to standard error."""
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    answers = os.dup(1)
    os.dup2(2, 1)
    blas.prepare()
    with os.fdopen(answers, "w", encoding="ascii") as sink:
        serve(folder, number, sys.stdin, sink)


if __name__ == "__main__":
    main()
