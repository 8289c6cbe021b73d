"""What a round costs as its cohort grows, and how much memory ten thousand clients take."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figure import Figure, Target
from benchmarks.machine import cores
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.simulated import Simulated, people, scenario_of
from benchmarks.tasks import BATCH, TASKS

__all__ = ["sim_10k", "sim_cohort"]

_CLIENTS, _SAMPLED = 10_000, 1_000
_ROUNDS = 3
_GIB_MB = 2**30 / 1e6
_COHORTS = {10: 41, 100: 11, 1_000: 4, 10_000: 2}
_REPEATS = 3


@benchmark("sim-10k", "What do 10,000 clients of the MLP take, of whom a round trains 1,000?")
def sim_10k(_peers: Peers) -> Iterator[Figure]:
    """One process with one worker; memory is what it had resident at most, less the data."""
    command = [sys.executable, "-m", "benchmarks.sim_cohort"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    beside = (found["resident"] - found["data"]) / 1e6
    yield Figure("sim-10k", beside, "MB", beside / _GIB_MB, "1 GiB", Target("ratio", "<=", 1.0))
    yield Figure("sim-10k.rate", found["rate"], "clients/s")


@benchmark("sim-cohort", "What does a round cost for each client, as the cohort grows?")
def sim_cohort(_peers: Peers) -> Iterator[Figure]:
    """The MLP, one step of 20 images for each client, in cohorts of 10 to 10,000."""
    data, took = people(_CLIENTS, samples=BATCH), dict[int, float]()
    for cohort, rounds in _COHORTS.items():
        scenario = scenario_of(
            TASKS["A"], cohort=cohort, rounds=rounds, clients=_CLIENTS, workers=cores()
        )
        simulated = Simulated(scenario, data)
        best = min(min(simulated.seconds()) for _ in range(_REPEATS))
        took[cohort] = best / cohort
    hundred = took[100]
    for cohort, seconds in took.items():
        bound = Target("ratio", "<=", 1.25) if cohort > 100 else None
        yield Figure(
            f"sim-cohort.{cohort}", 1e6 * seconds, "µs", seconds / hundred, "a cohort of 100", bound
        )


def _ten_thousand() -> None:
    """The run that `sim-10k` starts in a process of its own."""
    data = people(_CLIENTS)
    scenario = scenario_of(TASKS["A"], cohort=_SAMPLED, rounds=_ROUNDS, clients=_CLIENTS, workers=1)
    rate = Simulated(scenario, data).rate()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = data.x.nbytes + data.y.nbytes
    print(json.dumps({"resident": most, "data": size, "rate": rate}))


if __name__ == "__main__":
    _ten_thousand()
