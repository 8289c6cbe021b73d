"""Failpoints, so that a test can kill a process at exactly the line where a crash would hurt most.

A line of code names the place: `failpoint("release.before_publish")`. In production nothing is
armed and the call is one look-up in an empty dict. Under `--test-mode` a program arms some of the
places from a text such as `upload.after_seal=kill@3; release.before_publish=sleep(200)`.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from fedcore.errors import ArgumentError

__all__ = ["NAMES", "arm", "disarm", "failpoint"]

NAMES: Final = (
    "aggregate.midway",
    "blob.after_rename",
    "blob.before_rename",
    "client.after_checkin",
    "client.after_persist",
    "client.after_upload",
    "client.before_report",
    "client.before_upload",
    "client.mid_download",
    "client.mid_upload",
    "complete.after_commit",
    "complete.before_commit",
    "release.after_publish",
    "release.after_reserve",
    "release.before_publish",
    "release.before_reserve",
    "round.after_persist",
    "round.before_persist",
    "scrub.after_key",
    "scrub.before",
    "scrub.midway",
    "secagg.after_persist",
    "store.after_commit",
    "store.before_commit",
    "upload.after_chunk",
    "upload.after_seal",
    "upload.before_seal",
)

# The one thing that a whole process shares: an argument through every layer would cost each of
# them a parameter that production never uses.
_armed: Final[dict[str, Callable[[], None]]] = {}

_ENTRY = re.compile(r"(?P<action>kill|error|sleep\((?P<ms>\d{1,6})\))(?:@(?P<hit>[1-9]\d{0,8}))?")


def failpoint(name: str) -> None:
    """Mark a place where a test may kill the process, fail, or wait; otherwise do nothing.

    `name` is a literal of `NAMES`. It may block the thread (`sleep`) and raise OSError (`error`).

    >>> failpoint("upload.after_seal")
    """
    if (act := _armed.get(name)) is not None:
        act()


def arm(spec: str, *, test_mode: bool) -> None:
    """Arm the places that `spec` names, instead of those that were armed before.

    `spec` is `name=action` or `name=action@n`, several parted by `;`. The actions: `kill` (SIGKILL
    to this process), `sleep(milliseconds)`, `error` (an OSError, EIO). With `@n` an action happens
    at the n-th time the place is reached and at no other, without it every time.
    Raises: ArgumentError without `test_mode`, and for a name or an action that do not exist; then
    everything stays as it was.

    >>> arm("upload.after_seal=error@2", test_mode=True)
    >>> failpoint("upload.after_seal")
    >>> failpoint("upload.after_seal")
    Traceback (most recent call last):
    OSError: [Errno 5] failpoint upload.after_seal
    >>> disarm()
    """
    parts = [part for part in spec.split(";") if part.strip()]
    if parts and not test_mode:
        raise ArgumentError(
            "failpoints are armed outside of the test mode",
            why="an armed failpoint kills or delays the process on purpose",
            fix="take FEDCORE_FAILPOINTS out of the environment, or start with --test-mode",
        )
    wanted = dict(map(_parsed, parts))
    disarm()
    _armed.update(wanted)


def disarm() -> None:
    """Make every failpoint do nothing again."""
    _armed.clear()


def _parsed(part: str) -> tuple[str, Callable[[], None]]:
    name, _, text = (piece.strip() for piece in part.partition("="))
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise ArgumentError(
            f"there is no failpoint {name!r:.80}",
            why="only the names of fedcore.failpoints.NAMES stand in the code",
            fix=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(NAMES)}",
        )
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ArgumentError(
            f"failpoint {name}: there is no action {text!r:.80}",
            why="an action is kill, error or sleep(milliseconds), with @n for the n-th time only",
            fix=f"write for example {name}=kill@3 or {name}=sleep(200)",
        )
    hit = int(match["hit"]) if match["hit"] else None
    return name, _counted(_action(name, match), hit=hit)


def _action(name: str, match: re.Match[str]) -> Callable[[], None]:
    if match["ms"] is not None:
        delay_s = int(match["ms"]) / 1000
        return lambda: time.sleep(delay_s)
    return _kill if match["action"] == "kill" else lambda: _fail(name)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(name: str) -> None:
    raise OSError(errno.EIO, f"failpoint {name}")


def _counted(action: Callable[[], None], *, hit: int | None) -> Callable[[], None]:
    """`action` at the `hit`-th call alone, counted over all threads; at every call for None."""
    if hit is None:
        return action
    lock, seen = threading.Lock(), 0

    def act() -> None:
        nonlocal seen
        with lock:
            seen += 1
            due = seen == hit
        if due:
            action()

    return act
