"""Our keys, agreements and signatures give what others have published for them.

Sources: the RFCs named below; Project Wycheproof, testvectors_v1, by the numbers of its test cases.
"""

import pytest

from fedcore.errors import AuthenticationError
from fedcore.secagg.identity import Certificate, Identity, TrustStore, verify_signature
from fedcore.secagg.keys import PrekeyBundle, hkdf, mask_public, shared_secret

unhex = bytes.fromhex


# RFC 5869, appendix A: ikm, salt, info, okm
HKDF_VECTORS = {
    "A.1": (
        "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    "A.2": (
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829"
        "2a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f",
        "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f80818283848586878889"
        "8a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
        "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9"
        "dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb"
        "41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    "A.3": (
        "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
}

# RFC 8032, §7.1: secret key, public key, message, signature
ED25519_VECTORS = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e"
        "39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f"
        "3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67"
        "f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "TEST 1024": (
        "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
        "08b8b2b733424243760fe426a4b54908632110a66c2f6591eabd3345e3e4eb98fa6e264bf09efe12ee50"
        "f8f54e9f77b1e355f6c50544e23fb1433ddf73be84d879de7c0046dc4996d9e773f4bc9efe5738829adb"
        "26c81b37c93a1b270b20329d658675fc6ea534e0810a4432826bf58c941efb65d57a338bbd2e26640f89"
        "ffbc1a858efcb8550ee3a5e1998bd177e93a7363c344fe6b199ee5d02e82d522c4feba15452f80288a82"
        "1a579116ec6dad2b3b310da903401aa62100ab5d1a36553e06203b33890cc9b832f79ef80560ccb9a39c"
        "e767967ed628c6ad573cb116dbefefd75499da96bd68a8a97b928a8bbc103b6621fcde2beca1231d206b"
        "e6cd9ec7aff6f6c94fcd7204ed3455c68c83f4a41da4af2b74ef5c53f1d8ac70bdcb7ed185ce81bd8435"
        "9d44254d95629e9855a94a7c1958d1f8ada5d0532ed8a5aa3fb2d17ba70eb6248e594e1a2297acbbb39d"
        "502f1a8c6eb6f1ce22b3de1a1f40cc24554119a831a9aad6079cad88425de6bde1a9187ebb6092cf67bf"
        "2b13fd65f27088d78b7e883c8759d2c4f5c65adb7553878ad575f9fad878e80a0c9ba63bcbcc2732e694"
        "85bbc9c90bfbd62481d9089beccf80cfe2df16a2cf65bd92dd597b0707e0917af48bbb75fed413d238f5"
        "555a7a569d80c3414a8d0859dc65a46128bab27af87a71314f318c782b23ebfe808b82b0ce26401d2e22"
        "f04d83d1255dc51addd3b75a2b1ae0784504df543af8969be3ea7082ff7fc9888c144da2af58429ec960"
        "31dbcad3dad9af0dcbaaaf268cb8fcffead94f3c7ca495e056a9b47acdb751fb73e666c6c655ade82972"
        "97d07ad1ba5e43f1bca32301651339e22904cc8c42f58c30c04aafdb038dda0847dd988dcda6f3bfd15c"
        "4b4c4525004aa06eeff8ca61783aacec57fb3d1f92b0fe2fd1a85f6724517b65e614ad6808d6f6ee34df"
        "f7310fdc82aebfd904b01e1dc54b2927094b2db68d6f903b68401adebf5a7e08d78ff4ef5d63653a6504"
        "0cf9bfd4aca7984a74d37145986780fc0b16ac451649de6188a7dbdf191f64b5fc5e2ab47b57f7f7276c"
        "d419c17a3ca8e1b939ae49e488acba6b965610b5480109c8b17b80e1b7b750dfc7598d5d5011fd2dcc56"
        "00a32ef5b52a1ecc820e308aa342721aac0943bf6686b64b2579376504ccc493d97e6aed3fb0f9cd71a4"
        "3dd497f01f17c0e2cb3797aa2a2f256656168e6c496afc5fb93246f6b1116398a346f1a641f3b041e989"
        "f7914f90cc2c7fff357876e506b50d334ba77c225bc307ba537152f3f1610e4eafe595f6d9d90d11faa9"
        "33a15ef1369546868a7f3a45a96768d40fd9d03412c091c6315cf4fde7cb68606937380db2eaaa707b4c"
        "4185c32eddcdd306705e4dc1ffc872eeee475a64dfac86aba41c0618983f8741c5ef68d3a101e8a3b8ca"
        "c60c905c15fc910840b94c00a0b9d0",
        "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ec"
        "ea23c436d94b5e8fcd4f681e30a6ac00a9704a188a03",
    ),
}

# RFC 7748: scalar, u-coordinate, product; §5.2, then §6.1
X25519_VECTORS = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
    (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    ),
    (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    ),
]
BASE_POINT = bytes([9]) + bytes(31)

# Wycheproof x25519: number of the case, private key, public key, shared secret
X25519_EDGES = [
    # public key on twist
    (
        2,
        "d85d8c061a50804ac488ad774ac716c3f5ba714b2712e048491379a500211958",
        "63aa40c6e38346c5caf23a6df0a5e6c80889a08647e551b3563449befcfc9733",
        "279df67a7c4611db4708a0e8282b195e5ac0ed6f4b2f292c6fbd0acac30d1332",
    ),
    # public key on twist
    (
        3,
        "c8b45bfd32e55325d9fd648cb302848039000b390e44d521e58aab3b29a6964b",
        "0f83c36fded9d32fadf4efa3ae93a90bb5cfa66893bc412c43fa7287dbb99779",
        "4bc7e01e7d83d6cf67632bf90033487a5fc29eba5328890ea7b1026d23b9a45f",
    ),
    # non-canonical public key
    (
        87,
        "0016b62af5cabde8c40938ebf2108e05d27fa0533ed85d70015ad4ad39762d54",
        "efffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "b4d10e832714972f96bd3382e4d082a21a8333a16315b3ffb536061d2482360d",
    ),
    # non-canonical public key
    (
        88,
        "d83650ba7cec115881916255e3fa5fa0d6b8dcf968731bd2c9d2aec3f561f649",
        "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "515eac8f1ed0b00c70762322c3ef86716cd2c51fe77cec3d31b6388bc6eea336",
    ),
    # non-canonical public key
    (
        89,
        "88dd14e2711ebd0b0026c651264ca965e7e3da5082789fbab7e24425e7b4377e",
        "f1ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "6919992d6a591e77b3f2bacbd74caf3aea4be4802b18b2bc07eb09ade3ad6662",
    ),
    # edge case for shared secret
    (
        103,
        "60a3a4f130b98a5be4b1cedb7cb85584a3520e142d474dc9ccb909a073a9767f",
        "b7b6d39c765cb60c0c8542f4f3952ffb51d3002d4aeb9f8ff988b192043e6d0a",
        "0200000000000000000000000000000000000000000000000000000000000000",
    ),
    # edge case for shared secret
    (
        104,
        "60a3a4f130b98a5be4b1cedb7cb85584a3520e142d474dc9ccb909a073a9767f",
        "3b18df1e50b899ebd588c3161cbd3bf98ebcc2c1f7df53b811bd0e91b4d5153d",
        "0900000000000000000000000000000000000000000000000000000000000000",
    ),
    # private key == -1 (mod order)
    (
        511,
        "a023cdd083ef5bb82f10d62e59e15a6800000000000000000000000000000050",
        "6c05871352a451dbe182ed5e6ba554f2034456ffe041a054ff9cc56b8e946376",
        "6c05871352a451dbe182ed5e6ba554f2034456ffe041a054ff9cc56b8e946376",
    ),
    # special case private key
    (
        513,
        "4855555555555555555555555555555555555555555555555555555555555555",
        "3e3e7708ef72a6dd78d858025089765b1c30a19715ac19e8d917067d208e0666",
        "63ef7d1c586476ec78bb7f747e321e01102166bf967a9ea9ba9741f49d439510",
    ),
]

# Wycheproof x25519, flag ZeroSharedSecret: all public keys of low order, as they are encoded
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]

# Wycheproof ed25519, one key and the message "Test" or "123400": case, message, signature
ED25519_KEY = "7d4d0e7f6153a69b6242b522abbee685fda4420f8834b108c3bdae369ef549fa"
ED25519_FORGERIES = [
    # empty signature
    (
        30,
        "54657374",
        "",
    ),
    # s missing
    (
        31,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab0",
    ),
    # signature too short
    (
        32,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab07a9155711ecfaf7f99f2"
        "77bad0c6ae7e39d4eef676573336a5c51eb6f946",
    ),
    # signature too long
    (
        33,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab07a9155711ecfaf7f99f2"
        "77bad0c6ae7e39d4eef676573336a5c51eb6f946b30d2020",
    ),
    # include pk in signature
    (
        34,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab07a9155711ecfaf7f99f2"
        "77bad0c6ae7e39d4eef676573336a5c51eb6f946b30d7d4d0e7f6153a69b6242b522abbee685fda4420f"
        "8834b108c3bdae369ef549fa",
    ),
    # prepending 0 byte to signature
    (
        35,
        "54657374",
        "007c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab07a9155711ecfaf7f99"
        "f277bad0c6ae7e39d4eef676573336a5c51eb6f946b30d",
    ),
    # modified bit 0 in R
    (
        42,
        "313233343030",
        "647c1492402ab5ce03e2c3a7f0384d051b9cf3570f1207fc78c1bcc98c281c2b1d125e5538f38afbcc1c"
        "84e489521083041d24bc6240767029da063271a1ff0c",
    ),
    # modified bit 1 in R
    (
        43,
        "313233343030",
        "677c1492402ab5ce03e2c3a7f0384d051b9cf3570f1207fc78c1bcc98c281c2bc108ca4b87a49c9ed2cf"
        "383aecad8f54a962b2899da891e12004d7993a627e01",
    ),
    # modified bit 2 in R
    (
        44,
        "313233343030",
        "617c1492402ab5ce03e2c3a7f0384d051b9cf3570f1207fc78c1bcc98c281c2b9ce23fc6213ed5b87912"
        "e9bbf92f5e2c780eae26d15c50a112d1e97d2ea33c06",
    ),
    # the encoded s was replaced by s + L
    (
        63,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab067654bce3832c2d76f8f"
        "6f5dafc08d9339d4eef676573336a5c51eb6f946b31d",
    ),
    # the encoded s was replaced by s + 2L
    (
        64,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab05439412b5395d42f462c"
        "67008eba6ca839d4eef676573336a5c51eb6f946b32d",
    ),
    # the encoded s was replaced by s + 4L
    (
        65,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab02ee12ce5875bf9dff265"
        "56464bae2ad239d4eef676573336a5c51eb6f946b34d",
    ),
    # the encoded s was replaced by s + 8L
    (
        66,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab0e2300459f1e742404cd9"
        "34d2c595a6253ad4eef676573336a5c51eb6f946b38d",
    ),
    # the encoded s was replaced by s + 2^253
    (
        67,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab07a9155711ecfaf7f99f2"
        "77bad0c6ae7e39d4eef676573336a5c51eb6f946b32d",
    ),
    # the encoded s was replaced by s + 2^254
    (
        68,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab07a9155711ecfaf7f99f2"
        "77bad0c6ae7e39d4eef676573336a5c51eb6f946b34d",
    ),
    # the encoded s was replaced by s + 2^255
    (
        69,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab07a9155711ecfaf7f99f2"
        "77bad0c6ae7e39d4eef676573336a5c51eb6f946b38d",
    ),
    # the encoded s was replaced by s + p where p is the field prime 2^255 - 19
    (
        70,
        "54657374",
        "7c38e026f29e14aabd059a0f2db8b0cd783040609a8be684db12f82a27774ab0679155711ecfaf7f99f2"
        "77bad0c6ae7e39d4eef676573336a5c51eb6f946b38d",
    ),
]


@pytest.mark.parametrize("name", HKDF_VECTORS)
def test_hkdf_of_rfc_5869(name):
    ikm, salt, info, okm = map(unhex, HKDF_VECTORS[name])
    assert hkdf(ikm, len(okm), salt=salt, info=info) == okm


@pytest.mark.parametrize("name", ED25519_VECTORS)
def test_signatures_of_rfc_8032(name):
    secret, public, message, signature = map(unhex, ED25519_VECTORS[name])
    signer = Identity.restore(secret, Certificate(bytes(16), public, 0, bytes(64)))
    assert signer.sign(message) == signature
    assert verify_signature(public, signature, message)
    assert not verify_signature(public, signature, message + b"\0")


@pytest.mark.parametrize(("scalar", "u", "product"), X25519_VECTORS)
def test_products_of_rfc_7748(scalar, u, product):
    assert shared_secret(unhex(scalar), unhex(u)) == unhex(product)


def test_public_keys_of_rfc_7748():
    (alice, bobs, _), (bob, alices, _) = X25519_VECTORS[2:]
    assert mask_public(unhex(alice)) == unhex(alices)
    assert mask_public(unhex(bob)) == unhex(bobs)


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        (1, "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"),
        (1000, "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"),
    ],
)
def test_iterated_products_of_rfc_7748(iterations, expected):
    k = u = BASE_POINT
    for _ in range(iterations):
        k, u = shared_secret(k, u), k
    assert k == unhex(expected)


@pytest.mark.parametrize(("case", "private", "public", "shared"), X25519_EDGES)
def test_agreements_of_wycheproof(case, private, public, shared):
    assert shared_secret(unhex(private), unhex(public)) == unhex(shared)


@pytest.mark.parametrize("public", LOW_ORDER)
def test_keys_of_low_order_of_wycheproof_are_refused_when_posted_and_when_used(public):
    low = unhex(public)
    with pytest.raises(AuthenticationError):
        shared_secret(bytes(range(32)), low)
    secret, key = map(unhex, ED25519_VECTORS["TEST 1"][:2])
    signer = Identity.restore(secret, Certificate(bytes(16), key, 0, bytes(64)))
    blank = PrekeyBundle(bytes(16), BASE_POINT, low, bytes(32), b"")
    signature = signer.sign(blank.statement(signer.id))
    with pytest.raises(AuthenticationError, match="low order"):
        posted = PrekeyBundle.decode(blank.encode() + signature)
        posted.verify(signer.certificate, TrustStore([key]))


@pytest.mark.parametrize(("case", "message", "signature"), ED25519_FORGERIES)
def test_forgeries_of_wycheproof_are_refused(case, message, signature):
    key = unhex(ED25519_KEY)
    genuine = next(unhex(sent)[:64] for number, _, sent in ED25519_FORGERIES if number == 33)
    assert verify_signature(key, genuine, b"Test")
    assert not verify_signature(key, unhex(signature), unhex(message))
