"""Why a client cannot reach its server: one cause, one class of error, one remedy.

gRPC says "Socket closed" whether the server's certificate, the client's, or neither is wrong. Here
the way is walked step by step with the standard library: name, port, the server's certificate, the
client's certificate, and at last one real call.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fedclient.connection import Connection
from fedclient.identity import DeviceIdentity, authority_pem, now_utc
from fedclient.stopping import Stop
from fedcore.errors import (
    ClientCertificateError,
    ClockError,
    ConnectError,
    DeviceTimeoutError,
    FedcoreError,
    ForbiddenError,
    HostNameError,
    NotAuthorisedError,
    RefusedError,
    ServerVersionError,
    UnauthenticatedError,
    UnreachableError,
    UntrustedServerError,
    VersionError,
)

__all__ = ["Finding", "diagnose", "examine"]

_STEP_S: Final = 10.0
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME = 9, 10, 62  # OpenSSL's X509_V_ERR_ numbers
_OTHER_ADDRESS = 64
# What a client of HTTP/2 says first: the preface, and settings without any.
_HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it says that none was sent",
    "CERTIFICATE_EXPIRED": "it says that the certificate has expired",
    "CERTIFICATE_REVOKED": "it says that the certificate is revoked",
    "UNKNOWN_CA": "it says that the certificate is of another authority",
    "BAD_CERTIFICATE": "it says that the certificate is not valid",
    "DECRYPT_ERROR": "it says that the certificate is of another authority",
}
_NO_TASK: Final = "fed-client-doctor"


@dataclass(frozen=True, slots=True)
class Finding:
    """One step of the way: what was checked, and what is wrong with it, if anything."""

    check: str
    detail: str
    error: FedcoreError | None = None


def diagnose(identity: DeviceIdentity, *, stop: Stop) -> FedcoreError | None:
    """The first thing that is wrong on the way to the server, or None."""
    for finding in examine(identity, stop=stop):
        if finding.error is not None:
            return finding.error
    return None


def examine(
    identity: DeviceIdentity, *, stop: Stop, now: Callable[[], datetime] = now_utc
) -> Iterator[Finding]:
    """Each step of the way to the server in turn; the first that fails is the last.

    With a certificate that has expired the way is the one to another: to the enrolment port.
    """
    from fedcore.wire.joining import split_address

    membership, expired = identity.membership, identity.tls.expired(now())
    host, port = split_address(membership.enrolment if expired else membership.address)
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("own certificate", lambda: _own_certificate(identity, now())),
        ("name", lambda: _name(host)),
        ("port", lambda: _port(host, port)),
        ("server's certificate", lambda: _server(host, port, identity)),
    )
    with_certificate: tuple[tuple[str, Callable[[], str]], ...] = (
        ("client's certificate", lambda: _client(host, port, identity)),
        ("authorisation", lambda: _call(identity, stop)),
    )
    for check, look in steps if expired else (*steps, *with_certificate):
        stop.check()
        try:
            yield Finding(check, look())
        except FedcoreError as error:
            yield Finding(check, error.what, error)
            return


def _own_certificate(identity: DeviceIdentity, now: datetime) -> str:
    found = identity.tls.certificate
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    if now < begin:
        raise ClockError(
            "the clock of this device is behind",
            why=f"it says {now:%Y-%m-%d %H:%M} UTC, and its certificate begins at {begin:%H:%M} on"
            f" {begin:%Y-%m-%d}",
            fix="set the clock, best by a time service",
        )
    if now >= end:
        return f"expired at {end:%Y-%m-%d %H:%M} UTC; another is asked for before the next check-in"
    return f"valid until {end:%Y-%m-%d %H:%M} UTC"


def _name(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostNameError(
            f"the name {host} is not known",
            why=error.strerror or str(error),
            fix="check the name service of this device, or ask the operator for the right name",
        ) from error
    return ", ".join(sorted({str(entry[4][0]) for entry in found}))


def _port(host: str, port: int) -> str:
    with _connected(host, port):
        return f"{port} answers"


def _connected(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=_STEP_S)
    except TimeoutError as error:
        raise DeviceTimeoutError(
            f"{host} does not answer on port {port}",
            why=f"nothing came back in {_STEP_S:.0f} s: a firewall may swallow it",
            fix="let the port through, or check that the server's machine is up",
        ) from error
    except OSError as error:
        raise UnreachableError(
            f"nothing answers at {host} on port {port}",
            why=error.strerror or str(error),
            fix="check the network, the port, and whether the server runs",
        ) from error


def _server(host: str, port: int, identity: DeviceIdentity) -> str:
    context = _context(identity)
    with _connected(host, port) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                return f"of the authority that was pinned, {secure.version()}"
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(host, error) from error
        except ssl.SSLError as error:
            # Before TLS 1.3 a server refuses within the handshake a client that shows nothing.
            if _alert(error):
                return "of the authority that was pinned"
            raise ServerVersionError(
                f"what answers on port {port} speaks no TLS that this client knows",
                why=error.reason or "the handshake failed",
                fix="check that the port is that of the services",
            ) from error
        except TimeoutError as error:
            raise _silent("it took the connection") from error
        except OSError as error:
            raise ServerVersionError(
                f"what answers on port {port} does not speak TLS",
                why=error.strerror or "it closed the connection",
                fix="check that the port is that of the services",
            ) from error


def _untrusted(host: str, error: ssl.SSLCertVerificationError) -> ConnectError:
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        late = error.verify_code == _EXPIRED
        return ClockError(
            "by the clock of this device the server's certificate "
            + ("has expired" if late else "is not valid yet"),
            why=f"it is {now_utc():%Y-%m-%d %H:%M} UTC here",
            fix="set the clock; if it is right, tell the operator to renew the certificate",
        )
    if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        return UntrustedServerError(
            f"the server's certificate is not for {host}",
            why=error.verify_message,
            fix="use the name that the certificate has, or let the operator add this one",
        )
    return UntrustedServerError(
        "the server's certificate is not of the authority that this device joined",
        why=error.verify_message,
        fix="do not go on: somebody else answers there, or the server was set up anew; ask the"
        " operator",
    )


def _client(host: str, port: int, identity: DeviceIdentity) -> str:
    context = _context(identity)
    context.load_cert_chain(identity.tls_file)
    with _connected(host, port) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                secure.sendall(_HELLO)
                if not secure.recv(1):
                    raise _not_taken("it closed the connection once it had seen it")
        except ssl.SSLError as error:
            raise _not_taken(_alert(error) or error.reason or "it ended the handshake") from error
        except TimeoutError as error:
            raise _silent("it took the certificate") from error
        except OSError as error:
            raise _not_taken("it closed the connection once it had seen it") from error
    return "the server takes it"


def _silent(what: str) -> DeviceTimeoutError:
    return DeviceTimeoutError(
        "the server does not answer",
        why=f"{what}, and said nothing for {_STEP_S:.0f} s",
        fix="wait, or ask the operator whether it is overloaded",
    )


def _not_taken(why: str) -> ClientCertificateError:
    return ClientCertificateError(
        "the server does not take the certificate of this device",
        why=why,
        fix="ask the operator for a join string, and join again with the same folder",
    )


def _call(identity: DeviceIdentity, stop: Stop) -> str:
    from fedcore.v1.client_service_pb2 import CheckInRequest
    from fedcore.wire.versions import installed_version

    membership = identity.membership
    connection = Connection(
        membership.address, root=authority_pem(membership.authority), tls=identity.tls
    )
    # Asks for work on a task that there is not, so that nothing is ever assigned to a doctor.
    request = CheckInRequest(
        request_id=os.urandom(16), task_id=_NO_TASK, sdk_version=installed_version()
    )
    try:
        connection.call(
            connection.clients.CheckIn, request, stop=stop, timeout_s=_STEP_S, patience_s=0
        )
    except UnauthenticatedError as error:
        raise ClientCertificateError(
            "the server does not know this device any more",
            why=f"{error.what}: {error.why}" if error.why else error.what,
            fix="its certificate was revoked, or its record removed: ask the operator",
        ) from error
    except ForbiddenError as error:
        raise NotAuthorisedError(
            "the server knows this device, and refuses it",
            why=f"{error.what}: {error.why}" if error.why else error.what,
            fix="ask the operator whether it was suspended",
        ) from error
    except VersionError as error:
        raise ServerVersionError(error.what, why=error.why, fix=error.fix) from error
    except RefusedError as error:
        return f"the server answers: {error.what}"
    finally:
        connection.close()
    return "the server answers"


def _context(identity: DeviceIdentity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=authority_pem(identity.membership.authority).decode())
    return context


def _alert(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    return next((text for alert, text in _ALERTS.items() if reason.endswith(alert)), "")
