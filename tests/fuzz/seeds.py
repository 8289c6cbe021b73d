"""Bytes to begin with, in files: taken whole by their target, or kept for what they once found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CORPUS", "mutations", "seeds_of"]

CORPUS = Path(__file__).with_name("corpus")


def seeds_of(name: str) -> list[bytes]:
    """What the target of a format begins with, in the order of the files' names."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def mutations(seeds: list[bytes], count: int, *, draw: random.Random) -> Iterator[bytes]:
    """Seeds, each with a few bytes flipped, taken out, repeated, or put in from another one."""
    for _ in range(count):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 1, 2, 4))):
            at = draw.randrange(len(data) + 1)
            end = min(len(data), at + draw.choice((1, 1, 2, 8, 64)))
            match draw.randrange(5):
                case 0:
                    data[at:end] = bytes(draw.randrange(256) for _ in range(end - at))
                case 1:
                    del data[at:end]
                case 2:
                    data[at:at] = data[at:end] * draw.choice((1, 2, 50))
                case 3:
                    other = draw.choice(seeds)
                    start = draw.randrange(len(other) + 1)
                    data[at:end] = other[start : start + 64]
                case _:
                    data[at:end] = draw.choice(
                        (b"\x00", b"\xff" * 9, b"9" * 30, b"-1", b"[{", b'"')
                    )
        yield bytes(data)
