"""Secrets come from the operating system's generator; a test may seed them, nothing else may."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Protocol, final

from fedcore.errors import EntropyError

__all__ = ["Entropy", "SeededEntropy", "SystemEntropy", "require_entropy"]


class Entropy(Protocol):
    """A source of secret bytes."""

    def token(self, size: int) -> bytes:
        """`size` bytes that nobody can predict."""
        ...


@final
class SystemEntropy:
    """The operating system's generator: the only source outside tests.

    >>> len(SystemEntropy().token(32))
    32
    """

    __slots__ = ()

    def token(self, size: int) -> bytes:
        return os.urandom(size)


@final
class SeededEntropy:
    """The same bytes from the same seed, so that a test can freeze what a protocol sends.

    SHA-256 of seed and counter. Raises: EntropyError unless pytest runs in this process, which its
    rewriting of assertions tells: to have imported pytest is not enough.
    """

    def __init__(self, seed: bytes) -> None:
        # pytest keeps this hook in place for as long as it collects and runs, and says nowhere
        # else that it does.
        if all(type(finder).__module__ != "_pytest.assertion.rewrite" for finder in sys.meta_path):
            raise EntropyError(
                "a seeded source of secrets was made outside a test",
                why="who knows the seed knows every key and mask",
                fix="use SystemEntropy()",
            )
        self._seed, self._counter = seed, 0

    def token(self, size: int) -> bytes:
        blocks = []
        for _ in range(-(-size // 32)):
            blocks.append(hashlib.sha256(self._seed + self._counter.to_bytes(8, "little")).digest())
            self._counter += 1
        return b"".join(blocks)[:size]


def require_entropy(source: Entropy) -> Entropy:
    """`source`, if it is one of the two above: a lookalike cannot be told from a weak generator.

    Raises: EntropyError.
    """
    if not (type(source) is SystemEntropy or type(source) is SeededEntropy):
        raise EntropyError(
            f"{type(source).__name__} is not a source of secrets",
            why="only the operating system's generator is known to be unpredictable",
            fix="pass SystemEntropy()",
        )
    return source
