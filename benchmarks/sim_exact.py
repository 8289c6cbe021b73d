"""What masks, shares and signatures cost a simulation: the whole protocol beside integers alone."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figure import Figure, Target
from benchmarks.machine import cores
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.simulated import Simulated, people, scenario_of
from benchmarks.tasks import CLASSES, SIDE, Dense, Task

__all__ = ["sim_exact"]

_CLIENTS, _ROUNDS, _REPEATS, _HIDDEN = 100, 3, 2, 1180
_MODEL = Task(
    "exact", "an MLP of a million parameters", (Dense(SIDE**2, _HIDDEN), Dense(_HIDDEN, CLASSES)), 1
)
_MASKED = 'secure_aggregation = { profile = "malicious", gamma = 0.1, delta = 0.1 }'
_WEIGHTED = f"{_MASKED}\nupdate = {{ largest_weight = 100 }}"
_PRIVATE = f"""{_MASKED}
[privacy]
unit = "client"
epsilon = 8.0
delta = 1e-5
population = 100
clipping_norm = 1.0
"""


@benchmark("sim-exact", "How much longer does a round of 100 clients take with the whole protocol?")
def sim_exact(_peers: Peers) -> Iterator[Figure]:
    """A million parameters, against a malicious server; first without privacy, then with noise."""
    data = people(_CLIENTS)
    for name, beside in (("sim-exact", _WEIGHTED), ("sim-exact.private", _PRIVATE)):
        took = {
            mode: min(
                min(
                    Simulated(
                        scenario_of(
                            _MODEL,
                            cohort=_CLIENTS,
                            rounds=_ROUNDS,
                            clients=_CLIENTS,
                            mode=mode,
                            workers=cores(),
                            beside=beside,
                        ),
                        data,
                    ).seconds()
                )
                for _ in range(_REPEATS)
            )
            for mode in ("exact", "fast")
        }
        bound = Target("ratio", "<=", 2.0)
        yield Figure(name, took["exact"], "s", took["exact"] / took["fast"], "fast", bound)
