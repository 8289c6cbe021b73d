"""What a device tells of itself when it asks for work, and what it is told of a task it refused.

A server offers a refused task again when the terms of the device are others. They tell no more than
that: they are keyed with the device's own key, so that nobody can try out which policy has them.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Self

from fedclient.bound_data import BoundData
from fedclient.policy import Policy
from fedclient.state import DAY_MS

if TYPE_CHECKING:
    from fedcore.data import Dataset
    from fedcore.federated.programs import Program
    from fedcore.v1.client_service_pb2 import Held

__all__ = ["Offer", "held_back"]

_BYTES: Final = 16
_LABEL: Final = b"fedclient terms\0"


@dataclass(frozen=True, slots=True)
class Offer:
    """The names of what is here, and the terms: 16 bytes, others when anything of it changes."""

    programs: list[str]
    datasets: list[str]
    models: list[str]
    terms: bytes

    @classmethod
    def of(
        cls,
        key: bytes,
        *,
        policy: Policy,
        datasets: Mapping[str, Dataset],
        programs: Mapping[str, Program],
    ) -> Self:
        """`key`: of the device. Of data in files their sizes and times count besides the names."""
        from fedcore.wire.versions import installed_version

        installed = entry_points()  # reads what every distribution says of itself: some 10 ms
        names = (
            sorted({"local", *programs, *installed.select(group="fedcore.programs").names}),
            sorted(datasets),
            sorted(installed.select(group="fedcore.models").names),
        )
        files = datasets.files() if isinstance(datasets, BoundData) else []
        said = repr((policy, names, files, installed_version()))
        return cls(*names, hmac.digest(key, _LABEL + said.encode(), sha256)[:_BYTES])


def held_back(held: Held) -> str:
    """Why there is no work, and until when, by the device's clock."""
    until = datetime.now().astimezone() + timedelta(milliseconds=min(held.left_ms, DAY_MS))
    return (
        f"this device refused {held.task_id} ({held.why}): it is asked again when started with"
        f" another policy or data, else by {until:%H:%M}"
    )
