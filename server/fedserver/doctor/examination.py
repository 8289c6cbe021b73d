"""Everything that is looked at, in its order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from fedserver.config import Config
from fedserver.doctor.finding import Finding
from fedserver.doctor.machine import machine
from fedserver.doctor.network import network
from fedserver.doctor.secrets import secrets
from fedserver.doctor.stores import stores

__all__ = ["examine"]


def examine(config: Config, *, now_s: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Every finding in turn; nothing is changed, and no error is raised."""
    yield from machine(config)
    yield from secrets(config, now_s())
    yield from network(config)
    yield from stores(config, now_s())
