"""A store that speaks S3, of moto, on loopback, whose requests fail when a test wants them to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["CREDENTIALS", "Fault", "ObjectStore", "object_store", "refusing"]

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "a-test",
    "AWS_SECRET_ACCESS_KEY": "no-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}

Fault = Callable[[dict[str, Any]], bytes | None]
"""What a request is answered with instead, as a status line; `b""` cuts it off in the middle."""


def refusing(method: str, status: bytes, *, times: int = 1 << 30) -> Fault:
    """Answers so many requests of a method with a status."""
    left = [times]

    def fault(environ: dict[str, Any]) -> bytes | None:
        if environ["REQUEST_METHOD"] != method or not left[0]:
            return None
        left[0] -= 1
        return status

    return fault


class ObjectStore:
    """Serves until `close`. `fault`: is asked about each request before the store is."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):  # type: ignore[misc]
            def log(self, *given: object) -> None:
                pass

        self._store = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault | None = None
        self.requests: list[tuple[str, str]] = []
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def make_bucket(self, name: str) -> None:
        """An empty one."""
        import boto3

        boto3.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        status = self.fault(environ) if self.fault is not None else None
        if status is None:
            answer: Iterable[bytes] = self._store(environ, start)
            return answer
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if not status:
            environ["wsgi.input"].read(length // 2)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        environ["wsgi.input"].read(length)
        start(status.decode(), [("Content-Type", "application/xml")])
        name = status.decode().partition(" ")[2].replace(" ", "")
        return [f"<Error><Code>{name}</Code><Message>of a test</Message></Error>".encode()]


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """One for some tests; skips where it is not installed."""
    reason = "a store that speaks S3 is of moto (the extra 'dev')"
    for module in ("s3fs", "flask", "flask_cors", "moto.moto_server.werkzeug_app"):
        pytest.importorskip(module, reason=reason)
    store = ObjectStore()
    try:
        yield store
    finally:
        store.close()
