"""Of a signing request nothing counts but its key, of one kind, and shown to be owned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, strategies as st

from fedcore.errors import AuthorityError, InvalidRequestError
from fedserver.authority import Authority
from fedserver.certificates import alternative_names, key_digest, new_key, request_key

RequestOf = Callable[..., bytes]


def test_the_key_of_a_request_is_found(
    request_of: RequestOf, client_key: ec.EllipticCurvePrivateKey
) -> None:
    found = request_key(request_of(client_key))
    assert found == client_key.public_key()
    assert key_digest(found) == key_digest(client_key.public_key())


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65_537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["RSA", "Ed25519", "P-384", "secp256k1"],
)
def test_a_key_of_another_kind_is_refused(key: rsa.RSAPrivateKey) -> None:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, algorithm)
        .public_bytes(serialization.Encoding.DER)
    )
    with pytest.raises(InvalidRequestError) as refused:
        request_key(request)
    assert "P-256" in refused.value.why


def test_a_request_for_anothers_key_is_refused(
    request_of: RequestOf, client_key: ec.EllipticCurvePrivateKey
) -> None:
    """The attacker has the victim's public key, and signs with a key of its own."""
    encoding = serialization.Encoding.DER
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    victim = client_key.public_key().public_bytes(encoding, spki)
    attacker = new_key()
    own = attacker.public_key().public_bytes(encoding, spki)
    forged = request_of(attacker).replace(own, victim)
    assert victim in forged
    with pytest.raises(InvalidRequestError) as refused:
        request_key(forged)
    assert "signature" in refused.value.why


@given(st.data())
def test_a_changed_request_is_refused_or_still_has_the_same_key(data: st.DataObject) -> None:
    key = ec.derive_private_key(7, ec.SECP256R1())
    request = bytearray(_request(key))
    # A signature has no fixed length, and examples must not depend on it.
    request[data.draw(st.integers(0, 999)) % len(request)] = data.draw(st.integers(0, 255))
    try:
        found = request_key(bytes(request))
    except InvalidRequestError:
        return
    assert found == key.public_key()


def test_a_request_of_another_version_is_refused() -> None:
    request = _request(ec.derive_private_key(7, ec.SECP256R1()))
    version = b"\x02\x01\x00"
    assert version in request[:12]
    with pytest.raises(InvalidRequestError):
        request_key(request.replace(version, b"\x02\x01\x01", 1))


@given(st.binary(max_size=5000))
def test_garbage_is_no_request(data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        request_key(data)


def test_bytes_after_a_request_are_refused() -> None:
    with pytest.raises(InvalidRequestError):
        request_key(_request(new_key()) + b"\0")


def test_what_a_request_asks_for_is_not_given(
    authority: Authority, request_of: RequestOf, now: int
) -> None:
    request = request_of(
        new_key(),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier("spiffe://example.org/t/default/u/root")]
        ),
    )
    issued = authority.issue_client(
        request_key(request), client_id=b"c" * 16, tenant="ward", now=now
    )
    found = x509.load_der_x509_certificate(issued.chain[0])
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"spiffe://example.org/t/ward/c/{'63' * 16}"]
    assert "root of all" not in found.subject.rfc4514_string()


@pytest.mark.parametrize("host", ["", "*.example.org", "host:1", "a b", "ä.org", "http://x", "x@y"])
def test_a_host_that_no_certificate_can_name_is_refused(host: str) -> None:
    with pytest.raises(AuthorityError):
        alternative_names([host])


def test_addresses_are_named_as_addresses() -> None:
    kinds = [type(name) for name in alternative_names(["localhost", "127.0.0.1", "::1"])]
    assert kinds == [x509.DNSName, x509.IPAddress, x509.IPAddress]
    with pytest.raises(AuthorityError):
        alternative_names([])


def _request(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
