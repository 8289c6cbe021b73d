"""Text from elsewhere within HTML and SVG: names in a scenario are whatever somebody wrote."""

from __future__ import annotations

from html import escape

from fedcore.console import plain

__all__ = ["escaped"]


def escaped(text: str) -> str:
    """The text as it stands in an element or a quoted attribute; what XML cannot hold is a space.

    >>> escaped('<b title="x">' + chr(0))
    '&lt;b title=&quot;x&quot;&gt; '
    """
    return escape(plain(text))
