"""Kill -9 at any moment: whatever the server, the devices and the disk were at."""

from __future__ import annotations

import os
import random

import pytest

from tests.chaos.rampage import rampage
from tests.chaos.scene import Scene


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_twenty_kills_at_random_moments_change_no_bit(scene: Scene, seed: int) -> None:
    assert rampage(scene, kills=20, seed=seed).total() == 20


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_a_thousand_kills_at_random_moments_change_no_bit(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = int(os.environ.get("CHAOS_KILLS", "1000"))
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))

    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    say(f"\nseed {seed}: {kills} kills; the same plan again: make chaos SEED={seed}")
    assert rampage(scene, kills=kills, seed=seed, say=say).total() == kills
