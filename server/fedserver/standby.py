"""A server that waits until it is its turn: see `fedserver.store.postgres.turn`.

It opens nothing but its ops port, which says that it is alive and takes no work. On SQLite there is
nothing to wait for: a second server is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

from fedcore.wire.versions import installed_version
from fedserver.config import Config
from fedserver.metrics import Metrics
from fedserver.ops import Ops, application
from fedserver.store.opening import require_driver

__all__ = ["its_turn"]

_LOST = 1  # the exit code: whoever keeps the server running starts it again, and it stands by


@contextlib.asynccontextmanager
async def its_turn(config: Config, *, exit_now: Callable[[int], object]) -> AsyncIterator[None]:
    """Enters when this server may serve. `exit_now`: ends the process if another may meanwhile.

    Raises: StoreError, ServerError, InstallError.
    """
    database = config.database
    if isinstance(database, Path):
        yield
        return
    require_driver(database)
    from fedserver.store.postgres.turn import Turn

    log = structlog.get_logger("fedserver")
    turn = await Turn.open(database, peer=config.server.peer_address)
    try:
        if not await turn.taken():
            log.info("stands by")
            async with _shown(config):
                await turn.wait()

        async def watch() -> None:
            await turn.lost()
            log.error("turn lost", why="the connection that holds it has ended")
            exit_now(_LOST)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
    finally:
        turn.close()


@contextlib.asynccontextmanager
async def _shown(config: Config) -> AsyncIterator[None]:
    """The ops port of a server that stands by."""
    reasons = ["another server has its turn, and this one stands by"]
    ops = Ops(
        application(Metrics(), reasons=lambda: reasons, version=installed_version()),
        host=config.server.ops_host,
        port=config.server.ops_port,
    )
    await ops.start()
    try:
        yield
    finally:
        await ops.stop()
