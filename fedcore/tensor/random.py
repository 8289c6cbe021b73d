"""Random streams that depend on their key alone, so that results repeat in any order of work.

A draw depends on `(seed, purpose, round, client)` and on nothing else: not on how many clients run
together, in which chunk, thread or order, nor on who else was sampled. Each key is hashed to the
128-bit key of a Philox counter generator, so distinct keys give independent streams and no
generator is ever shared or reseeded.

These streams are for simulation, shuffling, initialisation and dropout. Privacy noise and masks
take their secrets from the operating system's generator and never from here.

Source: Philox4x64-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011);
BLAKE2b, RFC 7693.
"""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["Key", "fold_words", "generator_from_words", "stream"]

Words = NDArray[np.uint64]

_DOMAIN = b"fedcore.rng.v1"
_FOLD_DOMAIN = b"fedcore.fold.v1"
_PURPOSE_MAX_BYTES = 255


@dataclass(frozen=True, slots=True)
class Key:
    """The name of one random stream: hashable, comparable, and cheap to derive further keys from.

    `seed` is any integer in [0, 2**128), `round` and `client` are integers in [0, 2**64), and
    `purpose` is a text of at most 255 bytes in UTF-8. `path` holds what `fold` added.

    Raises: ArgumentError if a field is outside its range.

    >>> key = Key(7, "dropout", round=3, client=11)
    >>> key.generator().integers(100, size=3).tolist()
    [63, 92, 39]
    >>> key.fold("layer").fold(2) == Key(7, "dropout", 3, 11, ("layer", 2))
    True
    """

    seed: int
    purpose: str
    round: int = 0
    client: int = 0
    path: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        # object.__setattr__: a NumPy integer is stored as int, so equal keys have equal hashes.
        object.__setattr__(self, "seed", _integer(self.seed, "seed", bits=128))
        object.__setattr__(self, "round", _integer(self.round, "round", bits=64))
        object.__setattr__(self, "client", _integer(self.client, "client", bits=64))
        object.__setattr__(self, "path", tuple(_part(part) for part in self.path))
        _text(self.purpose, "purpose")

    def fold(self, part: int | str) -> Key:
        """A key for one part of this key's work: a layer by name, an epoch by number."""
        return Key(self.seed, self.purpose, self.round, self.client, (*self.path, part))

    def words(self) -> Words:
        """The 128-bit Philox key as an array, so that it can be an argument of a primitive.

        Shapes: () -> (2,), uint64. Lanes are made by stacking the words of several keys.
        """
        digest = hashlib.blake2b(self._encode(), digest_size=16, person=_DOMAIN).digest()
        return np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def generator(self) -> np.random.Generator:
        """A fresh generator at the start of this key's stream."""
        return generator_from_words(self.words())

    def _encode(self) -> bytes:
        """An injective encoding: fixed little-endian fields, and lengths before what varies."""
        fields = self.seed.to_bytes(16, "little")
        fields += self.round.to_bytes(8, "little") + self.client.to_bytes(8, "little")
        return b"".join([fields, _encode_text(self.purpose), *map(_encode_part, self.path)])


def stream(seed: int, purpose: str, *, round: int = 0, client: int = 0) -> np.random.Generator:
    """A fresh generator whose draws depend on these four values and on nothing else.

    Raises: ArgumentError if a value is outside the range that `Key` states.

    >>> a = stream(1, "shuffle", round=2, client=3)
    >>> b = stream(1, "shuffle", round=2, client=3)
    >>> bool((a.random(4) == b.random(4)).all())
    True
    """
    return Key(seed, purpose, round, client).generator()


def fold_words(words: NDArray[Any], path: tuple[int | str, ...]) -> Words:
    """The words of a key for the part `path` of the work of the key that has these `words`.

    It does for words what `Key.fold` does for keys, but gives another stream: words are hashes and
    do not tell which key they came from.

    Shapes: words (2,) uint64 -> (2,) uint64. Raises: ArgumentError if a part is outside its range.
    """
    encoded = words.astype("<u8").tobytes() + b"".join(_encode_part(_part(p)) for p in path)
    digest = hashlib.blake2b(encoded, digest_size=16, person=_FOLD_DOMAIN).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def generator_from_words(words: NDArray[Any]) -> np.random.Generator:
    """The generator of the key that `Key.words` gave.

    Shapes: words (2,) uint64. Raises: ShapeError, DtypeError if it is anything else.
    """
    if words.shape != (2,):
        raise ShapeError(
            f"generator_from_words: expected words of shape (2,), found {words.shape}",
            why="a Philox key is two 64-bit words",
            fix="pass Key.words(), and one row of it at a time",
        )
    if words.dtype != np.uint64:
        raise DtypeError(
            f"generator_from_words: expected uint64, found {words.dtype}",
            why="a Philox key is two 64-bit words",
            fix="pass Key.words() unchanged",
        )
    return np.random.Generator(np.random.Philox(key=words))


def _integer(value: object, name: str, *, bits: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < 1 << bits:
        raise ArgumentError(
            f"random key: {name} is {value!r}",
            why=f"{name} is one fixed field of {bits} bits of the stream's name",
            fix=f"pass an integer with 0 <= {name} < 2**{bits}",
        )
    return number


def _part(part: object) -> int | str:
    return _text(part, "fold") if isinstance(part, str) else _integer(part, "fold", bits=64)


def _text(value: object, name: str) -> str:
    if isinstance(value, str):
        try:
            if len(value.encode()) <= _PURPOSE_MAX_BYTES:
                return value
        except UnicodeEncodeError:
            pass  # a lone surrogate has no UTF-8 form and no place in a stream's name
    raise ArgumentError(
        f"random key: {name} is {value!r:.80}",
        why=f"{name} is one field of at most {_PURPOSE_MAX_BYTES} bytes of the stream's name",
        fix='pass a short text such as "shuffle"',
    )


def _encode_part(part: int | str) -> bytes:
    return b"s" + _encode_text(part) if isinstance(part, str) else b"i" + part.to_bytes(8, "little")


def _encode_text(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded
