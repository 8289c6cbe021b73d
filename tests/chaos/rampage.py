"""Kills at random moments, one after the other, while tasks run one after the other.

What is drawn follows from a seed: who is killed, and how long he is left alone before. Where a
process is in its work at that moment does not, so a seed repeats the plan and not the run.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

from tests.chaos.programs import until
from tests.chaos.scene import Scene

__all__ = ["rampage"]

_ROUNDS = 6
_TASK_S = 300.0


def rampage(
    scene: Scene,
    *,
    kills: int,
    seed: int,
    say: Callable[[str], None] = print,
    longest_s: float = 3.0,
) -> Counter[str]:
    """Kills the server, one device, or four at once, so many times: how often whom.

    After every task all is checked that has to hold. `longest_s`: without a kill.
    """
    say(f"seed {seed}: {kills} kills")
    draw, done = random.Random(seed), Counter[str]()
    begun_s = time.monotonic()
    while done.total() < kills:
        task = scene.task(rounds=_ROUNDS, attempts=100)
        task_id = scene.deployment.admin.submit(task)
        scene.start_devices()
        while done.total() < kills and not _over_within(scene, task_id, draw.uniform(0, longest_s)):
            whom = draw.choices(("server", "device", "crowd"), (2, 1, 1))[0]
            _kill(scene, whom)
            done[whom] += 1
            say(f"{done.total():5} {time.monotonic() - begun_s:8.1f} s {task.name} {whom}")
        scene.finish(task_id, task, timeout_s=_TASK_S)
    starts = sorted(scene.deployment.starts_s)
    say(
        f"seed {seed}: {done.total()} kills ({', '.join(f'{n} {who}' for who, n in done.items())}),"
        f" every model the same to the bit; from start to ready {starts[len(starts) // 2]:.1f} s,"
        f" at most {starts[-1]:.1f} s"
    )
    return done


def _over_within(scene: Scene, task_id: str, seconds: float) -> bool:
    """Whether a task has ended, looked at until so many seconds have passed."""
    end = time.monotonic() + seconds
    admin = scene.deployment.admin
    return (
        until(
            lambda: (
                "over"
                if admin.task(task_id).state != "RUNNING"
                else "time"
                if time.monotonic() >= end
                else None
            ),
            "time passes",
            timeout_s=seconds + 60,
        )
        == "over"
    )


def _kill(scene: Scene, whom: str) -> None:
    match whom:
        case "server":
            scene.start_server()
        case "device":
            scene.start_alone()
        case "crowd":
            scene.crowd.end()
            scene.crowd.resume()
