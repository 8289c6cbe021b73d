"""Who waits for a page hears that it is turned, at whatever moment, and else waits no longer."""

from __future__ import annotations

import asyncio

import pytest

from fedserver.federation.page import Page


async def test_everybody_who_waits_is_woken_and_who_comes_later_is_not() -> None:
    page = Page()
    waiting = [asyncio.ensure_future(page.turned(60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    page.turn()
    late = asyncio.ensure_future(page.turned(60.0))
    await asyncio.wait_for(asyncio.gather(*waiting), 5.0)
    assert not late.done()
    page.turn()
    await asyncio.wait_for(late, 5.0)


async def test_nobody_waits_longer_than_is_asked() -> None:
    page = Page()
    await asyncio.wait_for(page.turned(0.01), 5.0)
    await asyncio.wait_for(page.turned(0.0), 5.0)


async def test_who_stops_waiting_leaves_nothing_behind() -> None:
    page, before = Page(), asyncio.all_tasks()
    waiting = asyncio.ensure_future(page.turned(60.0))
    await asyncio.sleep(0)
    assert len(page._turned._waiters) == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not page._turned._waiters and asyncio.all_tasks() == before
