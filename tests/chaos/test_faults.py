"""Whatever the network does, a task ends with the models of a quiet one, each update counted once.

The devices reach the server by a proxy that delays, resets, refuses, loses and holds back; four of
them also lose calls before and after the server's commit, and send some twice.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from threading import Event

import pytest

from fedcore.federated.task import Task
from tests.chaos.network.faults import (
    Draw,
    Fault,
    any_of,
    delayed,
    half_open,
    refusing,
    resetting,
    slow,
    undisturbed,
)
from tests.chaos.network.proxy import FaultProxy
from tests.chaos.programs import until
from tests.chaos.scene import Scene, points_of
from tests.chaos.supervisor import Supervisor

# Of processes that have to share their cores with other tests.
pytestmark = pytest.mark.timeout(400)

# Both directions of a handshake have some 5 KiB together, a task of three rounds some 100 KiB.
RESETS = resetting(1_000, 40_000)
FAULTS: dict[str, Draw] = {
    "delayed": delayed,
    "reset": RESETS,
    "refused": refusing(0.7),
}
MIXED = any_of(delayed, RESETS, refusing(0.5), undisturbed)


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
    scene: Scene,
    proxy: FaultProxy,
    draw: Draw,
    *,
    seed: int,
    rounds: int = 3,
    calls: bool = False,
    partition_s: float = 0.0,
    killed: Sequence[str] = (),
) -> None:
    """A whole task in such a network.

    `partition_s`: in each round nothing gets through. `killed`: where the device that is alone is.
    """
    print(f"seed {seed}")
    proxy.disturb(draw, seed=seed)
    scene.crowd.losing = seed if calls else None
    task = scene.task(rounds=rounds)
    task_id = scene.deployment.admin.submit(task)
    scene.alone.forget_pause()
    scene.crowd.run()
    with Supervisor(scene.start_alone, killed) as supervisor:
        for wanted in range(1, 1 + rounds) if partition_s else ():
            until(
                lambda wanted=wanted: _uploads(scene, task) >= 2 * wanted,
                "uploads are acknowledged",
            )
            with proxy.partition():
                Event().wait(partition_s)
        scene.finish(task_id, task, timeout_s=300 + 2 * rounds * partition_s)
    assert supervisor.killed == list(killed)


def _uploads(scene: Scene, task: Task) -> int:
    return len({found for found in scene.uploaded() if found.task == task.name})


@pytest.mark.slow
def test_a_kill_between_lost_calls_and_broken_connections_changes_no_bit(
    scene: Scene, proxy: FaultProxy
) -> None:
    """The short form of what follows, and of the kills: the update of who is killed counts once."""
    killed = points_of("client.after_upload", [1])
    disturbed(scene, proxy, RESETS, seed=1, rounds=1, calls=True, killed=killed)
    assert proxy.resets and scene.crowd.lost().total()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_fault_of_the_network_changes_no_bit(
    scene: Scene, proxy: FaultProxy, name: str, seed: int
) -> None:
    disturbed(scene, proxy, FAULTS[name], seed=seed)
    assert any(fault != Fault() for fault in proxy.faults)
    assert (proxy.resets > 0) == (name == "reset")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_ten_per_cent_of_calls_lost_robbed_of_their_answers_and_repeated_change_no_bit(
    scene: Scene, proxy: FaultProxy, seed: int
) -> None:
    before = scene.crowd.lost()
    disturbed(scene, proxy, undisturbed, seed=seed, calls=True, rounds=4)
    happened = scene.crowd.lost() - before
    assert min(happened[what] for what in ("unsent", "unanswered", "repeated")) >= 3


@pytest.mark.slow
def test_a_line_of_a_kibibyte_a_second_changes_no_bit(scene: Scene, proxy: FaultProxy) -> None:
    disturbed(scene, proxy, slow, seed=7, rounds=1)


@pytest.mark.slow
def test_connections_that_fall_silent_in_one_direction_change_no_bit(
    scene: Scene, proxy: FaultProxy
) -> None:
    """Each is left after a minute."""
    silent = half_open(3_000, 12_000)
    disturbed(scene, proxy, any_of(silent, undisturbed), seed=8, rounds=2)
    assert any(fault.lost for fault in proxy.faults)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [9, 10])
def test_a_partition_in_every_round_changes_no_bit(
    scene: Scene, proxy: FaultProxy, seed: int
) -> None:
    disturbed(scene, proxy, MIXED, seed=seed, calls=True, partition_s=3.0)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_a_minute_of_partition_in_every_round_changes_no_bit(
    scene: Scene, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    with capsys.disabled():
        print(f"\nseed {seed}: the same plan again: make chaos SEED={seed}", flush=True)
    disturbed(scene, proxy, MIXED, seed=seed, calls=True, partition_s=60.0)
