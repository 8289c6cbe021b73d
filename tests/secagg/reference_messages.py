"""The reference's words and messages: sections 6 and 7 of the protocol, in plain integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.secagg.reference import WORD, Block, H, bitmap, u8, u16, u32, u64

# 6. Packing


def slots(block: Block) -> int:
    return 64 // block.bits


def words_in(block: Block) -> int:
    return -(-block.length // slots(block))


def wire_width(block: Block) -> int:
    """Bytes of a word on the wire."""
    return -(-slots(block) * block.bits // 8)


def pack(block: Block, x: Sequence[int]) -> list[int]:
    W, L = words_in(block), slots(block)
    padded = list(x) + [0] * (W * L - block.length)
    return [
        sum(padded[slot * W + w] * 2 ** (block.bits * slot) for slot in range(L)) % WORD
        for w in range(W)
    ]


def unpack(block: Block, words: Sequence[int]) -> list[int]:
    W, L = words_in(block), slots(block)
    x = [0] * (W * L)
    for w, s in enumerate(words):
        for slot in range(L):
            v = s % 2**block.bits
            if v >= 2 ** (block.bits - 1):
                v -= 2**block.bits
            x[slot * W + w] = v
            s = (s - v) >> block.bits
    return x[: block.length]


def pack_all(blocks: Sequence[Block], vector: Sequence[Sequence[int]]) -> list[int]:
    return [word for block, x in zip(blocks, vector, strict=True) for word in pack(block, x)]


def unpack_all(blocks: Sequence[Block], words: Sequence[int]) -> list[list[int]]:
    vector, start = [], 0
    for block in blocks:
        vector.append(unpack(block, words[start : start + words_in(block)]))
        start += words_in(block)
    return vector


def wire_bytes(blocks: Sequence[Block], words: Sequence[int]) -> bytes:
    widths = [wire_width(block) for block in blocks for _ in range(words_in(block))]
    return b"".join(u64(word)[:width] for word, width in zip(words, widths, strict=True))


def chunks(blocks: Sequence[Block], wire: bytes, words: int) -> list[tuple[int, bytes]]:
    """Offset and bytes of each chunk: at most `words` words, which belong to one block."""
    cut, offset = [], 0
    for block in blocks:
        end = offset + words_in(block) * wire_width(block)
        while offset < end:
            data = wire[offset : min(end, offset + words * wire_width(block))]
            cut.append((offset, data))
            offset += len(data)
    return cut


def wire_words(blocks: Sequence[Block], wire: bytes) -> list[int]:
    words, start = [], 0
    for block in blocks:
        for _ in range(words_in(block)):
            words.append(int.from_bytes(wire[start : start + wire_width(block)], "little"))
            start += wire_width(block)
    return words


# 7. Messages


def message(type: int, *fields: bytes) -> bytes:
    return u8(1) + u8(type) + b"".join(fields)


def sized(field: bytes) -> bytes:
    return u16(len(field)) + field


def advertise(certificate: bytes, bundle: bytes) -> bytes:
    return message(1, certificate, bundle)


def roster(
    sid: bytes,
    round: int,
    attempt: int,
    nonce: bytes,
    config: bytes,
    pulse: bytes,
    index: int,
    pid: bytes,
    certificates: Sequence[bytes],
    own_path: Sequence[bytes],
    others: Sequence[tuple[bytes, Sequence[bytes]]],
) -> bytes:
    """`others`: the bundle and the path of each neighbour."""
    session = sid, u64(round), u32(attempt), nonce, sized(config), sized(pulse)
    place = u32(len(certificates)), u32(index), pid, *certificates, *own_path, u16(len(others))
    return message(2, *session, *place, *(part for b, path in others for part in (b, *path)))


def shares_statement(
    sid: bytes, root: bytes, ciphertexts: Sequence[bytes], hashes: Sequence[bytes]
) -> tuple[bytes, bytes, bytes]:
    return sid, root, H("shares", b"".join(ciphertexts), b"".join(hashes))


def shares_message(
    sid: bytes, ciphertexts: Sequence[bytes], hashes: Sequence[bytes], signature: bytes
) -> bytes:
    return message(3, sid, u16(len(ciphertexts)), *ciphertexts, *hashes, signature)


def mask_request(
    sid: bytes, model_digest: bytes, u1: bytes, inbox: Sequence[tuple[bytes, bytes]]
) -> bytes:
    """`inbox`: ciphertext and share hash of each neighbour in U1."""
    parts = (part for pair in inbox for part in pair)
    return message(4, sid, model_digest, sized(u1), u16(len(inbox)), *parts)


def complaint(sid: bytes, accused: int, reason: int, signature: bytes) -> bytes:
    return message(5, sid, u32(accused), u8(reason), signature)


def upload_header(sid: bytes, h_ctx: bytes, length: int, signature: bytes) -> bytes:
    return message(6, sid, h_ctx, u64(length), signature)


def upload_chunk(sid: bytes, offset: int, data: bytes) -> bytes:
    return message(7, sid, u64(offset), u32(len(data)), data)


def upload_trailer(sid: bytes, digest: bytes) -> bytes:
    return message(8, sid, digest)


def survivors(sid: bytes, u: bytes, header_signatures: Sequence[bytes]) -> bytes:
    return message(9, sid, sized(u), u16(len(header_signatures)), *header_signatures)


def confirmation(sid: bytes, t: bytes, signature: bytes) -> bytes:
    return message(10, sid, t, signature)


def unmask_request(sid: bytes, u: bytes, quorum: Sequence[tuple[int, bytes]]) -> bytes:
    """`quorum`: signers and their signatures of T; empty in `semi_honest`."""
    parts = (part for signer, signature in quorum for part in (u16(signer), signature))
    return message(11, sid, sized(u), u16(len(quorum)), *parts)


def unmask_answer(sid: bytes, b: bytes, revealed: Sequence[tuple[bytes, bytes] | None]) -> bytes:
    """`revealed`: half and hash of the other half for each member of N(i) ∩ U1, None if absent.

    The count is taken to be |N(i) ∩ U1|: only then does it fix the length of the bitmap.
    """
    present = bitmap([m for m, pair in enumerate(revealed) if pair], len(revealed))
    parts = (part for pair in revealed if pair for part in pair)
    return message(12, sid, b, u16(len(revealed)), present, *parts)


def abort(sid: bytes, reason: int) -> bytes:
    return message(13, sid, u16(reason))


def context(sid: bytes, root: bytes, u1: bytes, model_digest: bytes, config: bytes) -> bytes:
    """H_ctx; `config` is the config digest."""
    return H("ctx", sid, root, u1, model_digest, config)


def decision(h_ctx: bytes, u: bytes) -> bytes:
    """T."""
    return H("T", h_ctx, u)


def combine(sign: int, words: Sequence[int], stream: Sequence[int]) -> list[int]:
    return [(a + sign * b) % WORD for a, b in zip(words, stream, strict=True)]


def masked(
    i: int, packed: Sequence[int], self_stream: Sequence[int], pairs: Mapping[int, Sequence[int]]
) -> list[int]:
    """y_i, from the pair streams with each j in N(i) ∩ U1."""
    y = combine(1, packed, self_stream)
    for j, stream in pairs.items():
        y = combine(1 if i < j else -1, y, stream)
    return y
