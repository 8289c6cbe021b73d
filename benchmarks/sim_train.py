"""The simulator on the three tasks, beside the fastest peer and beside Flower's simulation."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.figure import Figure, Target
from benchmarks.machine import cores
from benchmarks.measure import compare
from benchmarks.peers import PeerCommand, Peers
from benchmarks.registry import benchmark
from benchmarks.simulated import Simulated, scenario_of
from benchmarks.tasks import CLIENTS, COHORT, TASKS, WARM_UP_ROUNDS, population, training_commands
from fedcore.data import Dataset

__all__ = ["sim_a", "sim_b", "sim_c"]

_QUESTION = "How many clients a second of {} does the simulator train, beside other systems?"
_FLOWER_REPEATS = 2


def _measure(
    name: str, peers: Peers, *, target: float, flower: float | None, repeats: int
) -> Iterator[Figure]:
    task, data = TASKS[name], population()
    images = data.x.reshape(-1, *data.x.shape[2:])
    people = Dataset(images, data.y.reshape(-1))
    rounds = task.timed_rounds + WARM_UP_ROUNDS

    def simulated(mode: str) -> Simulated:
        scenario = scenario_of(
            task, cohort=COHORT, rounds=rounds, clients=CLIENTS, mode=mode, workers=cores()
        )
        return Simulated(scenario, people)

    rivals = peers.rivals(training_commands(task), "clients_per_s")
    plain = simulated("plain")
    rates = compare(plain.rate, rivals, repeats=repeats, best=max)
    bound = Target("ratio", ">=", target)
    yield Figure(f"sim-{name}", rates.value, "clients/s", rates.ratio, rates.against, bound)
    fast = compare(simulated("fast").rate, {"plain": plain.rate}, repeats=repeats, best=max)
    yield Figure(f"sim-{name}.fast", fast.value, "clients/s", fast.ratio, fast.against)
    command = PeerCommand("Flower", "flwr", "flwr_peer.py", ("--model", name, "--actors", "2"))
    other = peers.rivals([command], "clients_per_s")
    beside = compare(plain.rate, other, repeats=_FLOWER_REPEATS, best=max)
    least = None if flower is None else Target("ratio", ">=", flower)
    yield Figure(
        f"sim-{name}.flower", beside.value, "clients/s", beside.ratio, beside.against, least
    )


@benchmark("sim-A", _QUESTION.format("the MLP 784-200-62"))
def sim_a(peers: Peers) -> Iterator[Figure]:
    """Rounds of 20 ms: what a round costs beside its training counts most."""
    yield from _measure("A", peers, target=1.2, flower=40, repeats=12)


@benchmark("sim-B", _QUESTION.format("the CNN of the FedAvg paper"))
def sim_b(peers: Peers) -> Iterator[Figure]:
    """1.7 million parameters: products are nearly all of it."""
    yield from _measure("B", peers, target=1.0, flower=2.5, repeats=3)


@benchmark("sim-C", _QUESTION.format("the small CNN"))
def sim_c(peers: Peers) -> Iterator[Figure]:
    """Elementwise passes and copies weigh more than products."""
    yield from _measure("C", peers, target=1.2, flower=None, repeats=5)
