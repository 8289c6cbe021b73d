"""How many connections the ports hold, so that whoever dials leaves the server files to open."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final, Self

__all__ = ["Connections", "open_more_files"]

_OWN_FILES: Final = 256  # the database, updates on their way, ledgers, logs
_LEAST: Final = 16


def open_more_files() -> None:
    """Lets this process open as many files as it may: the usual 1,024 hold some 700 devices.

    The lower limit is for programs that ask with `select`, which takes no number above it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass(frozen=True, slots=True)
class Connections:
    """At most so many at once: of `members`, who have a certificate, and of `strangers`."""

    members: int
    strangers: int

    @classmethod
    def within(cls, wanted: int, *, files: int | None = None) -> Self:
        """`wanted` of members and a tenth of it of strangers, or fewer where files are few.

        `files`: how many this process may open, by default what the system says.

        >>> Connections.within(1000, files=10_000)
        Connections(members=1000, strangers=100)
        >>> Connections.within(1000, files=1024)
        Connections(members=698, strangers=69)
        """
        if files is None:
            files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        members = wanted
        if files != resource.RLIM_INFINITY:
            members = min(wanted, (files - _OWN_FILES) * 10 // 11)
        return cls(max(_LEAST, members), max(_LEAST, members // 10))
