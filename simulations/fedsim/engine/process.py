"""A worker in a process of its own: lines of JSON come in and go out, arrays lie in shared files.

`python -m fedsim.engine.process` is started for `Processes`, and ends with its input. The first
line says in which folder the arrays lie, and which worker this is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, NoReturn

from fedcore.errors import FedcoreError
from fedcore.tensor import blas
from fedsim.engine.jobs import Facts, Job, Round, described
from fedsim.engine.plan import Plan
from fedsim.engine.scratch import SLOTS, Scratch

__all__ = ["main", "serve"]


def serve(folder: Path, number: int, source: IO[str], sink: IO[str]) -> NoReturn:
    """Does what the lines of `source` ask for, until they end; a line in `sink` answers each."""

    def say(**answer: Any) -> None:
        sink.write(json.dumps(answer) + "\n")
        sink.flush()

    scratch = Scratch(folder)
    worker = Plan.from_json(json.loads(source.readline())).worker(scratch.population())
    way = worker.way
    slots = [scratch.array(f"out-{number}-{slot}", way.length, way.dtype) for slot in range(SLOTS)]
    say(ready=True)
    lines: SimpleQueue[str] = SimpleQueue()
    Thread(target=_read_on, args=(source, lines, folder), daemon=True).start()
    while True:
        asked = json.loads(lines.get())
        if "begin" in asked:
            theta, *sent = (scratch.array(name, size, "f4") for name, size in asked["vectors"])
            named = dict(zip(asked["names"], sent, strict=True))
            worker.begin(Round(theta, Facts(**asked["begin"]), named))
        elif "rows" in asked:
            worker.rows(scratch.array(asked["rows"], (asked["count"], way.length), way.dtype))
            say(done=True)
        elif "test" in asked:
            worker.load(scratch.data(asked["test"]))
            say(done=True)
        else:
            reports, anybody = worker.do(Job.from_json(asked["do"]), slots[asked["slot"]])
            values = [report.to_json() for report in reports]
            say(job=asked["job"], slot=asked["slot"], anybody=anybody, reports=values)


def _read_on(source: IO[str], lines: SimpleQueue[str], folder: Path) -> None:
    """Reads whatever this worker is doing: who writes to it must not have to wait.

    The end of the lines ends the process. Who started it may have been killed, and would not want
    that it goes on, nor remove the folder.
    """
    for line in source:
        lines.put(line)
    Scratch(folder).remove()
    os._exit(0)


def main() -> None:
    """Serves on standard input and output; what programs print goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for who started this
    answers = os.dup(1)
    os.dup2(2, 1)
    blas.prepare()
    try:
        place = json.loads(sys.stdin.readline() or "null")
        if place is None:  # nobody had use for it
            os._exit(0)
        with os.fdopen(answers, "w", encoding="ascii") as sink:
            serve(Path(place["folder"]), place["number"], sys.stdin, sink)
    except Exception as error:
        if not isinstance(error, FedcoreError):
            traceback.print_exc()
        # The last line of standard error is what the run will say.
        print(described(error), file=sys.stderr, flush=True)
    os._exit(1)  # and not by way of the thread that reads


if __name__ == "__main__":
    main()
