"""Keys of layers: an integer is a seed, and every use of a key folds in what it is for."""

from __future__ import annotations

from fedcore.tensor.random import Key
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["fold", "init_key"]


def init_key(key: Key | int) -> Key:
    """The key from which a layer draws its parameters; an integer is a seed.

    Raises: ArgumentError if the integer is no seed.

    >>> init_key(3)
    Key(seed=3, purpose='init', round=0, client=0, path=())
    """
    return key if isinstance(key, Key) else Key(key, "init")


def fold(key: Key | Tensor, path: str, count: int) -> Key | Tensor:
    """The key of draw number `count` of the layer at `path`."""
    if isinstance(key, Key):
        return key.fold(path).fold(count)
    return operations.fold_words(key, path=(path, count))
