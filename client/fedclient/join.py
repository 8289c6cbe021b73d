"""Enrolment: a join string becomes certificates for keys that were made here and stay here.

The token goes out only once the server has shown the authority whose SHA-256 the join string names,
and over a connection that this authority vouches for. Interrupted, it is begun again with the same
keys, and the server gives the same certificates.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclient.connection import Connection
from fedclient.identity import (
    DeviceIdentity,
    Membership,
    Tls,
    authority_pem,
    now_utc,
    secret_file,
    signing_request,
    tls_key,
)
from fedclient.stopping import Stop
from fedcore.errors import (
    ArgumentError,
    ClientStateError,
    ConnectError,
    HostNameError,
    UnreachableError,
    UntrustedServerError,
)

if TYPE_CHECKING:
    from fedcore.wire.joining import JoinString

__all__ = ["check_name", "enrol", "reissue", "renew"]

_HANDSHAKE_S: Final = 10.0
_PATIENCE_S: Final = 30.0
_LARGEST_CERTIFICATE: Final = 16_384
_NAME: Final = "name"  # the attribute by which an operator reads what a device is called
_LONGEST_NAME: Final = 64


def check_name(name: str) -> None:
    """That an operator can be shown this name of a device; empty: none. Raises: ArgumentError."""
    if name and (not name.isprintable() or name.isspace() or len(name) > _LONGEST_NAME):
        raise ArgumentError(
            "the name of a device is not one that can be shown",
            why=f"it has more than {_LONGEST_NAME} characters, or ones that are not printable",
            fix="give it a short name of one line, like ward-3",
        )


def enrol(
    invitation: JoinString,
    *,
    folder: Path,
    name: str,
    attributes: Mapping[str, str],
    stop: Stop,
) -> DeviceIdentity:
    """Makes this device a member, with its identity in `folder`.

    A `name` goes to the server, as one of the attributes.
    A member whose certificate has expired may join again, as another client with the same keys; it
    need not, because `renew` gets it another.
    Raises: ClientStateError (it is a member), ConnectError, TokenError, OverloadedError.
    """
    from fedcore.v1.enrolment_service_pb2 import EnrolRequest
    from fedcore.wire.envelope import proof_statement
    from fedcore.wire.versions import installed_version

    _check_not_a_member(folder)
    authority = _authority_of(invitation, stop)
    signing = Ed25519PrivateKey.from_private_bytes(secret_file(folder, "signing.key"))
    key = tls_key(folder)
    request = signing_request(key)
    connection = Connection(invitation.address, root=authority_pem(authority))
    try:
        answer = connection.call(
            connection.enrolment.Enrol,
            EnrolRequest(
                signing_request=request,
                token=invitation.token,
                identity_key=signing.public_key().public_bytes_raw(),
                identity_proof=signing.sign(proof_statement(request, authority)),
                sdk_version=installed_version(),
                attributes={**attributes, **({_NAME: name} if name else {})},
            ),
            stop=stop,
            patience_s=_PATIENCE_S,
        )
    finally:
        connection.close()
    membership = Membership(
        name=name or answer.client_id.hex(),
        client_id=answer.client_id,
        tenant=answer.tenant,
        server_id=answer.server_id,
        address=answer.address or invitation.address,
        enrolment=invitation.address,
        authority=authority,
        registrars=tuple(answer.registrars),
        certificate=answer.identity_certificate,
    )
    identity = DeviceIdentity.enrolled(
        folder, membership, Tls.certified(key, list(answer.certificate_chain))
    )
    (folder / "tls.key.pending").unlink(missing_ok=True)
    return identity


def renew(identity: DeviceIdentity, connection: Connection, *, stop: Stop) -> bool:
    """Takes new certificates if two thirds of the old ones' life are over; whether it did.

    With expired ones nobody answers on `connection`: then the enrolment port is asked, with a proof
    of the identity key. The connection goes on with the old ones; another has to be opened.
    """
    if not identity.tls.renewal_due(now_utc()):
        return False
    from cryptography.hazmat.primitives.asymmetric import ec

    from fedcore.v1.client_service_pb2 import RenewRequest

    if identity.tls.expired(now_utc()):
        reissue(identity, stop=stop)
        return True
    key = ec.generate_private_key(ec.SECP256R1())
    answer = connection.call(
        connection.clients.Renew,
        RenewRequest(signing_request=signing_request(key)),
        stop=stop,
        patience_s=0,
    )
    tls = Tls.certified(key, list(answer.certificate_chain))
    identity.renewed(tls, answer.identity_certificate)
    return True


def reissue(identity: DeviceIdentity, *, stop: Stop) -> None:
    """Takes new certificates by a proof of the identity key, where the server takes no old ones.

    Raises: UnauthenticatedError, NotFoundError where that client counts no more; ConnectError.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    from fedcore.v1.enrolment_service_pb2 import ReissueRequest
    from fedcore.wire.envelope import reissue_statement

    key = ec.generate_private_key(ec.SECP256R1())
    request = signing_request(key)
    membership = identity.membership
    authority, client_id = membership.authority, membership.client_id
    proof = identity.signing.sign(reissue_statement(request, authority, client_id=client_id))
    connection = Connection(membership.enrolment, root=authority_pem(authority))
    try:
        answer = connection.call(
            connection.enrolment.Reissue,
            ReissueRequest(client_id=client_id, signing_request=request, identity_proof=proof),
            stop=stop,
            patience_s=0,
        )
    finally:
        connection.close()
    identity.renewed(
        Tls.certified(key, list(answer.certificate_chain)), answer.identity_certificate
    )


def _check_not_a_member(folder: Path) -> None:
    if not (folder / "membership.json").exists():
        return
    found = DeviceIdentity(folder)
    if found.tls.expired(now_utc()):
        return
    raise ClientStateError(
        f"this folder is a member already: {found.membership.name}",
        why=f"it joined the server at {found.membership.address}",
        fix="open it, or join with another folder",
    )


def _authority_of(invitation: JoinString, stop: Stop) -> bytes:
    """The root certificate, DER, that the join string names, asked of a server not yet trusted."""
    from fedcore.v1.enrolment_service_pb2 import AnchorsRequest

    shown = _shown_certificate(invitation.address)
    connection = Connection(invitation.address, root=shown)
    try:
        answer = connection.call(
            connection.enrolment.Anchors, AnchorsRequest(), stop=stop, patience_s=_PATIENCE_S
        )
    finally:
        connection.close()
    digest = hashlib.sha256(answer.authority).digest()
    if len(answer.authority) > _LARGEST_CERTIFICATE or not hmac.compare_digest(
        digest, invitation.authority
    ):
        raise UntrustedServerError(
            f"the server at {invitation.address} is not the one that the join string is for",
            why="its authority has another SHA-256; the token was not sent",
            fix="ask the operator for a new join string, over a channel that you trust",
        )
    return answer.authority


def _shown_certificate(address: str) -> bytes:
    """PEM of whatever certificate is shown at an address; it proves nothing yet."""
    from fedcore.wire.joining import split_address

    host, port = split_address(address)
    try:
        return ssl.get_server_certificate((host, port), timeout=_HANDSHAKE_S).encode()
    except socket.gaierror as error:
        raise HostNameError(
            f"the name {host} is not known",
            why=str(error.strerror),
            fix="check the join string and the name service of this device",
        ) from error
    except ssl.SSLError as error:
        raise ConnectError(
            f"what answers at {address} does not speak TLS",
            why=error.reason or "the handshake failed",
            fix="check that the join string names the enrolment port",
        ) from error
    except OSError as error:
        raise UnreachableError(
            f"nothing answers at {address}",
            why=error.strerror or str(error),
            fix="check the network, the port, and whether the server runs",
        ) from error
