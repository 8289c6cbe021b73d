"""How a server passes a call on to the one that drives its task, and what that one believes of it.

The call goes over the service port of the other, byte for byte, with the certificate of whoever
sent it beside it. It comes from a holder of a server's certificate, which the authority gives to
nobody but who has its key; from anybody else the note is refused. The other server reads the
certificate in the note as if it had come by itself: who has expired, was revoked, or lacks the
role, is refused there, too, and a signature is checked where the round is. What is taken on trust
from a server is that its caller has shown at the handshake to own that certificate, and whence it
called. A server that does not answer is one that is about to be replaced: its callers are told to
come again, as after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import grpc
import structlog

from fedcore.errors import UnauthenticatedError
from fedcore.wire.channels import client_options
from fedcore.wire.failures import FAILURE_KEY, PUSHBACK_KEY, error_from
from fedserver.authorisation import Caller
from fedserver.authority import ServerCertificate
from fedserver.federation.driving import between
from fedserver.federation.interface import ElsewhereError

__all__ = ["Note", "Passing", "RelayedError"]

_CERTIFICATE: Final = "fedcore-caller-bin"
_ADDRESS: Final = "fedcore-caller-address-bin"
_PASSED: Final = "fedcore-passed-bin"
_CALLS: Final = 90  # of a connection, of the 100 that a port takes at once
_GRACE_S: Final = 30.0
_BACKOFF: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Connections of their own, or all channels to one server would share one.
    ("grpc.use_local_subchannel_pool", 1),
)
_GONE: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_Pairs = tuple[tuple[str, str | bytes], ...]


class RelayedError(Exception):
    """Another server has refused a call that was passed on; the caller gets its very words."""

    def __init__(self, status: grpc.StatusCode, details: str, metadata: _Pairs) -> None:
        super().__init__(details)
        self.status, self.details, self.metadata = status, details, metadata


@dataclass(frozen=True, slots=True)
class Note:
    """For whom a server passes a call on. `certificate`: in PEM; `passed`: for which tasks."""

    certificate: bytes = field(repr=False)
    address: str
    passed: frozenset[str]

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self | None:
        """The note in the metadata of a call, if it has one. Raises: UnauthenticatedError."""
        found = {key: value for key, value in metadata if key in (_CERTIFICATE, _ADDRESS, _PASSED)}
        if not found:
            return None
        try:
            certificate, address, passed = (
                _bytes_of(found[key]) for key in (_CERTIFICATE, _ADDRESS, _PASSED)
            )
            return cls(certificate, address.decode(), frozenset(passed.decode().split("\n")))
        except (KeyError, UnicodeDecodeError):
            raise UnauthenticatedError(
                "the sender is not known",
                why="a call that was passed on does not say for whom",
                fix="use servers of one version",
            ) from None

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """As it travels."""
        return (
            (_CERTIFICATE, self.certificate),
            (_ADDRESS, self.address.encode()),
            (_PASSED, "\n".join(sorted(self.passed)).encode()),
        )


class Passing:
    """The way to the other servers.

    `root_pem`: of the authority; `certificate`: of `Authority.peer_certificate`; `host`: a name
    that stands in the certificates of all servers.
    """

    def __init__(self, certificate: ServerCertificate, *, root_pem: bytes, host: str) -> None:
        self._certificate, self._root_pem, self._host = certificate, root_pem, host
        self._servers: dict[str, _Server] = {}

    async def call(
        self, found: ElsewhereError, path: str, data: bytes, caller: Caller, *, timeout_s: float
    ) -> bytes:
        """The answer of the server that has it to the request in `data`.

        Raises: RelayedError; DrainingError where nobody answers.
        """
        note = Note(caller.certificate, caller.address, found.passed)
        with self._to(found.address).channel() as channel:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            try:
                return await method(data, timeout=timeout_s, metadata=note.metadata())
            except grpc.aio.AioRpcError as error:
                raise _meaning(error, found.address) from error

    @property
    def validity(self) -> tuple[int, int]:
        """From when to when its certificate holds, in Unix seconds."""
        return self._certificate.not_before, self._certificate.not_after

    async def renew(self, certificate: ServerCertificate) -> None:
        """Shows another certificate from now on; calls that are under way may end."""
        self._certificate = certificate
        await self.close(grace_s=_GRACE_S)

    async def close(self, *, grace_s: float | None = None) -> None:
        """Ends the connections. A new call opens another."""
        servers, self._servers = self._servers, {}
        await asyncio.gather(*(server.close(grace_s) for server in servers.values()))

    def _to(self, address: str) -> _Server:
        if (known := self._servers.get(address)) is None:
            credentials = grpc.ssl_channel_credentials(
                self._root_pem, self._certificate.key, self._certificate.chain
            )
            known = self._servers[address] = _Server(address, credentials, host=self._host)
        return known


class _Server:
    """The connections to one other server: as many as its calls need."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials, *, host: str) -> None:
        self._address, self._credentials = address, credentials
        self._options = (
            *client_options(retries=False),  # whoever is told to come again does so
            *_BACKOFF,
            ("grpc.ssl_target_name_override", host),
        )
        self._calls: dict[grpc.aio.Channel, int] = {}

    @contextmanager
    def channel(self) -> Iterator[grpc.aio.Channel]:
        """One that has room for a call, while it is entered."""
        free = (channel for channel, calls in self._calls.items() if calls < _CALLS)
        channel = next(free, None) or grpc.aio.secure_channel(
            self._address, self._credentials, options=self._options
        )
        self._calls[channel] = self._calls.get(channel, 0) + 1
        try:
            yield channel
        finally:
            self._calls[channel] -= 1

    async def close(self, grace_s: float | None) -> None:
        await asyncio.gather(*(channel.close(grace_s) for channel in self._calls))


def _bytes_of(value: str | bytes) -> bytes:
    """A value of a key that ends in -bin, which gRPC gives as bytes."""
    return value if isinstance(value, bytes) else value.encode()


def _meaning(error: grpc.aio.AioRpcError, address: str) -> Exception:
    """A refusal of the other server, or its silence."""
    pairs = [(str(key), value) for key, value in error.trailing_metadata() or ()]
    relayed = tuple((key, value) for key, value in pairs if key in (FAILURE_KEY, PUSHBACK_KEY))
    # Its caller is known here: what the other does not know is this server, as before it has
    # started with another issuing key, or it knows of something that will be known here soon.
    unknown = relayed and isinstance(error_from(error), UnauthenticatedError)
    if not unknown and (relayed or error.code() not in _GONE):
        return RelayedError(error.code(), error.details() or "", relayed)
    log = structlog.get_logger("fedserver.passing")
    log.warning("peer.no_answer", address=address, why=error.details())
    return between()
