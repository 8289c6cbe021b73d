"""The two gRPC ports: how they are protected, and how a certificate is exchanged under way.

The service port asks every peer for a certificate of our authority before a byte of ours is read.
The enrolment port shows the server's certificate and asks for none. Both take a renewed certificate
at the next handshake, without a restart.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence

import grpc
from grpc_reflection.v1alpha import reflection

from fedcore.errors import ServerError
from fedcore.wire.channels import SERVER_RECEIVES_BYTES, server_options
from fedserver.authority import ServerCertificate
from fedserver.calls import Methods
from fedserver.listening import listening

__all__ = ["Credentials", "Port"]


class Credentials:
    """What a port shows at a handshake; `swap` changes it for the handshakes to come.

    `root_pem`: of the authority whose certificates are taken from peers, None to ask for none.
    """

    def __init__(self, certificate: ServerCertificate, *, root_pem: bytes | None) -> None:
        self._root_pem = root_pem
        # A deque, because threads of gRPC take from it while the event loop puts into it.
        self._pending: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        self._credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(certificate),
            self._fetch,  # type: ignore[arg-type]  # the stubs do not know that it may be None
            require_client_authentication=root_pem is not None,
        )

    def swap(self, certificate: ServerCertificate) -> None:
        """Shows another certificate from the next handshake on."""
        self._pending.append(self._configuration(certificate))

    @property
    def value(self) -> grpc.ServerCredentials:
        """For `add_secure_port`."""
        return self._credentials

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by a thread of gRPC before each handshake; None: as before."""
        try:
            return self._pending.popleft()
        except IndexError:
            return None

    def _configuration(self, certificate: ServerCertificate) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(certificate.key, certificate.chain)], root_certificates=self._root_pem
        )


class Port:
    """A gRPC server on one port; `number` is known before it starts.

    `rpcs`, `connections`: at most so many at once; `receives_bytes`: of the largest message.
    """

    def __init__(
        self,
        host: str,
        port: int,
        credentials: Credentials,
        *,
        rpcs: int,
        connections: int,
        receives_bytes: int = SERVER_RECEIVES_BYTES,
    ) -> None:
        jitter = random.random()  # noqa: S311, it guards nothing
        options = server_options(
            jitter=jitter, connections=connections, receives_bytes=receives_bytes
        )
        self.server = grpc.aio.server(options=options, maximum_concurrent_rpcs=rpcs)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.number = self.server.add_secure_port(address, credentials.value)
        except RuntimeError:
            self.number = 0
        if not self.number:
            listening(host, port).close()  # gRPC does not say why it cannot; this does
            raise ServerError(
                f"the server cannot listen on {address}",
                why="it could not for a moment, or its certificate is not taken",
                fix="start it again",
            )

    def serve(
        self,
        services: Mapping[str, Methods],
        *,
        reflected: Sequence[str] = (),
    ) -> None:
        """Answers for these services, by their full names.

        `reflected`: those that are described to whoever asks.
        """
        for name, methods in services.items():
            # What is registered waits by itself: of a generic handler, begun work would wait behind
            # all check-ins that nobody has got to yet.
            self.server.add_registered_method_handlers(name, dict(methods))
        if reflected:
            names = [f"fedcore.v1.{name}" for name in reflected]
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], self.server)

    async def start(self) -> None:
        """Begins to answer."""
        await self.server.start()

    async def stop(self, *, grace_s: float) -> None:
        """Takes no new calls; those that were begun may go on for `grace_s`."""
        await self.server.stop(grace_s)
