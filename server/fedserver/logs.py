"""Logs: one line an event, JSON unless a person watches, and no secret in any of them.

Redaction is the last processor before the text is made, for our own events and for those of the
libraries alike. It hides by name and by look, and never shows bytes: what a log needs of them is a
digest in hexadecimal, which whoever logs writes out.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

__all__ = ["HIDDEN", "configure", "redact"]

HIDDEN = "<redacted>"

_NAMES = re.compile(
    r"token|secret|passphrase|password|private|credential|authorization|join_string|proof"
    r"|signature|seed",
    re.IGNORECASE,
)
_LOOKS = re.compile(
    r"fed1\.[^\s\"']+"  # a join string
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![\w-])[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048](?![\w-])",  # a token by itself, 32 bytes
    re.DOTALL,
)
_DEEPEST = 6

Event = MutableMapping[str, Any]


def redact(_logger: object, _method: str, event: Event) -> Event:
    """The event without secrets: by the names of its fields, and by what its values look like.

    >>> redact(None, "info", {"event": "enrolled", "token": "abc", "key": b"xyz", "uses": 2})
    {'event': 'enrolled', 'token': '<redacted>', 'key': '<3 bytes>', 'uses': 2}
    """
    return {name: _shown(name, value, _DEEPEST) for name, value in event.items()}


def configure(
    *,
    level: str = "info",
    form: Literal["auto", "json", "text"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Sends all logs of the process to `stream`, by default standard error.

    `form`: "auto" is text on a terminal and JSON elsewhere.
    """
    out = sys.stderr if stream is None else stream
    text = form == "text" or (form == "auto" and out.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=False)
        if text
        else structlog.processors.JSONRenderer(default=lambda value: f"<{type(value).__name__}>")
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("uvicorn.access", "uvicorn.error", "alembic", "sqlalchemy", "grpc"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def _shown(name: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _NAMES.search(name):
        return HIDDEN
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return _LOOKS.sub(HIDDEN, value)
    if depth == 0:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {
            str(key): _shown(str(key), item, depth - 1) for key, item in list(value.items())[:100]
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown("", item, depth - 1) for item in list(value)[:100]]
    return _LOOKS.sub(HIDDEN, str(value))
