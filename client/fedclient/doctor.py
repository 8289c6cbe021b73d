"""Why a client cannot reach its server: one cause, one class of error, one remedy.

The way is walked step by step: name, port, the server's certificate, the client's certificate, as
`fedcore.wire.handshake` does it, and at last one real call.
"""

from __future__ import annotations

import os
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
    FedcoreError,
    ForbiddenError,
    NotAuthorisedError,
    RefusedError,
    ServerVersionError,
    UnauthenticatedError,
    VersionError,
)

__all__ = ["Finding", "diagnose", "examine"]

_CALL_S: Final = 10.0
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
    from fedcore.wire.handshake import check_client, check_name, check_port, check_server
    from fedcore.wire.joining import split_address

    membership, expired = identity.membership, identity.tls.expired(now())
    host, port = split_address(membership.enrolment if expired else membership.address)
    root = authority_pem(membership.authority)
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("own certificate", lambda: _own_certificate(identity, now())),
        ("name", lambda: check_name(host)),
        ("port", lambda: check_port(host, port)),
        ("server's certificate", lambda: check_server(host, port, root=root)),
    )
    with_certificate: tuple[tuple[str, Callable[[], str]], ...] = (
        (
            "client's certificate",
            lambda: check_client(host, port, root=root, pair=identity.tls_file),
        ),
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
            connection.clients.CheckIn, request, stop=stop, timeout_s=_CALL_S, patience_s=0
        )
    except UnauthenticatedError as error:
        raise ClientCertificateError(
            "the server does not know this device any more",
            why=f"{error.what}: {error.why}" if error.why else error.what,
            fix="`fed client run` asks for another certificate; if it gets none, the device was"
            " revoked, or its record removed: ask the operator",
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
