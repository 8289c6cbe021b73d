"""The table `[clock]` of a scenario: rounds one after the other, or updates as they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from fedcore.errors import TaskError
from fedcore.settings import Bounds, Settings
from fedsim.clock.staleness import StalenessSpec
from fedsim.devices import NEVER

__all__ = ["ClockSpec"]

_LONGEST_S: Final = 366 * 86400.0


@dataclass(frozen=True, kw_only=True)
class ClockSpec(Settings):
    """`schedule`: "synchronous", as a server holds its rounds, or "buffered" (FedBuff).

    `patience_s`: for how long a round, or a place in a buffered schedule, waits for clients; None:
    for as long as it takes. Of a buffered schedule alone: `concurrency`, how many clients train at
    the same time; `buffer`, how many updates make a step of the server; `staleness`, how an update
    counts, and `largest_staleness`, above which it is not used.
    """

    schedule: Literal["synchronous", "buffered"] = "synchronous"
    patience_s: Annotated[float | None, Bounds(least=0, most=_LONGEST_S)] = None
    concurrency: Annotated[int | None, Bounds(least=1, most=2**20)] = None
    buffer: Annotated[int | None, Bounds(least=1, most=2**20)] = None
    staleness: StalenessSpec = field(default_factory=lambda: StalenessSpec(name="polynomial"))
    largest_staleness: Annotated[int | None, Bounds(least=0, most=10**6)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        buffered = self.schedule == "buffered"
        for name in ("concurrency", "buffer", "largest_staleness"):
            given = getattr(self, name) is not None
            if given and not buffered:
                raise TaskError(
                    f"clock.{name} is set for a synchronous schedule",
                    why="it says how updates are taken as they come",
                    fix=f'leave {name} out, or set schedule = "buffered"',
                    where=f"clock.{name}",
                )
            if buffered and not given and name in ("concurrency", "buffer"):
                raise TaskError(
                    f"clock.{name} is missing",
                    why="a buffered schedule has no default that fits every population",
                    fix=f"set {name}, as 10 or a tenth of the population",
                    where="clock",
                )

    @property
    def patience_ms(self) -> int:
        """In milliseconds, as clocks take it."""
        return NEVER if self.patience_s is None else round(1000 * self.patience_s)
