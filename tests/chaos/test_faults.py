"""Whatever the network does, a task ends with the models of a quiet one, each update counted once.

The devices reach the server by a proxy that delays, resets, refuses, loses and holds back; four of
them also lose calls before and after the server's commit, and send some twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.network.faults import (
    Draw,
    Fault,
    delayed,
    refusing,
    resetting,
    undisturbed,
)
from tests.chaos.network.proxy import FaultProxy
from tests.chaos.scene import Scene

# Of processes that have to share their cores with other tests.
pytestmark = pytest.mark.timeout(400)

# A handshake has some 4 KiB; all that a device and its server say in a task some 100 KiB.
RESETS = resetting(1_000, 40_000)
FAULTS: dict[str, Draw] = {
    "delayed": delayed,
    "reset": RESETS,
    "refused": refusing(0.5),
}


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy() as made:
        yield made


@pytest.fixture(scope="module")
def scene(proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"), proxy=proxy)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quiet_afterwards(scene: Scene, proxy: FaultProxy) -> Iterator[None]:
    yield
    scene.end_devices()
    scene.crowd.losing = None
    proxy.draw = undisturbed
    proxy.reset()


def disturbed(
    scene: Scene, proxy: FaultProxy, draw: Draw, *, seed: int, rounds: int = 3, calls: bool = False
) -> None:
    """A whole task in such a network."""
    print(f"seed {seed}")
    proxy.draw, proxy.seed = draw, seed
    scene.crowd.losing = seed if calls else None
    task = scene.task(rounds=rounds)
    task_id = scene.deployment.admin.submit(task)
    scene.start_devices()
    scene.finish(task_id, task)


def test_calls_that_are_lost_or_repeated_on_connections_that_break_change_no_bit(
    scene: Scene, proxy: FaultProxy
) -> None:
    disturbed(scene, proxy, RESETS, seed=1, rounds=1, calls=True)
    assert proxy.resets and scene.crowd.lost().total()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_fault_of_the_network_changes_no_bit(
    scene: Scene, proxy: FaultProxy, name: str, seed: int
) -> None:
    before = len(proxy.faults), proxy.resets
    disturbed(scene, proxy, FAULTS[name], seed=seed)
    assert any(fault != Fault() for fault in proxy.faults[before[0] :])
    assert (proxy.resets > before[1]) == (name == "reset")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_ten_per_cent_of_calls_lost_robbed_of_their_answers_and_repeated_change_no_bit(
    scene: Scene, proxy: FaultProxy, seed: int
) -> None:
    before = scene.crowd.lost()
    disturbed(scene, proxy, undisturbed, seed=seed, calls=True, rounds=4)
    happened = scene.crowd.lost() - before
    assert min(happened[what] for what in ("unsent", "unanswered", "repeated")) >= 3
