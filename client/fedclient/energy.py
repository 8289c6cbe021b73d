"""What work costs in joules, and what is left in the battery; said to be measured only if it is.

Linux counts the energy of a processor package in `intel-rapl:*`, where the owner may read it. That
is the whole machine while the work ran. Elsewhere the processor's time is multiplied by a constant.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedclient.progress import Energy

__all__ = ["WATTS_A_CORE", "Meter", "battery_level"]

WATTS_A_CORE: Final = 10.0
"""Of a busy core, by which energy is estimated: between a laptop's (5) and a server's (15)."""

_POWERCAP = Path("/sys/class/powercap")
_BATTERIES = Path("/sys/class/power_supply")


class Meter:
    """Begins to measure when it is made. `root`: where counters are, for tests.

    >>> Meter().read().joules >= 0
    True
    """

    def __init__(self, *, root: Path = _POWERCAP) -> None:
        self._begun_s = time.process_time()
        self._counters = [found for path in _packages(root) if (found := _Counter.at(path))]

    def read(self) -> Energy:
        """What was used since the meter was made."""
        used = [counter.used_uj() for counter in self._counters]
        if used and None not in used:
            return Energy(sum(found for found in used if found is not None) / 1e6, measured=True)
        return Energy((time.process_time() - self._begun_s) * WATTS_A_CORE, measured=False)


def battery_level(*, root: Path = _BATTERIES) -> float | None:
    """The charge of the emptiest battery that is discharging, 0 to 1; None if none is."""
    levels = []
    for path in sorted(root.glob("BAT*")):
        capacity = _integer(path / "capacity")
        if capacity is not None and _text(path / "status") == "Discharging":
            levels.append(capacity / 100)
    return min(levels, default=None)


@dataclass(frozen=True, slots=True)
class _Counter:
    """One package's counter, in microjoules; it begins again at 0 after `most`."""

    path: Path
    begun: int
    most: int

    @classmethod
    def at(cls, path: Path) -> _Counter | None:
        begun, most = _integer(path / "energy_uj"), _integer(path / "max_energy_range_uj")
        return None if begun is None or not most else cls(path, begun, most)

    def used_uj(self) -> int | None:
        now = _integer(self.path / "energy_uj")
        return None if now is None else (now - self.begun) % (self.most + 1)


def _packages(root: Path) -> list[Path]:
    """Packages, not the domains within them, which would count twice."""
    return [path for path in sorted(root.glob("intel-rapl:*")) if path.name.count(":") == 1]


def _integer(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
