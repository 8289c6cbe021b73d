"""The way to a server, walked step by step, because gRPC says the same whatever is wrong with it.

gRPC reports the last of a name's addresses that it tried, and "Socket closed" for a certificate
that was not taken. Here name, port and certificates are looked at one after another with the
standard library, and each cause has its own class of error.
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedcore.errors import (
    ClientCertificateError,
    ClockError,
    ConnectError,
    DeviceTimeoutError,
    HostNameError,
    ServerVersionError,
    UnreachableError,
    UntrustedServerError,
)

__all__ = ["check_client", "check_name", "check_port", "check_server"]

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


def check_name(host: str) -> str:
    """The addresses of a host. Raises: HostNameError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostNameError(
            f"the name {host} is not known",
            why=error.strerror or str(error),
            fix="check the name service of this device, or ask the operator for the right name",
        ) from error
    return ", ".join(sorted({str(entry[4][0]) for entry in found}))


def check_port(host: str, port: int) -> str:
    """That any address of the host answers. Raises: DeviceTimeoutError, UnreachableError."""
    with _connected(host, port):
        return f"{port} answers"


def check_server(host: str, port: int, *, root: bytes) -> str:
    """That the server's certificate is good. `root`: PEM of the only authority that is trusted.

    Raises: UntrustedServerError, ClockError, ServerVersionError; as `check_port`.
    """
    context = _context(root)
    with _connected(host, port) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as secure:
                return f"of the authority that was pinned, {secure.version()}"
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(host, error) from error
        except ssl.SSLEOFError as error:
            raise _ended(port) from error
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
            raise _ended(port) from error


def check_client(host: str, port: int, *, root: bytes, pair: Path) -> str:
    """That the server takes a client's certificate. `pair`: PEM file of its chain and its key.

    Raises: ClientCertificateError, DeviceTimeoutError; as `check_port`.
    """
    context = _context(root)
    context.load_cert_chain(pair)
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


def _untrusted(host: str, error: ssl.SSLCertVerificationError) -> ConnectError:
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        late = error.verify_code == _EXPIRED
        return ClockError(
            "by the clock of this device the server's certificate "
            + ("has expired" if late else "is not valid yet"),
            why=f"it is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC here",
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


def _ended(port: int) -> UnreachableError:
    """As of a server that is killed just then, or of a balancer that has none behind it."""
    return UnreachableError(
        f"what answers on port {port} ended the connection in the handshake",
        why="a server does so that is about to end, and a balancer without a server",
        fix="wait for the server; then check that the port is that of the services",
    )


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


def _context(root: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=root.decode())
    return context


def _alert(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    return next((text for alert, text in _ALERTS.items() if reason.endswith(alert)), "")
