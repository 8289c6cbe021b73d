"""What the clients of a task wait for together: that something may be new for them."""

from __future__ import annotations

import asyncio

__all__ = ["Page"]


class Page:
    """A page that is turned again and again; whoever waits is woken by the next time."""

    def __init__(self) -> None:
        self._turned = asyncio.Event()

    def turn(self) -> None:
        """Wakes everybody who waits now."""
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def turned(self, timeout_s: float) -> None:
        """Returns when the page is turned, or after so many seconds."""
        try:
            # No task for the wait: of 10,000 clients who waited twice those were 3 % of a round.
            async with asyncio.timeout(timeout_s):
                await self._turned.wait()
        except TimeoutError:
            return
