import hashlib
import struct

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, strategies as st

from fedcore.entropy import SeededEntropy, SystemEntropy
from fedcore.errors import ArgumentError, AuthenticationError, EntropyError, MessageError
from fedcore.secagg import identity as module
from fedcore.secagg.client import SecAggClient
from fedcore.secagg.identity import (
    CERTIFICATE_BYTES,
    Certificate,
    CertificateAuthority,
    Identity,
    TrustStore,
    verify_signature,
)
from fedcore.secagg.keys import Prekey
from fedcore.secagg.policy import Policy

NOW, EXPIRES = 1_900_000_000, 2_000_000_000
AUTHORITY = CertificateAuthority(bytes(range(32)))
OTHER = CertificateAuthority(bytes(range(1, 33)))
P = 2**255 - 19


def client_id(number):
    return number.to_bytes(16, "big")


def make(number, *, authority=AUTHORITY, expires=EXPIRES):
    return Identity.generate(
        SeededEntropy(b"identity %d" % number),
        certify=lambda key: authority.issue(client_id(number), key, expires=expires),
    )


ALICE = make(1)
ENCODED = ALICE.certificate.encode()


def store(**options):
    return TrustStore([AUTHORITY.public_key], **options)


def flipped(data):
    """Every string that differs from `data` in one bit."""
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_a_certificate_has_the_documented_bytes():
    parts = [b"fedcore/secagg/v1/sign/cert", ALICE.id, ALICE.certificate.key]
    parts.append(struct.pack("<Q", EXPIRES))
    signed = hashlib.sha256(b"".join(struct.pack("<Q", len(x)) + x for x in parts)).digest()
    assert b"".join(parts[1:]) == ENCODED[:56]
    Ed25519PublicKey.from_public_bytes(AUTHORITY.public_key).verify(ENCODED[56:], signed)


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=64, max_size=64),
)
def test_a_certificate_comes_back_from_its_bytes(client, key, expires, signature):
    certificate = Certificate(client, key, expires, signature)
    encoded = certificate.encode()
    assert len(encoded) == CERTIFICATE_BYTES
    assert Certificate.decode(encoded) == certificate
    assert Certificate.decode(memoryview(encoded)) == certificate


@pytest.mark.parametrize("length", [0, 119, 121, 240])
def test_a_certificate_of_another_length_is_malformed(length):
    data = (ENCODED * 2)[:length]
    with pytest.raises(MessageError):
        Certificate.decode(data)
    with pytest.raises(MessageError):
        store().verify(data, now=NOW)


def test_a_certificate_holds_under_any_of_the_roots():
    trusted = TrustStore([OTHER.public_key, AUTHORITY.public_key])
    assert trusted.verify(ENCODED, now=NOW) == ALICE.certificate
    mallory = make(2, authority=OTHER).certificate
    assert trusted.verify(mallory.encode(), now=NOW) == mallory


def test_a_certificate_of_an_unknown_root_is_refused():
    with pytest.raises(AuthenticationError) as caught:
        TrustStore([OTHER.public_key]).verify(ENCODED, now=NOW)
    assert caught.value.culprit == ALICE.id


def test_a_certificate_with_any_bit_changed_is_refused_before_and_after_the_cache_knows_it():
    trusted = store()
    for _ in range(2):
        for changed in flipped(ENCODED):
            with pytest.raises(AuthenticationError) as caught:
                trusted.verify(changed, now=0)
            assert caught.value.culprit == changed[:16]
        trusted.verify(ENCODED, now=0)


def test_a_certificate_holds_until_the_second_before_it_expires():
    trusted = store()
    with pytest.raises(AuthenticationError, match="expired"):
        trusted.verify(ENCODED, now=EXPIRES)
    trusted.verify(ENCODED, now=EXPIRES - 1)
    with pytest.raises(AuthenticationError, match="expired") as caught:
        trusted.verify(ENCODED, now=EXPIRES)
    assert caught.value.culprit == ALICE.id


def test_a_revoked_client_is_refused():
    trusted = store(revoked=[ALICE.id])
    for _ in range(2):
        with pytest.raises(AuthenticationError, match="revoked") as caught:
            trusted.verify(ENCODED, now=NOW)
        assert caught.value.culprit == ALICE.id
    trusted.verify(make(2).certificate.encode(), now=NOW)


def test_a_known_certificate_costs_no_signature(monkeypatch):
    trusted = store()
    trusted.verify(ENCODED, now=NOW)
    monkeypatch.setattr(module, "_is_signed", lambda *_: False)
    assert trusted.verify(ENCODED, now=NOW) == ALICE.certificate
    assert trusted.verify_roster(ENCODED, now=NOW) == [ALICE.certificate]
    with pytest.raises(AuthenticationError):
        store().verify(ENCODED, now=NOW)


def test_a_refused_certificate_is_not_remembered():
    trusted = TrustStore([OTHER.public_key])
    for _ in range(2):
        with pytest.raises(AuthenticationError):
            trusted.verify(ENCODED, now=NOW)


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_CACHED", 3)
    trusted = store()
    encoded = [make(i).certificate.encode() for i in range(1, 9)]
    for data in encoded * 2:
        assert trusted.verify(data, now=NOW).encode() == data
        assert len(trusted._verified) <= 3


def roster_of(*numbers):
    return [make(i).certificate for i in numbers]


def joined(certificates):
    return b"".join(x.encode() for x in certificates)


def test_a_roster_is_verified_in_its_order():
    roster = roster_of(1, 2, 3, 300, 70_000)
    assert store().verify_roster(joined(roster), now=NOW) == roster


@pytest.mark.parametrize("order", [(2, 1), (1, 1), (1, 3, 2), (1, 2, 2), (300, 2)])
def test_a_roster_out_of_order_or_with_an_id_twice_is_refused(order):
    with pytest.raises(MessageError, match="order"):
        store().verify_roster(joined(roster_of(*order)), now=NOW)


def test_a_roster_in_which_two_clients_share_a_key_is_refused():
    alice, bob, carol = roster_of(1, 2, 3)
    twin = AUTHORITY.issue(carol.id, alice.key, expires=EXPIRES)
    with pytest.raises(AuthenticationError, match="same key") as caught:
        store().verify_roster(joined([alice, bob, twin]), now=NOW)
    assert caught.value.culprit == carol.id


@pytest.mark.parametrize("length", [0, 1, 119, 121, 359])
def test_a_roster_that_is_not_of_whole_certificates_is_refused(length):
    with pytest.raises(MessageError):
        store().verify_roster(joined(roster_of(1, 2, 3))[:length], now=NOW)


def test_one_bad_certificate_refuses_a_roster_and_is_named():
    roster = [*roster_of(1, 2), make(3, authority=OTHER).certificate]
    with pytest.raises(AuthenticationError) as caught:
        store().verify_roster(joined(roster), now=NOW)
    assert caught.value.culprit == client_id(3)
    roster = [*roster_of(1, 2), make(4, expires=NOW).certificate]
    with pytest.raises(AuthenticationError, match="expired") as caught:
        store().verify_roster(joined(roster), now=NOW)
    assert caught.value.culprit == client_id(4)


@pytest.mark.parametrize(
    ("roots", "revoked"), [([], []), ([bytes(31)], []), ([AUTHORITY.public_key], [bytes(15)])]
)
def test_a_trust_store_without_sound_roots_is_refused(roots, revoked):
    with pytest.raises(ArgumentError):
        TrustStore(roots, revoked)


def test_a_signature_belongs_to_one_key_and_one_statement():
    statement = hashlib.sha256(b"statement").digest()
    signature, key = ALICE.sign(statement), ALICE.certificate.key
    assert verify_signature(key, signature, statement)
    assert not any(verify_signature(key, signature, x) for x in flipped(statement))
    assert not any(verify_signature(key, x, statement) for x in flipped(signature))
    assert not any(verify_signature(x, signature, statement) for x in flipped(key))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_verifies_nothing(length):
    signature = ALICE.sign(b"statement")
    assert not verify_signature((ALICE.certificate.key * 2)[:length], signature, b"statement")


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_a_signature_of_another_length_is_none(length):
    signature = (ALICE.sign(b"statement") * 2)[:length]
    assert not verify_signature(ALICE.certificate.key, signature, b"statement")


def curve_point(y):
    """A point of edwards25519 with this y: -x² + y² = 1 + d·x²·y² (RFC 8032 §5.1)."""
    d = -121665 * pow(121666, -1, P) % P
    square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert x * x % P == square
    return x, y


def doubled(point):
    d = -121665 * pow(121666, -1, P) % P
    x, y = point
    product = d * x * x * y * y % P
    twice_x = 2 * x * y * pow(1 + product, -1, P) % P
    return twice_x, (y * y + x * x) * pow(1 - product, -1, P) % P


def test_the_keys_of_small_order_are_all_there():
    # The points whose order divides 8 form a cyclic group of 8: its y-coordinates are five numbers.
    assert len(module._SMALL_ORDER) == 5
    for y in module._SMALL_ORDER:
        assert doubled(doubled(doubled(curve_point(y)))) == (0, 1)


def small_order_keys():
    for y in module._SMALL_ORDER:
        for encoded in (y, y + P):
            for sign in (0, 2**255):
                if encoded < 2**255:
                    yield (encoded + sign).to_bytes(32, "little")


def test_nobody_can_sign_for_a_key_of_small_order():
    forged = (1).to_bytes(32, "little") + bytes(32)  # R the neutral element, S = 0
    accepted_by_openssl = 0
    for key in small_order_keys():
        for i in range(64):
            assert not verify_signature(key, forged, bytes([i]))
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(forged, bytes([i]))
                accepted_by_openssl += 1
            except (InvalidSignature, ValueError):
                pass
    assert accepted_by_openssl > 100  # otherwise our own check would be superfluous


def test_no_certificate_is_issued_for_a_key_of_small_order():
    for key in small_order_keys():
        with pytest.raises(ArgumentError, match="small order"):
            AUTHORITY.issue(ALICE.id, key, expires=EXPIRES)


@pytest.mark.parametrize(
    ("client", "key", "expires"),
    [
        (bytes(15), ALICE.certificate.key, 1),
        (bytes(17), ALICE.certificate.key, 1),
        (bytes(16), ALICE.certificate.key[:31], 1),
        (bytes(16), ALICE.certificate.key, -1),
        (bytes(16), ALICE.certificate.key, 2**64),
    ],
)
def test_no_certificate_is_issued_for_what_does_not_fit(client, key, expires):
    with pytest.raises(ArgumentError):
        AUTHORITY.issue(client, key, expires=expires)


def test_identity_and_authority_come_back_from_what_was_stored():
    alice = Identity.restore(ALICE.private_bytes(), Certificate.decode(ENCODED))
    assert (alice.id, alice.sign(b"x")) == (ALICE.id, ALICE.sign(b"x"))
    authority = CertificateAuthority.from_private_bytes(AUTHORITY.private_bytes())
    assert authority.public_key == AUTHORITY.public_key
    assert authority.issue(ALICE.id, ALICE.certificate.key, expires=EXPIRES) == ALICE.certificate


def test_an_identity_with_another_clients_certificate_is_refused():
    with pytest.raises(AuthenticationError) as caught:
        Identity.restore(ALICE.private_bytes(), make(2).certificate)
    assert caught.value.culprit == client_id(2)


def test_a_registrar_that_certifies_another_key_is_noticed():
    with pytest.raises(AuthenticationError):
        Identity.generate(SystemEntropy(), certify=lambda key: ALICE.certificate)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_private_keys_of_another_length_are_refused_without_showing_them(length):
    private = (ALICE.private_bytes() * 2)[:length]
    for restore in (
        lambda: Identity.restore(private, ALICE.certificate),
        lambda: CertificateAuthority.from_private_bytes(private),
    ):
        with pytest.raises(ArgumentError) as caught:
            restore()
        assert not length or private.hex() not in str(caught.value)


def test_two_identities_never_share_a_key():
    keys = set()
    for _ in range(10):
        generated = Identity.generate(
            SystemEntropy(), certify=lambda key: AUTHORITY.issue(bytes(16), key, expires=1)
        )
        keys |= {
            generated.certificate.key,
            CertificateAuthority.generate(SystemEntropy()).public_key,
        }
    assert len(keys) == 20


def test_keys_come_from_no_other_source_than_the_systems():
    class Lookalike:
        def token(self, size):
            return bytes(size)

    with pytest.raises(EntropyError):
        CertificateAuthority.generate(Lookalike())
    with pytest.raises(EntropyError):
        Identity.generate(Lookalike(), certify=lambda key: ALICE.certificate)


def test_a_repr_shows_no_secret():
    for thing, secret in ((ALICE, ALICE.private_bytes()), (AUTHORITY, AUTHORITY.private_bytes())):
        for text in (repr(thing), str(thing)):
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
    assert repr(ALICE) == f"Identity(id={client_id(1).hex()})"


@pytest.mark.parametrize(
    ("roots", "revoked"),
    [
        (AUTHORITY.public_key, ()),
        ([AUTHORITY.public_key.hex()[:32]], ()),
        ([AUTHORITY.public_key], bytes(16)),
        ([AUTHORITY.public_key], ["sixteen letters."]),
        ([AUTHORITY], ()),
    ],
    ids=["one key", "text", "one id", "text id", "an authority"],
)
def test_a_trust_store_takes_lists_of_bytes_and_says_so(roots, revoked):
    with pytest.raises(ArgumentError) as refused:
        TrustStore(roots, revoked)
    assert "[authority.public_key]" in refused.value.fix


@pytest.mark.parametrize("name", ["alice", "sixteen letters.", 7, None, [0] * 16])
def test_a_certificate_is_issued_for_an_id_of_bytes_only(name):
    key = make(3).certificate.key
    with pytest.raises(ArgumentError, match="id and key") as refused:
        AUTHORITY.issue(name, key, expires=2**40)
    assert "16 bytes" in refused.value.fix
    with pytest.raises(ArgumentError, match="id and key"):
        AUTHORITY.issue(bytes(16), key.hex()[:32], expires=2**40)


@pytest.mark.parametrize("expires", [5.5, 5.0, "5", None, True, np.int64(5), -1, 2**64], ids=repr)
def test_an_expiry_is_a_plain_int_of_seconds(expires):
    identity = make(3)
    client = SecAggClient(identity, Policy(roots=(AUTHORITY.public_key,)))
    for call in (
        lambda: client.offer(1, expires=expires),
        lambda: Prekey.generate(SystemEntropy(), expires=expires),
        lambda: AUTHORITY.issue(bytes(16), identity.certificate.key, expires=expires),
    ):
        with pytest.raises(ArgumentError) as refused:
            call()
        assert refused.value.fix
