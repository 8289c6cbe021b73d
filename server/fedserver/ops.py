"""The port of the machine's own operator: is it alive, is it ready, what are its figures.

Plain HTTP, because the probes of orchestrators have no client certificate, and so on loopback only.
It answers only to names of this machine, so that no web page can read it through a browser, and
changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedserver.listening import listening
from fedserver.metrics import Metrics

__all__ = ["Ops", "application"]

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_CONNECTION_S: Final = 10.0
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")


def application(
    metrics: Metrics, *, reasons: Callable[[], Sequence[str]], version: str
) -> Starlette:
    """The routes. `reasons`: why the server takes no new work, empty if it does."""

    async def livez(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        found = list(reasons())
        body = {"ready": not found, "reasons": found, "version": version}
        return JSONResponse(body, status_code=503 if found else 200)

    async def figures(request: Request) -> Response:
        return Response(metrics.exposition(), media_type=_EXPOSITION)

    return Starlette(
        routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", figures)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(_OWN_NAMES))],
    )


class Ops:
    """The port, in the event loop of the server."""

    def __init__(self, app: Starlette, *, host: str, port: int) -> None:
        self._address = (host, port)
        self._server = _Quiet(
            uvicorn.Config(
                app,
                http=_OneAnswer,
                headers=[("connection", "close")],
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=64,
                timeout_graceful_shutdown=1,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens, and returns the port. Raises: ServerError where another has it."""
        listener = listening(*self._address)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        port: int = listener.getsockname()[1]
        return port

    async def stop(self) -> None:
        """Answers what was asked, then closes the port."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _OneAnswer(H11Protocol):
    """A connection for one answer, which ends soon even if nothing is ever asked.

    64 of those that ask half a question would else keep every probe out for good.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = asyncio.get_running_loop().call_later(_CONNECTION_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        super().connection_lost(exc)


class _Quiet(uvicorn.Server):
    """A server that leaves the signals of the process to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
