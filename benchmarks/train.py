"""Local training of many clients: the work that a simulator spends its day on."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cohort import training
from benchmarks.figure import Figure, Target
from benchmarks.machine import cores
from benchmarks.measure import compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.sgemm import multiplying
from benchmarks.tasks import TASKS, training_commands

__all__ = ["train_a", "train_b", "train_c"]

_REPEATS = 5
_SHORT_REPEATS = 12  # of runs of a second, which a busy host disturbs more often than not
_QUESTION = "How many clients a second does {} train, beside the fastest peer and the GEMM limit?"


def _measure(
    name: str,
    peers: Peers,
    *,
    target: float,
    limit: Target | None = None,
    repeats: int = _REPEATS,
) -> Iterator[Figure]:
    task = TASKS[name]
    rivals = peers.rivals(training_commands(task), "clients_per_s")
    with training(name, processes=cores()) as ours, multiplying(cores()) as products:
        rates = compare(ours.rate, rivals, repeats=repeats, best=max)
        products_rate = max(products() for _ in range(_REPEATS))
    bound = Target("ratio", ">=", target)
    yield Figure(f"train-{name}", rates.value, "clients/s", rates.ratio, rates.against, bound)
    useful = rates.value * task.flops_per_client / 1e9
    yield Figure(
        f"train-{name}.gflops", useful, "GFLOP/s", useful / products_rate, "SGEMM 1024", limit
    )


@benchmark("train-A", _QUESTION.format("the MLP 784-200-62"))
def train_a(peers: Peers) -> Iterator[Figure]:
    """Fifty clients a round, three SGD steps each on batches of 20."""
    yield from _measure("A", peers, target=1.2, repeats=_SHORT_REPEATS)


@benchmark("train-B", _QUESTION.format("the CNN of the FedAvg paper"))
def train_b(peers: Peers) -> Iterator[Figure]:
    """As train-A, with 1.7 million parameters."""
    yield from _measure("B", peers, target=1.0, limit=Target("ratio", ">=", 0.45))


@benchmark("train-C", _QUESTION.format("the small CNN"))
def train_c(peers: Peers) -> Iterator[Figure]:
    """As train-A, where elementwise passes and copies weigh more than products."""
    yield from _measure("C", peers, target=1.2)
