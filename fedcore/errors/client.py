"""Errors on the device: no way to the server, or the owner's policy forbids it."""

from __future__ import annotations

from fedcore.errors.base import FedcoreError

__all__ = [
    "CancelledError",
    "ClientCertificateError",
    "ClientError",
    "ClientStateError",
    "ClockError",
    "ConnectError",
    "DevicePolicyError",
    "DeviceTimeoutError",
    "HostNameError",
    "NotAuthorisedError",
    "ServerVersionError",
    "UnreachableError",
    "UntrustedServerError",
]


class ClientError(FedcoreError, RuntimeError):
    """The client cannot take part."""

    code = "FED-2300"


class ConnectError(ClientError, ConnectionError):
    """The server cannot be reached."""

    code = "FED-2310"


class HostNameError(ConnectError):
    """The server's name is not known (DNS)."""

    code = "FED-2311"


class UnreachableError(ConnectError):
    """Nothing answers at the server's address (TCP), or what answers breaks off."""

    code = "FED-2312"


class UntrustedServerError(ConnectError):
    """The server's certificate is not from the pinned authority, or for another name (TLS)."""

    code = "FED-2313"


class ClientCertificateError(ConnectError):
    """The server takes no such certificate: it is missing, expired or of another authority."""

    code = "FED-2314"


class ClockError(ConnectError):
    """The device's clock differs so much that certificates seem invalid."""

    code = "FED-2315"


class ServerVersionError(ConnectError):
    """The server speaks another version."""

    code = "FED-2316"


class NotAuthorisedError(ConnectError, PermissionError):
    """The server knows the client, and refuses it."""

    code = "FED-2317"


class DeviceTimeoutError(ConnectError, TimeoutError):
    """The server did not answer in time."""

    code = "FED-2318"


class DevicePolicyError(ClientError, PermissionError):
    """The policy of the device's owner forbids the task."""

    code = "FED-2320"


class ClientStateError(ClientError, OSError):
    """The client's durable state cannot be read or written."""

    code = "FED-2330"


class CancelledError(ClientError):
    """The client's work was cancelled, by its owner or by the server."""

    code = "FED-2340"
