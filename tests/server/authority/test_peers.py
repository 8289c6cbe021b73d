"""A certificate has exactly the names that the authority writes, or it is nobody's."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, strategies as st

from fedcore.entropy import SystemEntropy
from fedcore.errors import UnauthenticatedError
from fedserver.certificates import CLIENT_USE, SERVER_USE, issue_authority, issue_leaf, new_key
from fedserver.peers import PeerIdentity, PeerReader, is_domain, is_name

NOW = 1_800_000_000
DOMAIN = "example.org"
CLIENT = f"spiffe://{DOMAIN}/t/default/c/{'0a' * 16}"
USER = f"spiffe://{DOMAIN}/t/default/u/ada"
ROLE, KEY = "urn:fedcore:role:operator", f"urn:fedcore:key:{'0b' * 32}"

ISSUER_KEY = new_key()
ISSUER = issue_authority(
    ISSUER_KEY, name="root", trust_domain=DOMAIN, now=NOW, days=10, entropy=SystemEntropy()
)
LEAF_KEY = new_key()


def certificate(
    names: Sequence[x509.GeneralName | str],
    *,
    use: x509.ObjectIdentifier = CLIENT_USE,
    signer: tuple[x509.Certificate, object] = (ISSUER, ISSUER_KEY),
) -> bytes:
    general = [x509.UniformResourceIdentifier(n) if isinstance(n, str) else n for n in names]
    leaf = issue_leaf(
        LEAF_KEY.public_key(),
        name="x",
        names=general,
        use=use,
        now=NOW,
        lifetime_s=100,
        entropy=SystemEntropy(),
        signer=signer,  # type: ignore[arg-type]
    )
    return leaf.public_bytes(serialization.Encoding.PEM)


def read(pem: bytes, *, now: int = NOW) -> PeerIdentity:
    return PeerReader(ISSUER, trust_domain=DOMAIN).read(pem, now=now)


@pytest.mark.parametrize(
    "names",
    [
        [f"spiffe://{DOMAIN}/server", CLIENT],
        [f"spiffe://{DOMAIN}/server", ROLE, KEY],
        [f"spiffe://{DOMAIN}/server/"],
        [f"spiffe://{DOMAIN}/Server"],
        ["spiffe://example.com/server"],
        [f"spiffe://{DOMAIN}/t/server/u/server"],
    ],
)
def test_nothing_but_the_one_name_makes_a_server(names: list[str]) -> None:
    with pytest.raises(UnauthenticatedError):
        read(certificate(names))


def test_a_client_is_recognised_by_its_one_name() -> None:
    found = read(certificate([CLIENT]))
    assert (found.kind, found.tenant, found.id) == ("client", "default", b"\x0a" * 16)
    assert (found.role, found.identity_key) == ("client", b"")
    assert found.not_after_ms == 1000 * (NOW + 100)


def test_a_user_is_recognised_by_name_role_and_key() -> None:
    found = read(certificate([USER, ROLE, KEY]))
    assert (found.kind, found.name, found.role) == ("user", "ada", "operator")
    assert (found.id, found.identity_key) == (b"", b"\x0b" * 32)


TRICKS: dict[str, list[x509.GeneralName | str]] = {
    "no name": [x509.DNSName("example.org")],
    "two clients": [CLIENT, f"spiffe://{DOMAIN}/t/default/c/{'0c' * 16}"],
    "client and role": [CLIENT, "urn:fedcore:role:admin"],
    "client with role and key": [CLIENT, ROLE, KEY],
    "client and host": [CLIENT, x509.DNSName("example.org")],
    "user without role": [USER],
    "user without key": [USER, ROLE],
    "user with two roles": [USER, ROLE, "urn:fedcore:role:admin", KEY],
    "user in another order": [ROLE, USER, KEY],
    "key before role": [USER, KEY, ROLE],
    "user as client": [USER, "urn:fedcore:role:client", KEY],
    "unknown role": [USER, "urn:fedcore:role:root", KEY],
    "role with a line end": [USER, "urn:fedcore:role:admin\n", KEY],
    "short key": [USER, ROLE, KEY[:-2]],
    "key in upper case": [USER, ROLE, KEY.upper().replace("URN:FEDCORE:KEY", "urn:fedcore:key")],
    "other domain": [CLIENT.replace(DOMAIN, "example.com")],
    "domain as a pattern": [CLIENT.replace(DOMAIN, "exampleXorg")],
    "longer domain": [CLIENT.replace(DOMAIN, DOMAIN + ".evil.net")],
    "domain in upper case": [CLIENT.replace(DOMAIN, DOMAIN.upper())],
    "port": [CLIENT.replace(DOMAIN, DOMAIN + ":443")],
    "other scheme": [CLIENT.replace("spiffe", "https")],
    "escape": [CLIENT.replace("default", "def%61ult")],
    "escaped slash": [CLIENT.replace("/c/", "%2fc%2f")],
    "dots": [CLIENT.replace("/t/default", "/t/../t/default")],
    "only dots": [CLIENT.replace("default", "..")],
    "empty tenant": [CLIENT.replace("default", "")],
    "query": [CLIENT + "?t=other"],
    "fragment": [CLIENT + "#x"],
    "slash at the end": [CLIENT + "/"],
    "line end": [CLIENT + "\n"],
    "short id": [CLIENT[:-2]],
    "id in upper case": [CLIENT.replace("0a", "0A")],
    "nul": [CLIENT.replace("default", "def\0ault")],
}


@pytest.mark.parametrize("names", TRICKS.values(), ids=TRICKS.keys())
def test_a_certificate_with_other_names_is_nobodys(names: list[x509.GeneralName | str]) -> None:
    with pytest.raises(UnauthenticatedError):
        read(certificate(names))


def test_a_servers_certificate_is_no_clients() -> None:
    with pytest.raises(UnauthenticatedError, match="does not say who"):
        read(certificate([CLIENT], use=SERVER_USE))


def test_another_authority_of_the_same_name_is_not_believed() -> None:
    key = new_key()
    other = issue_authority(
        key, name="root", trust_domain=DOMAIN, now=NOW, days=10, entropy=SystemEntropy()
    )
    with pytest.raises(UnauthenticatedError):
        read(certificate([CLIENT], signer=(other, key)))
    # Neither is one that claims the issuer's very name and signs with its own key.
    with pytest.raises(UnauthenticatedError):
        read(certificate([CLIENT], signer=(ISSUER, key)))


def test_an_authority_is_no_client() -> None:
    key = new_key()
    below = issue_authority(
        key,
        name="below",
        trust_domain=DOMAIN,
        now=NOW,
        days=1,
        entropy=SystemEntropy(),
        signer=(ISSUER, ISSUER_KEY),
    )
    with pytest.raises(UnauthenticatedError):
        read(below.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(UnauthenticatedError):  # and what it signs is not what the issuer signs
        read(certificate([CLIENT], signer=(below, key)))


def test_expiry_is_looked_at_every_time() -> None:
    pem, reader = certificate([CLIENT]), PeerReader(ISSUER, trust_domain=DOMAIN)
    assert reader.read(pem, now=NOW - 300) == reader.read(pem, now=NOW + 99)
    for now in (NOW - 301, NOW + 100):
        with pytest.raises(UnauthenticatedError) as refused:
            reader.read(pem, now=now)
        assert "expired" in refused.value.why


# Of a serial number below 0, before the signature is found not to hold.
@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@given(st.data())
def test_any_changed_byte_makes_it_nobodys(data: st.DataObject) -> None:
    der = bytearray(x509.load_pem_x509_certificate(PEM).public_bytes(serialization.Encoding.DER))
    # A signature has no fixed length, and examples must not depend on it.
    der[data.draw(st.integers(0, 999)) % len(der)] ^= data.draw(st.integers(1, 255))
    body = base64.encodebytes(bytes(der))
    with pytest.raises(UnauthenticatedError):
        read(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")


def test_bits_of_a_signature_that_would_not_count_make_it_nobodys() -> None:
    """Else one certificate had two fingerprints. Only a bit that is 0 may be left out."""
    while True:
        made = x509.load_pem_x509_certificate(certificate([CLIENT]))
        if made.signature[-1] % 2 == 0:
            break
    der = bytearray(made.public_bytes(serialization.Encoding.DER))
    der[-len(made.signature) - 1] = 1
    body = base64.encodebytes(bytes(der))
    with pytest.raises(UnauthenticatedError):
        read(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")


def test_a_certificate_of_another_version_is_nobodys() -> None:
    der = x509.load_pem_x509_certificate(PEM).public_bytes(serialization.Encoding.DER)
    version = b"\xa0\x03\x02\x01\x02"
    assert version in der[:20]
    body = base64.encodebytes(der.replace(version, b"\xa0\x03\x02\x01\x07", 1))
    with pytest.raises(UnauthenticatedError):
        read(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")


@given(st.binary(max_size=200))
def test_garbage_is_nobodys(pem: bytes) -> None:
    with pytest.raises(UnauthenticatedError):
        read(pem)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True))
def test_every_name_that_may_be_given_is_read_again(name: str) -> None:
    assert is_name(name)
    found = read(certificate([f"spiffe://{DOMAIN}/t/{name}/u/{name}", ROLE, KEY]))
    assert (found.tenant, found.name) == (name, name)


@pytest.mark.parametrize(
    "domain", ["", "Example.org", "example..org", "-a", "a/b", "a:1", "a" * 64]
)
def test_a_domain_is_written_like_a_host(domain: str) -> None:
    assert not is_domain(domain)
    assert is_domain("fl.example.org") and is_domain("localhost")


PEM = certificate([CLIENT])
