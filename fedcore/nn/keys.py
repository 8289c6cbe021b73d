"""The keys from which layers draw their parameters."""

from __future__ import annotations

from fedcore.tensor.random import Key

__all__ = ["init_key"]


def init_key(key: Key | int) -> Key:
    """The key from which a layer draws its parameters; an integer is a seed.

    Raises: ArgumentError if the integer is no seed.

    >>> init_key(3)
    Key(seed=3, purpose='init', round=0, client=0, path=())
    """
    return key if isinstance(key, Key) else Key(key, "init")
