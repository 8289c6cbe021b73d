import hashlib
import hmac
import struct
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import assume, given, strategies as st

from fedcore.entropy import SeededEntropy, SystemEntropy
from fedcore.errors import ArgumentError, AuthenticationError, EntropyError, MessageError
from fedcore.secagg import keys as module
from fedcore.secagg.identity import CertificateAuthority, Identity, TrustStore
from fedcore.secagg.keys import (
    BUNDLE_BYTES,
    PREKEY_BYTES,
    SEALED_BYTES,
    KeySchedule,
    Prekey,
    PrekeyBundle,
    commitment,
    half_hash,
    hkdf,
    mask_public,
    share_hash,
    share_hash_of_halves,
    shared_secret,
)
from fedcore.secagg.prg import Prg

P = 2**255 - 19
EXPIRES = 2_000_000_000
AUTHORITY = CertificateAuthority(bytes(range(32)))
TRUST = TrustStore([AUTHORITY.public_key])
SID, ROOT = hashlib.sha256(b"sid").digest(), hashlib.sha256(b"root").digest()
ALICE, BOB = (Prekey.generate(SeededEntropy(name), expires=EXPIRES) for name in (b"a", b"b"))
SHARE = bytes(range(72))
indices = st.integers(0, 2**32 - 1)
secrets = st.binary(min_size=32, max_size=32)


def identity(number):
    return Identity.generate(
        SeededEntropy(b"identity %d" % number),
        certify=lambda key: AUTHORITY.issue(number.to_bytes(16, "big"), key, expires=EXPIRES),
    )


OWNER = identity(1)
BUNDLE = ALICE.bundle(OWNER)


def schedule(sid=SID, root=ROOT, prg=Prg.AES_128_CTR):
    return KeySchedule(sid, root, prg)


def frame(tag, *parts):
    """§1 of the protocol, written out again."""
    parts = [b"fedcore/secagg/v1/" + tag, *parts]
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def digest(tag, *parts):
    return hashlib.sha256(frame(tag, *parts)).digest()


def derived(ikm, length, info, salt=SID):
    """RFC 5869 §2, written out."""
    prk = hmac.digest(salt, ikm, "sha256")
    block, out, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        out, counter = out + block, counter + 1
    return out[:length]


def flipped(data):
    """Every string that differs from `data` in one bit."""
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def low_order_keys():
    """All 32-byte strings that are points of low order: with the ignored bit, and not reduced."""
    for u in module._LOW_ORDER:
        for encoded in (u, u + P):
            for ignored in (0, 2**255):
                if encoded < 2**255:
                    yield (encoded + ignored).to_bytes(32, "little")


# Prekeys and bundles


def test_a_bundle_has_the_documented_bytes_and_signature():
    hb = digest(b"bcommit", ALICE.pid, ALICE.b)
    public = [
        X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        for secret in (ALICE.mask_secret, ALICE.channel_secret)
    ]
    parts = [ALICE.pid, *public, hb]
    encoded = BUNDLE.encode()
    assert encoded[:112] == b"".join(parts)
    signed = digest(b"sign/R0", OWNER.id, *parts)
    Ed25519PublicKey.from_public_bytes(OWNER.certificate.key).verify(encoded[112:], signed)


def test_a_bundle_comes_back_from_its_bytes_and_holds():
    encoded = BUNDLE.encode()
    assert len(encoded) == BUNDLE_BYTES
    assert PrekeyBundle.decode(encoded) == PrekeyBundle.decode(memoryview(encoded)) == BUNDLE
    PrekeyBundle.decode(encoded).verify(OWNER.certificate, TRUST)


def test_a_bundle_with_any_bit_changed_is_refused():
    for changed in flipped(BUNDLE.encode()):
        with pytest.raises(AuthenticationError) as caught:
            PrekeyBundle.decode(changed).verify(OWNER.certificate, TRUST)
        assert caught.value.culprit == OWNER.id


def test_a_bundle_holds_for_its_owner_alone():
    other_id = AUTHORITY.issue(bytes(16), OWNER.certificate.key, expires=EXPIRES)
    for certificate in (identity(2).certificate, other_id):
        with pytest.raises(AuthenticationError) as caught:
            BUNDLE.verify(certificate, TRUST)
        assert caught.value.culprit == certificate.id


def test_a_signed_bundle_with_a_key_of_low_order_is_refused():
    for low in low_order_keys():
        for keys in ((low, BUNDLE.channel_key), (BUNDLE.mask_key, low)):
            blank = PrekeyBundle(BUNDLE.pid, *keys, BUNDLE.commitment, b"")
            signature = OWNER.sign(blank.statement(OWNER.id))
            bundle = PrekeyBundle(BUNDLE.pid, *keys, BUNDLE.commitment, signature)
            with pytest.raises(AuthenticationError, match="low order") as caught:
                bundle.verify(OWNER.certificate, TRUST)
            assert caught.value.culprit == OWNER.id


@pytest.mark.parametrize("length", [0, 175, 177])
def test_a_bundle_of_another_length_is_malformed(length):
    with pytest.raises(MessageError):
        PrekeyBundle.decode((BUNDLE.encode() * 2)[:length])


@given(st.binary(min_size=16, max_size=16), secrets, secrets, secrets, st.integers(0, 2**64 - 1))
def test_a_prekey_comes_back_from_its_bytes(pid, mask, channel, b, expires):
    prekey = Prekey(pid, mask, channel, b, expires)
    encoded = prekey.encode()
    assert len(encoded) == PREKEY_BYTES
    assert Prekey.decode(encoded) == prekey


@pytest.mark.parametrize("length", [0, 119, 121])
def test_a_stored_prekey_of_another_length_is_refused_without_showing_it(length):
    data = (ALICE.encode() * 2)[:length]
    with pytest.raises(MessageError) as caught:
        Prekey.decode(data)
    assert not length or ALICE.b.hex() not in str(caught.value)


def test_no_two_prekeys_have_anything_in_common():
    prekeys = [Prekey.generate(SystemEntropy(), expires=EXPIRES) for _ in range(10)]
    secret = {x for p in prekeys for x in (p.mask_secret, p.channel_secret, p.b)}
    assert len(secret) == 30
    assert len({p.pid for p in prekeys}) == 10


def test_prekeys_come_from_no_other_source_than_the_systems():
    class Lookalike:
        def token(self, size):
            return bytes(size)

    with pytest.raises(EntropyError):
        Prekey.generate(Lookalike(), expires=EXPIRES)
    with pytest.raises(EntropyError):
        schedule().channel(ALICE.channel_secret, BUNDLE.mask_key, 0, 1).seal(SHARE, Lookalike())


@pytest.mark.parametrize("expires", [-1, 2**64])
def test_an_expiry_that_has_no_bytes_is_refused_before_a_prekey_exists(expires):
    with pytest.raises(ArgumentError):
        Prekey.generate(SystemEntropy(), expires=expires)


def test_a_commitment_binds_pid_and_b():
    assert len({commitment(pid, b) for pid in (b"p", b"pp") for b in (b"b", b"pb")}) == 4


# Seeds


@given(secrets, secrets, indices, indices, st.sampled_from(Prg))
def test_both_clients_get_the_documented_seed_in_whichever_order_they_are_named(a, b, i, j, prg):
    assume(i != j)
    keys = schedule(prg=prg)
    agreed = X25519PrivateKey.from_private_bytes(a).exchange(
        X25519PublicKey.from_public_bytes(mask_public(b))
    )
    info = frame(b"pair", ROOT, struct.pack("<I", min(i, j)), struct.pack("<I", max(i, j)))
    expected = derived(agreed, prg.seed_bytes, info)
    assert keys.pair_seed(a, mask_public(b), i, j) == expected
    assert keys.pair_seed(b, mask_public(a), j, i) == expected
    assert keys.pair_seed(b, mask_public(a), i, j) == expected
    assert keys.pair_seed(X25519PrivateKey.from_private_bytes(a), mask_public(b), i, j) == expected


@given(secrets, indices, st.sampled_from(Prg))
def test_the_self_seed_is_the_documented_one(b, i, prg):
    expected = derived(b, prg.seed_bytes, frame(b"self", ROOT, struct.pack("<I", i)))
    assert schedule(prg=prg).self_seed(b, i) == expected
    assert len(expected) == prg.seed_bytes


def test_session_roster_pair_and_label_each_give_other_keys():
    secret, public = ALICE.mask_secret, mask_public(BOB.mask_secret)
    seeds = set()
    schedules = [schedule(), schedule(sid=ROOT), schedule(root=SID), schedule(sid=ROOT, root=SID)]
    for keys in schedules:
        for i, j in combinations((0, 1, 2, 256), 2):
            seeds.add(keys.pair_seed(secret, public, i, j))
        for i in (0, 1, 256):
            seeds.add(keys.self_seed(shared_secret(secret, public), i))
    assert len(seeds) == 4 * (6 + 3)


@pytest.mark.parametrize("name", ["pair_seed", "channel"])
def test_a_client_has_no_key_with_itself(name):
    with pytest.raises(ArgumentError):
        getattr(schedule(), name)(ALICE.mask_secret, BUNDLE.mask_key, 3, 3)


def test_every_key_of_low_order_is_refused():
    for low in low_order_keys():
        for name in ("pair_seed", "channel"):
            with pytest.raises(AuthenticationError):
                getattr(schedule(), name)(ALICE.mask_secret, low, 0, 1)


@given(secrets)
def test_any_other_key_is_accepted_and_agreed_on(public):
    assume(public not in set(low_order_keys()))
    assert shared_secret(ALICE.mask_secret, public) != bytes(32)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_and_secrets_of_another_length_are_refused_without_showing_them(length):
    wrong = (ALICE.mask_secret * 2)[:length]
    with pytest.raises(AuthenticationError):
        shared_secret(ALICE.mask_secret, wrong)
    for use in (mask_public, lambda x: schedule().pair_seed(x, BUNDLE.mask_key, 0, 1)):
        with pytest.raises(ArgumentError) as caught:
            use(wrong)
        assert not length or wrong.hex() not in str(caught.value)


@pytest.mark.parametrize(("sid", "root"), [(bytes(31), ROOT), (SID, bytes(33)), (b"", b"")])
def test_a_session_whose_name_or_root_is_no_digest_has_no_keys(sid, root):
    with pytest.raises(ArgumentError):
        schedule(sid=sid, root=root)


def test_a_rebuilt_secret_is_held_against_its_public_key():
    assert mask_public(ALICE.mask_secret) == mask_public(ALICE.mask_private) == BUNDLE.mask_key
    assert mask_public(ALICE.channel_secret) == BUNDLE.channel_key
    wrong = bytearray(ALICE.mask_secret)
    wrong[5] ^= 1
    assert mask_public(bytes(wrong)) != BUNDLE.mask_key


@given(secrets, st.integers(1, 200), st.binary(max_size=80))
def test_hkdf_is_rfc_5869(ikm, length, info):
    assert hkdf(ikm, length, salt=SID, info=info) == derived(ikm, length, info)


# Channels


def pair(i=3, j=7, **session):
    keys = schedule(**session)
    a, b = ALICE.channel_secret, BOB.channel_secret
    return keys.channel(a, mask_public(b), i, j), keys.channel(b, mask_public(a), j, i)


@pytest.mark.parametrize(("i", "j"), [(0, 1), (7, 3), (1023, 0)])
def test_a_share_arrives_in_both_directions(i, j):
    alice, bob = pair(i, j)
    for sender, receiver in ((alice, bob), (bob, alice)):
        sealed = sender.seal(SHARE, SystemEntropy())
        assert len(sealed) == SEALED_BYTES
        assert receiver.open(sealed) == SHARE
        assert SHARE not in sealed


def test_a_sealed_share_is_the_documented_one():
    alice, bob = pair(3, 7)
    agreed = shared_secret(ALICE.channel_secret, mask_public(BOB.channel_secret))
    keys = derived(agreed, 32, frame(b"chan", ROOT, struct.pack("<I", 3), struct.pack("<I", 7)))
    for sender, key, aad in (
        (alice, keys[:16], struct.pack("<II", 3, 7)),
        (bob, keys[16:], struct.pack("<II", 7, 3)),
    ):
        sealed = sender.seal(SHARE, SystemEntropy())
        assert AESGCM(key).decrypt(sealed[:12], sealed[12:], aad) == SHARE


def test_a_share_with_any_bit_changed_is_refused():
    alice, bob = pair()
    for changed in flipped(alice.seal(SHARE, SystemEntropy())):
        with pytest.raises(AuthenticationError):
            bob.open(changed)


def test_a_share_is_opened_by_nobody_but_its_receiver_in_its_session():
    sealed = pair()[0].seal(SHARE, SystemEntropy())
    wrong = [
        pair()[0],  # sent back to its sender
        pair(7, 3)[1],  # the indices exchanged
        pair(3, 8)[1],  # another receiver
        pair(2, 7)[1],  # another sender
        pair(sid=ROOT)[1],
        pair(root=SID)[1],
    ]
    for channel in wrong:
        with pytest.raises(AuthenticationError):
            channel.open(sealed)
    assert pair()[1].open(sealed) == SHARE


@pytest.mark.parametrize("length", [0, 12, 28, 99, 101, 200])
def test_a_ciphertext_of_another_length_is_refused(length):
    alice, bob = pair()
    with pytest.raises(AuthenticationError):
        bob.open((alice.seal(SHARE, SystemEntropy()) * 2)[:length])


def test_a_valid_ciphertext_of_another_length_is_refused():
    agreed = shared_secret(ALICE.channel_secret, mask_public(BOB.channel_secret))
    keys = derived(agreed, 32, frame(b"chan", ROOT, struct.pack("<I", 3), struct.pack("<I", 7)))
    nonce = bytes(12)
    for size in (71, 73):
        sealed = nonce + AESGCM(keys[:16]).encrypt(nonce, bytes(size), struct.pack("<II", 3, 7))
        with pytest.raises(AuthenticationError):
            pair()[1].open(sealed)


@pytest.mark.parametrize("length", [0, 71, 73])
def test_only_two_halves_of_a_share_are_sealed(length):
    with pytest.raises(ArgumentError):
        pair()[0].seal(bytes(length), SystemEntropy())


def test_every_seal_takes_a_fresh_nonce():
    alice = pair()[0]
    assert len({alice.seal(SHARE, SystemEntropy())[:12] for _ in range(100)}) == 100


# Hashes of shares


def test_a_share_hash_is_the_documented_one():
    of_b, of_sk = SHARE[:36], SHARE[36:]
    between = SID, struct.pack("<I", 5), struct.pack("<I", 9)
    hash_b, hash_sk = digest(b"share/b", *between, of_b), digest(b"share/sk", *between, of_sk)
    assert half_hash("b", SID, 5, 9, of_b) == hash_b
    assert half_hash("sk", SID, 5, 9, of_sk) == hash_sk
    assert share_hash(SID, 5, 9, of_b, of_sk) == digest(b"share", hash_b, hash_sk)
    assert share_hash_of_halves(hash_b, hash_sk) == share_hash(SID, 5, 9, of_b, of_sk)


def test_a_share_hash_binds_session_sharer_holder_and_both_halves():
    of_b, of_sk = SHARE[:36], SHARE[36:]
    hashes = {
        share_hash(SID, 5, 9, of_b, of_sk),
        share_hash(ROOT, 5, 9, of_b, of_sk),
        share_hash(SID, 9, 5, of_b, of_sk),
        share_hash(SID, 5, 8, of_b, of_sk),
        share_hash(SID, 4, 9, of_b, of_sk),
        share_hash(SID, 5, 9, of_sk, of_b),
        share_hash(SID, 5, 9, of_b, of_b),
        share_hash(SID, 5, 9, of_sk, of_sk),
    }
    assert len(hashes) == 8


# Secrets stay secret


def test_no_repr_shows_a_secret():
    keys = schedule()
    channel = keys.channel(ALICE.channel_secret, mask_public(BOB.channel_secret), 0, 1)
    for thing in (ALICE, BUNDLE, keys, channel, ALICE.mask_private, ALICE.channel_private):
        for text in (repr(thing), str(thing)):
            for secret in (ALICE.mask_secret, ALICE.channel_secret, ALICE.b):
                assert secret.hex() not in text
                assert repr(secret)[2:-1] not in text
                assert str(int.from_bytes(secret, "little")) not in text


def test_no_error_shows_a_secret_or_what_led_to_it():
    secret, low = ALICE.mask_secret, bytes(32)
    sealed = pair()[0].seal(SHARE, SystemEntropy())
    for fail in (
        lambda: shared_secret(secret, low),
        lambda: schedule().pair_seed(secret, low, 0, 1),
        lambda: schedule().channel(secret, low, 0, 1),
        lambda: mask_public(secret + b"\0"),
        lambda: pair()[0].open(sealed),
        lambda: pair()[0].seal(secret * 3, SystemEntropy()),
        lambda: Prekey.decode(secret),
    ):
        with pytest.raises((AuthenticationError, ArgumentError, MessageError)) as caught:
            fail()
        error = caught.value
        shown = f"{error} {error!r} {error.__dict__}"
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
        assert error.__suppress_context__ or error.__context__ is None
