"""Random draws as primitives whose key is an argument: a replay with another key draws anew.

A key is a `Key` or its words, a tensor (2,) of uint64. Inside `vmap`, words that are mapped give
each lane a stream of its own; a key that is not mapped draws the same numbers in every lane. Lanes
are drawn one after another from their own generators, so that a draw does not depend on the other
lanes. On a GPU the numbers are drawn on the host and copied, so that both give the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedcore.errors import ArgumentError, DtypeError, ShapeError, TraceError, user_line
from fedcore.tensor.backend import current_backend, to_host
from fedcore.tensor.ops.arguments import element_type, lengths, operand, real, whole
from fedcore.tensor.ops.elementwise import multiply, require_floating
from fedcore.tensor.primitive import Core, Shape, primitive
from fedcore.tensor.random import Key, fold_words as folded, generator_from_words
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, interpreter

__all__ = ["bernoulli", "dropout", "fold_words", "normal", "permutation", "uniform"]

Fill = Callable[[np.random.Generator, Any], None]


def _drawn(xp: Any, words: Any, out: Any, shape: Shape, dtype: Any, fill: Fill) -> Any:
    """An array of lanes + `shape`, each lane filled, as one row, from the stream of its words."""
    keys = to_host(words).reshape(-1, 2)
    size = math.prod(shape)
    direct = xp is np and out is not None and out.flags.c_contiguous
    rows = out.reshape(len(keys), size) if direct else np.empty((len(keys), size), dtype=dtype)
    for key, row in zip(keys, rows, strict=True):
        fill(generator_from_words(key), row)
    if direct:
        return out
    drawn = xp.asarray(rows.reshape(words.shape[:-1] + shape))
    if out is None:
        return drawn
    xp.copyto(out, drawn)
    return out


def _given_shape(words: Shape, *, shape: Shape, **_: Any) -> Shape:
    return shape


def _coins(generator: np.random.Generator, count: int, keep: float) -> Any:
    """So many booleans that are true with probability `keep`, to within 2^-32.

    Comparing raw words took 1.4 ms for a million, comparing float32 draws 2.1.
    """
    raw = generator.bit_generator.random_raw((count + 1) // 2)
    halves = np.asarray(raw, dtype="<u8").view("<u4")[:count]  # the low half first on any machine
    return halves < np.uint64(round(keep * 2**32))


@primitive(batch=Core(1), shape=_given_shape, public=False, name="uniform")
def uniform_primitive(xp: Any, words: Any, *, shape: Shape, dtype: Any, out: Any = None) -> Any:
    """Numbers in [0, 1)."""

    def fill(generator: np.random.Generator, row: Any) -> None:
        generator.random(dtype=dtype, out=row)

    return _drawn(xp, words, out, shape, dtype, fill)


@primitive(batch=Core(1), shape=_given_shape, public=False, name="normal")
def normal_primitive(xp: Any, words: Any, *, shape: Shape, dtype: Any, out: Any = None) -> Any:
    """Standard normal numbers."""

    def fill(generator: np.random.Generator, row: Any) -> None:
        generator.standard_normal(dtype=dtype, out=row)

    return _drawn(xp, words, out, shape, dtype, fill)


@primitive(batch=Core(1), shape=_given_shape, public=False, name="bernoulli")
def bernoulli_primitive(xp: Any, words: Any, *, shape: Shape, keep: float, out: Any = None) -> Any:
    """Booleans, true with probability `keep`."""

    def fill(generator: np.random.Generator, row: Any) -> None:
        row[...] = _coins(generator, row.size, keep)

    return _drawn(xp, words, out, shape, np.bool_, fill)


@primitive(batch=Core(1), shape=_given_shape, public=False)
def dropout_mask(
    xp: Any, words: Any, *, shape: Shape, keep: float, dtype: Any, out: Any = None
) -> Any:
    """1 / keep with probability `keep`, else 0."""
    scale = dtype.type(1.0 / keep)

    def fill(generator: np.random.Generator, row: Any) -> None:
        np.multiply(_coins(generator, row.size, keep), scale, out=row)

    return _drawn(xp, words, out, shape, dtype, fill)


@primitive(batch=Core(1), shape=lambda words, *, count: (count,), public=False, name="permutation")
def permutation_primitive(xp: Any, words: Any, *, count: int, out: Any = None) -> Any:
    """The numbers below `count` in random order."""

    def fill(generator: np.random.Generator, row: Any) -> None:
        row[...] = generator.permutation(count)

    return _drawn(xp, words, out, (count,), np.int64, fill)


@primitive(batch=Core(1), shape=lambda words, *, path: words, public=False, name="fold_words")
def fold_primitive(xp: Any, words: Any, *, path: tuple[int | str, ...], out: Any = None) -> Any:
    """The words of the part `path` of each lane's key."""
    keys = to_host(words).reshape(-1, 2)
    parts = np.stack([folded(key, path) for key in keys]).reshape(words.shape)
    if out is None:
        return xp.asarray(parts)
    xp.copyto(out, xp.asarray(parts))
    return out


# ---- what users call


def _words(name: str, key: Any, like: Tensor | None = None) -> Tensor:
    """The words of a key, whose place decides that of the draw: beside `like`, if it is a `Key`."""
    if isinstance(key, Key):
        if interpreter.recorder is not None:
            raise TraceError(
                f"{name}: a Key is a constant of the program that is being recorded",
                where=user_line(),
                why="every replay would draw the same numbers",
                fix="make key.words() an argument of the compiled function",
            )
        backend = current_backend() if like is None else like.backend
        return Tensor(backend.asarray(key.words()))
    if isinstance(key, int | np.integer):
        raise ArgumentError(
            f"{name}: the key is {key!r:.80}",
            where=user_line(),
            why="an integer is no key: a key names one stream, by a seed and a purpose",
            fix='pass a Key, such as fedcore.Key(0, "noise"), whose seed the integer may be',
        )
    words = operand(name, key)
    if words.shape != (2,):
        raise ShapeError(
            f"{name}: the key has shape {words.shape}",
            where=user_line(),
            why="a key is two words; keys of several lanes are mapped by vmap",
            fix="pass a Key, or key.words()",
        )
    if words.dtype != np.uint64:
        raise DtypeError(
            f"{name}: the key is of {words.dtype}",
            where=user_line(),
            why="a key is two words of uint64",
            fix="pass a Key, or key.words() unchanged",
        )
    return words


def _floating(name: str, dtype: Any) -> np.dtype[Any]:
    kind = element_type(name, dtype)
    if kind not in (np.float32, np.float64):
        raise DtypeError(
            f"{name}: dtype is {kind}",
            where=user_line(),
            why="the draws are real numbers",
            fix="pass 'float32' or 'float64'",
        )
    return kind


def uniform(
    key: Any,
    shape: int | Sequence[int] = (),
    *,
    low: float = 0.0,
    high: float = 1.0,
    dtype: Any = np.float32,
) -> Tensor:
    """Numbers drawn uniformly from [low, high): a key -> `shape`.

    In `vmap` a key that is not mapped draws the same numbers in every lane.
    """
    words = _words("uniform", key)
    low, high = real("uniform", "low", low), real("uniform", "high", high)
    drawn: Tensor = uniform_primitive(
        words, shape=lengths("uniform", shape), dtype=_floating("uniform", dtype)
    )
    return drawn if (low, high) == (0.0, 1.0) else drawn * (high - low) + low


def normal(key: Any, shape: int | Sequence[int] = (), *, dtype: Any = np.float32) -> Tensor:
    """Numbers drawn from the standard normal distribution: a key -> `shape`.

    In `vmap` a key that is not mapped draws the same numbers in every lane. It is for simulation
    and initial values, never for the noise of differential privacy.
    """
    return normal_primitive(
        _words("normal", key), shape=lengths("normal", shape), dtype=_floating("normal", dtype)
    )


def bernoulli(key: Any, shape: int | Sequence[int] = (), *, keep: float) -> Tensor:
    """Booleans that are true with probability `keep`: a key -> `shape`.

    In `vmap` a key that is not mapped draws the same in every lane.
    Raises: ArgumentError if `keep` is no probability.
    """
    words, sizes = _words("bernoulli", key), lengths("bernoulli", shape)
    keep = real("bernoulli", "keep", keep, low=0.0, high=1.0)
    return bernoulli_primitive(words, shape=sizes, keep=keep)


def permutation(key: Any, count: int) -> Tensor:
    """The whole numbers below `count` in random order: a key -> (count,) int64.

    In `vmap` a key that is not mapped gives every lane the same order.
    Raises: ArgumentError if `count` is negative.
    """
    words = _words("permutation", key)
    return permutation_primitive(words, count=whole("permutation", "count", count, least=0))


def dropout(x: Any, key: Any, *, rate: float) -> Tensor:
    """`x` with each element zeroed with probability `rate` and the others divided by 1 - rate.

    In `vmap` a key that is not mapped zeroes the same elements in every lane.
    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    2014; scaling in training ("inverted") as in section 10.
    Raises: ArgumentError if `rate` is not in [0, 1), DtypeError if `x` is not floating.
    """
    x = operand("dropout", x)
    rate = real("dropout", "rate", rate)
    if not 0.0 <= rate < 1.0:
        raise ArgumentError(
            f"dropout: rate is {rate}",
            where=user_line(),
            why="it is the probability of a zero, and something must be left",
            fix="pass a number from 0 to below 1",
        )
    require_floating("dropout", x)
    words = _words("dropout", key, x)
    keep = 1.0 - rate
    return multiply(x, dropout_mask(words, shape=x.shape, keep=keep, dtype=x.dtype))


def fold_words(key: Any, *, path: tuple[int | str, ...]) -> Tensor:
    """The words (2,) of a key for one part of the work of `key`: a layer by name, a draw by number.

    As `Key.fold`, for words that are an argument of a program or differ from lane to lane.
    Raises: ArgumentError if a part is neither a short text nor an integer in [0, 2**64).
    """
    words = _words("fold_words", key)
    if not isinstance(path, tuple | list):
        raise ArgumentError(
            f"fold_words: path is {path!r:.80}",
            where=user_line(),
            why="it is a sequence of texts and whole numbers",
            fix='pass a tuple such as ("layer", 2)',
        )
    return fold_primitive(words, path=tuple(path))


for _operation in (uniform, normal, bernoulli, permutation, dropout, fold_words):
    operations.register(_operation.__name__, _operation)
