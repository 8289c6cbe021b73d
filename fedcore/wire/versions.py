"""A server speaks with clients of its own minor version and of the two before it.

Version 1 of the protocol only ever grows, so an old client is understood; that it still knows how
to behave is what a task's bounds are for.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import metadata
from typing import Final

from fedcore.errors import VersionError

__all__ = ["Version", "check_version", "installed_version"]

_DISTRIBUTION: Final = "fedcore-fl"
_MINORS_BACK: Final = 2
_VERSION: Final = re.compile(
    r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})([.+-]?[0-9A-Za-z.+-]{0,32})", re.ASCII
)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Major, minor and patch; what follows them does not count.

    >>> Version.parse("1.10.0") > Version.parse("1.9.3.dev1")
    True
    """

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """Raises: VersionError for a text that does not begin with three numbers."""
        found = _VERSION.fullmatch(text)
        if found is None:
            raise VersionError(
                "a version cannot be read",
                why="it is not of the form major.minor.patch",
                fix='send a version like "1.4.0"',
            )
        return cls(int(found[1]), int(found[2]), int(found[3]))

    def oldest_understood(self) -> Version:
        """The oldest client that a server of this version takes."""
        return Version(self.major, max(0, self.minor - _MINORS_BACK), 0)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@functools.cache  # every check-in names it, and to read it from the disk takes a millisecond
def installed_version() -> str:
    """The version of this installation, "0.0.0" where it was never installed."""
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0.0.0"


def check_version(client: str, *, server: str, minimum: str = "", maximum: str = "") -> Version:
    """The client's version, if this server and the bounds of a task (both included) take it.

    Raises: VersionError, which says what to install.
    """
    found, own = Version.parse(client), Version.parse(server)
    least = max([own.oldest_understood(), *([Version.parse(minimum)] if minimum else [])])
    if found < least:
        raise VersionError(
            f"the client's version {found} is too old",
            why=f"the oldest that is served is {least}",
            fix=f"update the client to {least} or newer",
        )
    if found.major > own.major or (maximum and found > Version.parse(maximum)):
        raise VersionError(
            f"the client's version {found} is too new",
            why=f"the server is of version {own}"
            + (f", the task ends at {maximum}" * bool(maximum)),
            fix=f"use a client of {_newest(own, maximum)} or older, or update the server",
        )
    return found


def _newest(server: Version, maximum: str) -> str:
    """The newest client that a server takes for a task: any minor version of its own major."""
    bound = Version.parse(maximum) if maximum else None
    return f"version {server.major}" if bound is None or bound.major > server.major else str(bound)
