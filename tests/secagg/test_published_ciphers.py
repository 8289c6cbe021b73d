"""The cipher of the shares gives what others have published for it, and opens nothing else.

Sources: the GCM specification (McGrew and Viega) and NIST's CAVS 14.0 files for SP 800-38D; Project
Wycheproof, testvectors_v1, by the numbers of its test cases.
"""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# Test cases 1 to 4 of the GCM specification; then CAVS 14.0 (AES-128, IV 96, tag 128), the first
# of each group: key, IV, plaintext, AAD, ciphertext and tag
GCM_VECTORS = {
    "case 1": (
        "00000000000000000000000000000000",
        "000000000000000000000000",
        "",
        "",
        "58e2fccefa7e3061367f1d57a4e7455a",
    ),
    "case 2": (
        "00000000000000000000000000000000",
        "000000000000000000000000",
        "00000000000000000000000000000000",
        "",
        "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf",
    ),
    "case 3": (
        "feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf"
        "0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
        "",
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f"
        "6a5aac84aa051ba30b396a0aac973d58e091473f59854d5c2af327cd64a62cf35abd2ba6fab4",
    ),
    "case 4": (
        "feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf"
        "0e2449a6b525b16aedf5aa0de657ba637b39",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f"
        "6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
    ),
    "PT 128, AAD 128": (
        "c939cc13397c1d37de6ae0e1cb7c423c",
        "b3d8cc017cbb89b39e0f67e2",
        "c3b3c41f113a31b73d9a5cd432103069",
        "24825602bd12a984e0092d3e448eda5f",
        "93fe7d9e9bfd10348a5606e5cafa73540032a1dc85f1c9786925a2e71d8272dd",
    ),
    "PT 256, AAD 160": (
        "fedc7155192d00b23cdd98750db9ebba",
        "a76b74f55c1a1756a08338b1",
        "6831435b8857daf1c513b148820d13b5a72cc490bda79a98a6f520d8763c39d1",
        "2ad206c4176e7e552aa08836886816fafa77e759",
        "15823805da89a1923bfc1d6f87784d56bad1128b4dffdbdeefbb2fa562c35e68d23dc455ced49887c717"
        "e8eabeec2984",
    ),
    "PT 408, AAD 384": (
        "3c50622868f450aa0928990c15e1eb36",
        "811d5290768d57e7d87bb6c7",
        "edd0a8f82833e919740fe2bf9edecf4ac86c72dc89490cef7b6983aaaf99fc856c5cc87d63f98a7c861b"
        "f3271fea6da86a15ab",
        "dae2c7e0a3d3fd2bc04eca19b15178a003b5cf84890c28c2a615f20f8adb427f70698c12b2ef87780c11"
        "93fbb8cd1674",
        "a51425b0608d3b4b46d4ec05ca1ddaf02bdd2089ae0554ecfb2a1c84c63d82dc71ddb9ab1b1f0b49de2a"
        "d27c2b5173e7000aa6bd9b5efca48008cd973a4f7d2c723844",
    ),
}

# Wycheproof aes_gcm, cases 41 to 67 change the tag of one ciphertext
GCM_MODIFIED = {
    "key": "000102030405060708090a0b0c0d0e0f",
    "iv": "505152535455565758595a5b",
    "ct": "eb156d081ed6b6b55f4612f021d87b39",
    "tag": "d8847dbc326a06e988c77ad3863e6083",
    "msg": "202122232425262728292a2b2c2d2e2f",
}
GCM_TAGS = [
    "d9847dbc326a06e988c77ad3863e6083",  # 41: Flipped bit 0 in tag
    "58847dbc326a06e988c77ad3863e6083",  # 43: Flipped bit 7 in tag
    "d8847dbc336a06e988c77ad3863e6083",  # 46: Flipped bit 32 in tag
    "d8847dbc326a06e989c77ad3863e6083",  # 49: Flipped bit 64 in tag
    "d8847dbc326a06e988c77ad3873e6083",  # 53: Flipped bit 96 in tag
    "d8847dbc326a06e988c77ad3863e6003",  # 59: Flipped bit 127 in tag
    "d9847dbc326a06e989c77ad3863e6083",  # 60: Flipped bits 0 and 64 in tag
    "277b8243cd95f9167738852c79c19f7c",  # 63: all bits of tag flipped
    "00000000000000000000000000000000",  # 64: Tag changed to all zero
    "ffffffffffffffffffffffffffffffff",  # 65: tag changed to all 1
    "5804fd3cb2ea86690847fa5306bee003",  # 66: msbs changed in tag
    "d9857cbd336b07e889c67bd2873f6182",  # 67: lsbs changed in tag
]


@pytest.mark.parametrize("name", GCM_VECTORS)
def test_aes_gcm_of_its_specification_and_of_nist(name):
    key, nonce, plaintext, aad, sealed = map(bytes.fromhex, GCM_VECTORS[name])
    assert AESGCM(key).encrypt(nonce, plaintext, aad) == sealed
    assert AESGCM(key).decrypt(nonce, sealed, aad) == plaintext


@pytest.mark.parametrize("tag", GCM_TAGS)
def test_modified_tags_of_wycheproof_are_refused(tag):
    key, nonce, sealed, right, plaintext = map(bytes.fromhex, GCM_MODIFIED.values())
    assert AESGCM(key).decrypt(nonce, sealed + right, None) == plaintext
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(nonce, sealed + bytes.fromhex(tag), None)
