"""Flower has secure aggregation too: the same work by its own functions, client and server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, Target
from benchmarks.measure import Run, compare
from benchmarks.peers import PeerCommand, Peers
from benchmarks.registry import benchmark
from benchmarks.secagg_client import Device
from benchmarks.secagg_cohort import COORDINATES
from benchmarks.secagg_unmask import CLIENTS, LOST, Ending

__all__ = ["secagg_flower"]

_SCRIPT = Path(__file__).with_name("scripts") / "flower_secagg.py"
_REPEATS = 3


@benchmark("secagg-flower", "How many times faster than Flower 1.42 is a session of 1000 clients?")
def secagg_flower(peers: Peers) -> Iterator[Figure]:
    """Both with 104 neighbours, the same threshold and a million coordinates.

    A client of Flower verifies no signature: beside it stands one of ours that has verified all of
    them before, and then one to whom every signature is new. The work of Flower's server is its
    time for each secret, key and stream, multiplied by how many there are.
    """
    ending = Ending(CLIENTS, lost=LOST)
    parameters, survivors = ending.cohort.server.roster.parameters, CLIENTS - LOST
    sizes = {
        "neighbours": parameters.degree,
        "threshold": parameters.threshold,
        "coordinates": COORDINATES,
    }
    numbers = {"survivors": survivors, "lost": LOST, "pairs": ending.streams - survivors}
    opening = _rival(peers, "server", sizes | numbers, "openings_per_s")
    found = compare(lambda: 1 / ending.open_s(), opening, repeats=_REPEATS, best=max)
    yield Figure(
        "secagg-flower.server",
        found.value,
        "openings/core-s",
        found.ratio,
        found.against,
        Target("ratio", ">=", 20),
    )

    device = Device(21)
    masking = _rival(peers, "client", sizes, "sessions_per_s")
    for name, session, bound in (
        ("client", device.trusting, Target("ratio", ">=", 20)),
        ("client-verifying", device.first, None),
    ):
        found = compare(lambda run=session: 1 / run(), masking, repeats=_REPEATS, best=max)
        yield Figure(
            f"secagg-flower.{name}",
            found.value,
            "sessions/core-s",
            found.ratio,
            found.against,
            bound,
        )


def _rival(peers: Peers, side: str, numbers: dict[str, int], quantity: str) -> dict[str, Run]:
    options = [word for name, number in numbers.items() for word in (f"--{name}", f"{number}")]
    command = PeerCommand("Flower 1.42", "flwr", str(_SCRIPT), (side, *options))
    return peers.rivals([command], quantity)
