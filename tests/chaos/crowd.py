"""The program in which many devices take part in threads; a kill takes all of them at once.

python -m tests.chaos.crowd '{"dataset": "toy", "devices": [["folder", "data.npz"], ...]}'

With a number as `losing` their calls are lost, robbed of their answers and repeated, by that seed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fedclient import Client, Policy
from fedclient.policy import AggregationRules
from fedcore.data import Dataset
from fedcore.failpoints import arm
from fedcore.tensor import blas
from tests.chaos.network.calls import LossyCalls, lossy

_PATIENT = Policy(secure_aggregation=AggregationRules(profile="off", attempts=100))


def main() -> None:
    given = json.loads(sys.argv[1])
    losing = given["losing"]
    with nullcontext() if losing is None else lossy(LossyCalls(seed=losing, say=_say)):
        _take_part(given)


def _take_part(given: dict[str, Any]) -> None:
    blas.prepare()
    arm(os.environ.get("FEDCORE_FAILPOINTS", ""), test_mode=True)
    programs = _programs(given["setup"])
    clients = [(Client.open(folder), Path(path)) for folder, path in given["devices"]]
    threads = [
        threading.Thread(target=_run, args=(client, given["dataset"], path, programs))
        for client, path in clients
    ]

    def stop(*reason: object) -> None:
        for client, _ in clients:
            threading.Thread(target=client.stop, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client, _ in clients:
        client.close()


def _run(client: Client, dataset: str, path: Path, programs: dict[str, Any]) -> None:
    name = client.membership.name
    with np.load(path) as arrays:
        data = Dataset(arrays["x"], arrays["y"], dataset)
    client.run(
        datasets={dataset: data},
        programs=programs,
        policy=_PATIENT,
        on_progress=lambda progress: _say(f"{name}\t{progress}\n"),
    )


def _programs(setup: str) -> dict[str, Any]:
    if not setup:
        return {}
    module, _, function = setup.partition(":")
    programs: dict[str, Any] = getattr(import_module(module), function)()
    return programs


def _say(line: str) -> None:
    """One write, so that lines of several threads do not mix."""
    os.write(2, line.encode())


if __name__ == "__main__":
    main()
