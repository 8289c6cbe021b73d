"""What could keep a server from running well, looked at one by one before it is started.

What `fed server start` would refuse is an error here, and found by the same code where that changes
nothing. So is what would not end a start and harm a federation all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from fedserver.config import Config
from fedserver.doctor.finding import Finding
from fedserver.doctor.machine import machine
from fedserver.doctor.network import network
from fedserver.doctor.secrets import secrets
from fedserver.doctor.stores import stores

__all__ = ["Finding", "examine"]


def examine(config: Config, *, now_s: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Every finding in turn; nothing is changed, and no error is raised."""
    yield from machine(config)
    yield from secrets(config, now_s())
    yield from network(config)
    yield from stores(config, now_s())
