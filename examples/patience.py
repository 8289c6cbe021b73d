"""Reading from a server on a busy machine: a late answer is asked for again, up to a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from deployment import Deployment, PartFailed, PartLate

from fedcore.errors import DeviceTimeoutError, FedcoreError
from fedserver.admin.connection import is_passing

__all__ = ["patiently"]

_PATIENCE_S: Final = 300.0
_PAUSE_S: Final = 1.0

T = TypeVar("T")


def patiently(
    read: Callable[[], T],
    deployment: Deployment,
    *,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What `read` returns; it changes nothing, and is repeated for 5 minutes while that can help.

    Raises: PartFailed if a process has ended, or if none has and no answer came all the same; what
    does not pass.
    """
    end_s = now_s() + _PATIENCE_S
    while True:
        try:
            return read()
        except (FedcoreError, PartLate) as error:
            deployment.check()
            if isinstance(error, FedcoreError) and not is_passing(error):
                raise
            if now_s() >= end_s:
                raise PartFailed(
                    f"the server runs, and gave no answer for {_PATIENCE_S:.0f} s: this machine is "
                    "too busy. Run the demo again when it has less to do."
                ) from error
            if isinstance(error, DeviceTimeoutError | PartLate):
                print("  an answer of the server is late, the machine is busy: asking again")
            sleep(_PAUSE_S)
