"""Calls that come over gRPC, handed to the small server's methods of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509

from fedcore.errors import (
    FedcoreError,
    UnauthenticatedError,
)
from fedcore.wire.failures import metadata_of, status_of

if TYPE_CHECKING:
    from tests.client.server import FakeServer

__all__ = ["Service", "caller_of"]


class Service:
    """Every service at once: each call goes to the method of its name, errors become statuses."""

    def __init__(self, fake: FakeServer, name: str) -> None:
        self._fake, self._name = fake, name

    def __getattr__(self, method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        fake = self._fake

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            client = caller_of(context)
            try:
                fake.before(method, client)
                with fake.lock:
                    fake.calls[method] += 1
                    if client in fake.revoked:
                        raise UnauthenticatedError("the certificate is revoked")
                    answer = getattr(fake, method)(client, request)
                fake.after(method, client)
                return answer
            except FedcoreError as error:
                context.set_trailing_metadata(metadata_of(error))
                context.abort(status_of(error), error.what)

        return handle


def caller_of(context: grpc.ServicerContext) -> bytes:
    """The client's id, by its certificate; empty on the enrolment port."""
    found = context.auth_context().get("x509_pem_cert")
    if not found:
        return b""
    certificate = x509.load_pem_x509_certificate(found[0])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
    return bytes.fromhex(uri.rsplit("/", 1)[1])
