"""The built-in certificate authority: a directory of keys, and whom it has named or disowned.

A root key, which may be taken offline, signs an issuing key, which the server holds; that signs
certificates of one day for clients, of seven days for the server, and of months for users. A name
is a URI, `spiffe://<trust domain>/t/<tenant>/c/<client>` or `…/u/<user>`, so that SPIRE or
cert-manager can take this place later.

| file | what |
|---|---|
| root.pem, root.key.pem | the authority that join strings name; its key is needed by nobody daily |
| issuing.pem, issuing.key.pem | signs all else |
| issuing-previous.pem | of issuing keys that were exchanged: what they signed still counts |
| server.pem, server.key.pem | the server's TLS certificate with its chain |
| registrar.key | certifies the identity keys of secure aggregation |
| issued.jsonl, revoked.jsonl, exchanged.jsonl | see fedserver/certificate_lists.py |
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.entropy import Entropy, SystemEntropy
from fedcore.errors import AuthorityError, UnauthenticatedError
from fedcore.secagg.identity import KEY_BYTES, CertificateAuthority
from fedserver.authority_files import (
    ISSUING,
    KEY_OF,
    ROOT,
    SERVER,
    certificate_at,
    pem_of,
    previous_in,
    private_key_at,
)
from fedserver.certificate_lists import CertificateLists, Listed
from fedserver.certificates import (
    CLIENT_USE,
    SERIAL_BYTES,
    SERVER_USE,
    Issued,
    alternative_names,
    der_of,
    is_key_of,
    issue_authority,
    issue_leaf,
    key_digest,
    new_key,
    pem_of_key,
)
from fedserver.issuing_keys import ISSUING_DAYS, certified_by_root
from fedserver.key_files import (
    REGISTRAR_KEY,
    create_key,
    load_key,
    private_directory,
    read_secret,
    write_public,
    write_secret,
)
from fedserver.peers import (
    ROLES,
    PeerIdentity,
    PeerReader,
    client_name,
    is_domain,
    is_name,
    server_name,
    trust_domain_of,
    user_names,
)

__all__ = ["Authority", "ServerCertificate", "due"]

ROOT_DAYS: Final = 3650
SERVER_S: Final = 7 * 86_400
CLIENT_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What a server shows at a handshake: `key` and `chain` in PEM. Times are Unix seconds."""

    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    not_before: int
    not_after: int


def due(not_before: int, not_after: int, *, now: int) -> bool:
    """Whether a certificate should be renewed: two thirds of its life are over.

    >>> due(0, 300, now=199), due(0, 300, now=200)
    (False, True)
    """
    return 3 * (now - not_before) >= 2 * (not_after - not_before)


class Authority:
    """The authority of one directory; `create` makes it, `open` finds it again.

    Methods take `now` in Unix seconds, and may be called from threads.
    """

    def __init__(
        self,
        directory: Path,
        *,
        root: x509.Certificate,
        issuing: x509.Certificate,
        issuing_key: ec.EllipticCurvePrivateKey,
        registrar: CertificateAuthority,
        entropy: Entropy,
        previous: Sequence[x509.Certificate] = (),
    ) -> None:
        self.directory: Final = directory
        self.registrar: Final = registrar
        self.root: Final = der_of(root)
        self.root_pem: Final = pem_of(root)
        self.root_digest: Final = hashlib.sha256(self.root).digest()
        self.trust_domain: Final = trust_domain_of(root)
        self.issuing_not_after: Final = int(issuing.not_valid_after_utc.timestamp())
        self._issuing, self._signer = der_of(issuing), (issuing, issuing_key)
        self._peers = PeerReader(issuing, *previous, trust_domain=self.trust_domain)
        self._entropy = entropy
        self.lists: Final = CertificateLists(directory)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        trust_domain: str,
        now: int,
        root_passphrase: bytes | None = None,
        passphrase: bytes | None = None,
        entropy: Entropy | None = None,
    ) -> Authority:
        """A new authority. `passphrase`: of the issuing key, which the server must know.

        Raises: AuthorityError for a name that is no domain; KeyFileError if there is one already.
        """
        if not is_domain(trust_domain):
            raise AuthorityError(
                f"{trust_domain!r} is no trust domain",
                why="it stands in every name, and is written like a host, in lower case",
                fix='pass a name like "fl.example.org"',
            )
        source = entropy or SystemEntropy()
        root_key, issuing_key = new_key(), new_key()
        root = issue_authority(
            root_key,
            name=f"{trust_domain} root"[-64:],
            trust_domain=trust_domain,
            now=now,
            days=ROOT_DAYS,
            entropy=source,
        )
        issuing = issue_authority(
            issuing_key,
            name=f"{trust_domain} issuing"[-64:],
            trust_domain=trust_domain,
            now=now,
            days=ISSUING_DAYS,
            entropy=source,
            signer=(root, root_key),
        )
        private_directory(directory)
        write_secret(directory / KEY_OF[ROOT], pem_of_key(root_key, root_passphrase))
        write_secret(directory / KEY_OF[ISSUING], pem_of_key(issuing_key, passphrase))
        registrar = create_key(directory / REGISTRAR_KEY, entropy=source)
        write_public(directory / ISSUING, pem_of(issuing))
        write_public(directory / ROOT, pem_of(root))
        return cls(
            directory,
            root=root,
            issuing=issuing,
            issuing_key=issuing_key,
            registrar=CertificateAuthority.from_private_bytes(registrar),
            entropy=source,
        )

    @classmethod
    def open(cls, directory: Path, *, passphrase: bytes | None = None) -> Authority:
        """The authority of a directory, without its root key, which may lie elsewhere.

        Raises: KeyFileError for a missing or readable file or a wrong passphrase; AuthorityError if
        the files do not belong together.
        """
        root, issuing = certificate_at(directory / ROOT), certificate_at(directory / ISSUING)
        key = private_key_at(directory / KEY_OF[ISSUING], passphrase)
        try:
            issuing.verify_directly_issued_by(root)
            fits = issuing.public_key() == key.public_key()
        except Exception:  # of the many that a foreign certificate can cause
            fits = False
        if not fits:
            raise AuthorityError(
                "the files of the authority do not belong together",
                why=f"{ROOT}, {ISSUING} and {KEY_OF[ISSUING]} are not of one chain",
                fix="run `fed ca rotate issuing` again if one was interrupted; else restore the"
                " whole directory from one backup",
                where=str(directory),
            )
        registrar = CertificateAuthority.from_private_bytes(load_key(directory / REGISTRAR_KEY))
        return cls(
            directory,
            root=root,
            issuing=issuing,
            issuing_key=key,
            registrar=registrar,
            entropy=SystemEntropy(),
            previous=previous_in(directory),
        )

    def renew_issuing(self, *, root_passphrase: bytes | None, now: int) -> int:
        """Gives the issuing key a certificate of another five years, until when is returned.

        The key stays, so that everything it signed stays good; who runs with the old certificate
        goes on. Raises: KeyFileError for a root key that is not here, or its passphrase;
        AuthorityError for a root that ends before that.
        """
        renewed = certified_by_root(
            self.directory, self._signer[1], root_passphrase=root_passphrase, now=now
        )
        write_public(self.directory / ISSUING, pem_of(renewed), replace=True)
        return int(renewed.not_valid_after_utc.timestamp())

    def issue_client(
        self, key: ec.EllipticCurvePublicKey, *, client_id: bytes, tenant: str, now: int
    ) -> Issued:
        """A client's certificate of one day. `key`: from `certificates.request_key`.

        Raises: AuthorityError for an id that has not 16 bytes, or another name of the tenant.
        """
        self._check_name(tenant)
        if len(client_id) != 16:
            raise AuthorityError(
                "a client's id has 16 bytes",
                why=f"{len(client_id)} were given",
                fix="draw it as fedserver.enrolment.new_client_id does",
            )
        uri = client_name(self.trust_domain, tenant, client_id)
        return self._issue(key, client_id.hex(), [uri], now, CLIENT_S)

    def issue_user(
        self,
        key: ec.EllipticCurvePublicKey,
        *,
        name: str,
        tenant: str,
        role: str,
        identity_key: bytes,
        now: int,
        days: int = 90,
    ) -> Issued:
        """A user's certificate, noted in the list. `identity_key`: Ed25519, 32 bytes.

        Raises: AuthorityError for another name, role, length or lifetime.
        """
        self._check_name(tenant)
        self._check_name(name)
        if role not in ROLES[1:] or len(identity_key) != KEY_BYTES or not 0 < days <= 825:
            raise AuthorityError(
                "a user's certificate cannot be issued so",
                why=f"the role is one of {', '.join(ROLES[1:])}, the identity key has {KEY_BYTES} "
                "bytes, and it lives 1 to 825 days",
                fix="pass such a role, key and number of days",
            )
        uris = user_names(self.trust_domain, tenant, name, role=role, identity_key=identity_key)
        issued = self._issue(key, name, uris, now, days * 86_400)
        self.lists.note(
            Listed(
                issued.fingerprint,
                uris[0],
                now,
                not_after=issued.not_after,
                role=role,
                issuer=key_digest(self._signer[1].public_key()),
            )
        )
        return issued

    def server_certificate(self, hosts: Sequence[str], *, now: int) -> ServerCertificate:
        """The server's certificate for `hosts`: the one at hand, or a new one if that is `due`.

        Also where its key is gone. Raises: AuthorityError for a host that no certificate can name;
        KeyFileError.
        """
        names = alternative_names(hosts)
        present = self._present_server_certificate(names, now)
        if present is not None:
            return present
        key = new_key()
        leaf = self._leaf(key.public_key(), hosts[0][:64], names, SERVER_USE, now, SERVER_S)
        # The key first: a certificate without its key would be found, and could not be served.
        (self.directory / SERVER).unlink(missing_ok=True)
        write_secret(self.directory / KEY_OF[SERVER], pem_of_key(key), replace=True)
        chain = pem_of(leaf) + pem_of(self._signer[0])
        write_public(self.directory / SERVER, chain, replace=True)
        return _served(pem_of_key(key), chain, leaf)

    def peer_certificate(self, *, now: int) -> ServerCertificate:
        """A certificate with which this server calls others; it lies in no file.

        Raises: AuthorityError.
        """
        key, names = new_key(), [x509.UniformResourceIdentifier(server_name(self.trust_domain))]
        leaf = self._leaf(key.public_key(), "server", names, CLIENT_USE, now, SERVER_S)
        return _served(pem_of_key(key), pem_of(leaf) + pem_of(self._signer[0]), leaf)

    def parse_peer(self, pem: bytes, *, now: int) -> PeerIdentity:
        """Who holds a certificate that TLS has accepted. Raises: UnauthenticatedError."""
        found = self._peers.read(pem, now=now)
        if found.fingerprint in self.lists.revoked():
            raise UnauthenticatedError(
                "a certificate was revoked",
                why="an operator has put it on the list of those that count no more",
                fix="ask the operator for a new enrolment or profile",
            )
        return found

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        uris: Sequence[str],
        now: int,
        lifetime_s: int,
    ) -> Issued:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        leaf = self._leaf(key, name, names, CLIENT_USE, now, lifetime_s)
        der = der_of(leaf)
        return Issued(
            chain=(der, self._issuing, self.root),
            serial=leaf.serial_number.to_bytes(SERIAL_BYTES, "big"),
            fingerprint=hashlib.sha256(der).digest(),
            not_after=int(leaf.not_valid_after_utc.timestamp()),
        )

    def _leaf(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        names: Sequence[x509.GeneralName],
        use: x509.ObjectIdentifier,
        now: int,
        lifetime_s: int,
    ) -> x509.Certificate:
        if now + lifetime_s > self.issuing_not_after:
            raise AuthorityError(
                "the authority's own certificate expires too soon",
                why="what it signs now would outlive it",
                fix="renew it with `fed ca renew`, and start the server again",
            )
        return issue_leaf(
            key,
            name=name,
            names=names,
            use=use,
            now=now,
            lifetime_s=lifetime_s,
            entropy=self._entropy,
            signer=self._signer,
        )

    def _present_server_certificate(
        self, names: Sequence[x509.GeneralName], now: int
    ) -> ServerCertificate | None:
        """The one on disk, unless it is for other hosts, of another authority, or due."""
        try:
            chain = (self.directory / SERVER).read_bytes()
            leaf = x509.load_pem_x509_certificate(chain)
            leaf.verify_directly_issued_by(self._signer[0])
        except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
            return None
        if not (self.directory / KEY_OF[SERVER]).exists():  # lost, and it has no past
            return None
        key = read_secret(self.directory / KEY_OF[SERVER])
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        served = _served(key, chain, leaf)
        if not is_key_of(key, leaf):  # another server was writing them
            return None
        if list(found) != list(names) or due(served.not_before, served.not_after, now=now):
            return None
        return served

    @staticmethod
    def _check_name(name: str) -> None:
        if not is_name(name):
            raise AuthorityError(
                f"{name!r} is no name of a tenant or user",
                why="it stands in a URI: up to 63 letters, digits, dots, dashes and underscores",
                fix='pass a name like "ada" or "ward-3"',
            )


def _served(key: bytes, chain: bytes, leaf: x509.Certificate) -> ServerCertificate:
    return ServerCertificate(
        key,
        chain,
        not_before=int(leaf.not_valid_before_utc.timestamp()),
        not_after=int(leaf.not_valid_after_utc.timestamp()),
    )
