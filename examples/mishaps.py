"""What goes wrong during the demo, on purpose: processes die as devices do, at a bad moment."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from deployment import Deployment

from fedcore.v1.admin_service_pb2 import RoundEntry
from fedserver.admin.rounds_text import OVER

__all__ = ["Mishap", "happen", "mishaps"]


@dataclass(frozen=True)
class Mishap:
    """What happens to writers when a round that is numbered `since` or higher is in a phase."""

    since: int
    phases: frozenset[str]
    words: str
    killed: tuple[str, ...] = ()
    started: tuple[str, ...] = ()


def mishaps(rounds: int) -> deque[Mishap]:
    """Two writers miss most of a round; in a later one, two others take up what they were at."""
    away, back = ("writer-03", "writer-11"), ("writer-06", "writer-14")
    working = frozenset({"SHARES", "COLLECTING"})
    return deque(
        (
            Mishap(rounds // 4, working, "killed (SIGKILL) in the middle of a round", killed=away),
            Mishap(0, OVER, "started again, from what is on their disks", started=away),
            Mishap(rounds // 2, working, "killed, and started again at once", back, back),
        )
    )


def happen(story: deque[Mishap], entry: RoundEntry, deployment: Deployment) -> str:
    """Lets the next mishap happen if it is due; tells of it."""
    if not story or entry.round.round < story[0].since or entry.phase not in story[0].phases:
        return ""
    mishap = story.popleft()
    for name in mishap.killed:
        deployment.kill(name)
    for name in mishap.started:
        deployment.start_writer(name)
    return f"  {' and '.join(mishap.killed or mishap.started)}: {mishap.words}"
