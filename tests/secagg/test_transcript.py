"""Digests bind everything they are made of, and sets have one encoding each."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, MessageError
from fedcore.secagg.transcript import (
    MerkleTree,
    bitmap_of,
    context_digest,
    digest,
    frame,
    leaf_digest,
    members_of,
    path_depth,
    root_of_path,
    roster_root,
    session_id,
    statement,
    survivor_digest,
    u32,
    u64,
)

TAGS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=6)
# Bytes of few values and lengths, so that concatenations often coincide.
PARTS = st.lists(st.binary(max_size=3) | st.sampled_from([b"", b"\0", bytes(8)]), max_size=4)
DIGESTS = [hashlib.sha256(bytes([i])).digest() for i in range(70)]


def sha(*parts: bytes) -> bytes:
    """SHA-256 of parts, each behind its length: the formula of the protocol, written by hand."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


@given(TAGS, PARTS, TAGS, PARTS)
def test_different_tags_or_parts_give_different_frames(
    tag: str, parts: list[bytes], other_tag: str, other_parts: list[bytes]
) -> None:
    same = (tag, parts) == (other_tag, other_parts)
    assert (frame(tag, *parts) == frame(other_tag, *other_parts)) == same


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=4), st.data())
def test_a_byte_that_moves_between_parts_changes_the_frame(
    parts: list[bytes], data: st.DataObject
) -> None:
    text = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=4).map(sorted))
    ends = [0, *cuts, len(text)]
    others = [text[a:b] for a, b in itertools.pairwise(ends)]
    assert (frame("t", *parts) == frame("t", *others)) == (parts == others)


@given(TAGS, PARTS)
def test_a_frame_reads_back_as_its_tag_and_parts(tag: str, parts: list[bytes]) -> None:
    rest, read = frame(tag, *parts), []
    while rest:
        end = 8 + int.from_bytes(rest[:8], "little")
        read.append(rest[8:end])
        rest = rest[end:]
    assert read == [b"fedcore/secagg/v1/" + tag.encode(), *parts]


def test_a_frame_is_the_bytes_of_the_specification() -> None:
    expected = "1300000000000000" + b"fedcore/secagg/v1/T".hex() + "0200000000000000" + "6162"
    assert frame("T", b"ab").hex() == expected
    assert frame("T").hex() == "1300000000000000" + b"fedcore/secagg/v1/T".hex()


@given(TAGS, PARTS)
def test_a_digest_is_the_sha256_of_the_frame(tag: str, parts: list[bytes]) -> None:
    assert digest(tag, *parts) == sha(b"fedcore/secagg/v1/" + tag.encode(), *parts)


@given(TAGS, PARTS)
def test_a_statement_is_a_digest_under_sign(tag: str, parts: list[bytes]) -> None:
    expected = sha(b"fedcore/secagg/v1/sign/" + tag.encode(), *parts)
    assert statement(tag, *parts) == expected != digest(tag, *parts)


def test_the_named_digests_are_those_of_the_specification() -> None:
    a, b, c, d, e = DIGESTS[:5]
    task, nonce = b"task", bytes(range(32))
    prefix = b"fedcore/secagg/v1/"
    eight, four = (7).to_bytes(8, "little"), (3).to_bytes(4, "little")
    sid = session_id(task=task, round=7, attempt=3, nonce=nonce, config_digest=a)
    assert sid == sha(prefix + b"sid", task, eight, four, nonce, a)
    certificates = bytes(range(240)) + bytes(120)
    root = roster_root(certificates=certificates, merkle_root=b, pulse=b"", n=3)
    assert root == sha(prefix + b"root", four, certificates, b, b"")
    assert roster_root(certificates=certificates, merkle_root=b, pulse=c, n=3) != root
    assert leaf_digest(3, b"id", b"bundle") == sha(prefix + b"leaf", four, b"id", b"bundle")
    context = context_digest(sid=a, root=b, bitmap=b"\x05", model_digest=d, config_digest=e)
    assert context == sha(prefix + b"ctx", a, b, b"\x05", d, e)
    assert survivor_digest(context, b"\x01") == sha(prefix + b"T", context, b"\x01")


def test_numbers_are_little_endian_of_fixed_width() -> None:
    assert (u32(258), u64(258)) == (b"\2\1\0\0", b"\2\1" + bytes(6))
    assert u64(2**64 - 1) == b"\xff" * 8


@pytest.mark.parametrize(("write", "bits"), [(u32, 32), (u64, 64)])
def test_a_number_that_does_not_fit_is_refused(write: object, bits: int) -> None:
    assert callable(write)
    for value in (-1, 2**bits):
        with pytest.raises(ArgumentError, match=f"{bits // 8} bytes"):
            write(value)


def plain_root(leaves: list[bytes]) -> bytes:
    """The root of the tree by recursion."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    filled = leaves + [digest("empty")] * (2 * half - len(leaves))
    return digest("node", plain_root(filled[:half]), plain_root(filled[half:]))


def test_every_leaf_is_proved_by_its_path() -> None:
    for n in range(1, 71):
        tree = MerkleTree(DIGESTS[:n])
        assert tree.root == plain_root(DIGESTS[:n]), n
        for index in range(n):
            path = tree.path(index)
            assert len(path) == 32 * path_depth(n), (n, index)
            assert root_of_path(DIGESTS[index], index, path) == tree.root, (n, index)


@pytest.mark.parametrize(("n", "depth"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1024, 10)])
def test_the_depth_is_the_rounded_up_logarithm(n: int, depth: int) -> None:
    assert path_depth(n) == depth


@given(st.integers(2, 70), st.data())
def test_a_changed_leaf_sibling_or_index_changes_the_root(n: int, data: st.DataObject) -> None:
    tree = MerkleTree(DIGESTS[:n])
    index = data.draw(st.integers(0, n - 1))
    path = tree.path(index)
    other = data.draw(st.integers(0, 2 ** path_depth(n) - 1).filter(lambda i: i != index))
    bit = data.draw(st.integers(0, 8 * len(path) - 1))
    changed = (int.from_bytes(path, "little") ^ 1 << bit).to_bytes(len(path), "little")
    leaf = bytes([DIGESTS[index][0] ^ 1]) + DIGESTS[index][1:]
    assert root_of_path(leaf, index, path) != tree.root
    assert root_of_path(DIGESTS[index], index, changed) != tree.root
    assert root_of_path(DIGESTS[index], other, path) != tree.root


def test_an_inner_node_is_no_leaf() -> None:
    a, b = leaf_digest(0, b"a", b""), leaf_digest(1, b"b", b"")
    assert MerkleTree([a, b]).root not in (leaf_digest(0, a, b), digest("leaf", a, b))


@pytest.mark.parametrize("leaves", [[], [bytes(31)], [bytes(32), bytes(33)]])
def test_a_tree_without_whole_leaves_is_refused(leaves: list[bytes]) -> None:
    with pytest.raises(ArgumentError, match="leaves of 32 bytes"):
        MerkleTree(leaves)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_leaf_that_fills_up_the_tree_has_no_path(index: int) -> None:
    with pytest.raises(ArgumentError, match=f"no leaf {index}"):
        MerkleTree(DIGESTS[:3]).path(index)


@pytest.mark.parametrize(("index", "size"), [(0, 31), (0, 33), (1, 0), (4, 64), (-1, 64)])
def test_a_path_that_does_not_fit_its_leaf_is_refused(index: int, size: int) -> None:
    with pytest.raises(MessageError, match="Merkle path"):
        root_of_path(DIGESTS[0], index, bytes(size))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_set_survives_its_bitmap(flags: list[bool]) -> None:
    bitmap = bitmap_of(np.array(flags))
    assert len(bitmap) == -(-len(flags) // 8)
    assert int.from_bytes(bitmap, "little") == sum(1 << i for i, flag in enumerate(flags) if flag)
    members = members_of(bitmap, len(flags))
    assert members.dtype == np.bool_ and members.tolist() == flags


@given(st.integers(1, 40), st.binary(max_size=6))
def test_a_bitmap_is_read_only_in_its_one_form(n: int, bitmap: bytes) -> None:
    if len(bitmap) == -(-n // 8) and int.from_bytes(bitmap, "little") < 2**n:
        assert bitmap_of(members_of(bitmap, n)) == bitmap
    else:
        with pytest.raises(MessageError, match="canonical"):
            members_of(bitmap, n)


@pytest.mark.parametrize("padding", range(3, 8))
def test_each_bit_beyond_the_roster_is_refused(padding: int) -> None:
    with pytest.raises(MessageError, match="canonical"):
        members_of(bytes([0xFF, 1 << padding]), 11)
