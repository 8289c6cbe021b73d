"""Where the server listens, and by what names it is called."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator

from fedserver.certificates import alternative_names
from fedserver.config import Config
from fedserver.doctor.finding import Finding, tried
from fedserver.listening import listening

__all__ = ["network"]


def network(config: Config) -> Iterator[Finding]:
    """The findings about it."""
    yield _reach(config)
    yield tried("hosts", lambda: _named(config))
    settings = config.server
    for name, host, port in (
        ("service port", settings.host, settings.port),
        ("enrolment port", settings.host, settings.enrolment_port),
        ("ops port", settings.ops_host, settings.ops_port),
    ):
        yield tried(name, lambda host=host, port=port: _free(host, port))  # type: ignore[misc]


def _reach(config: Config) -> Finding:
    """A server on loopback that is called otherwise is the first mistake on three machines."""
    settings = config.server
    with contextlib.suppress(ValueError):
        local = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
        others = set(settings.hosts) - {"localhost", "127.0.0.1", "::1"}
        if local and others:
            return Finding(
                "reach",
                "warning",
                f"only this machine reaches {settings.host}, not as {', '.join(sorted(others))}",
                'set server.host to an address of the network, or to "0.0.0.0"',
            )
    return Finding("reach", "ok", f"listens on {settings.host}, called {', '.join(settings.hosts)}")


def _named(config: Config) -> str:
    alternative_names(config.server.hosts)
    return "a certificate can name each"


def _free(host: str, port: int) -> str:
    listening(host, port).close()
    return f"{host}:{port} is free"
