"""How a message's fields lie in its bytes: one table per message checks, writes and reads it.

A table is a tuple of fields in the order of the wire. Reading goes over it twice. First every count
is held against its limit, and every length against the bytes that are there, without a copy; only
then are the fields copied out of the buffer. What else a field must be is checked when the message
is constructed, so that one made in process is as well-formed as one that came over the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import ClassVar, Self, TypeAlias

import numpy as np

from fedcore.errors import MessageError

__all__ = [
    "Bitmap",
    "Bytes",
    "Choice",
    "Count",
    "Entries",
    "Field",
    "Integer",
    "Limits",
    "Record",
    "Rows",
    "each",
    "refusal",
    "sized",
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a receiver takes at most: clients of a session, bytes of each field of free length."""

    clients: int = 1024
    config_bytes: int = 4096
    pulse_bytes: int = 1024
    chunk_bytes: int = 2**20

    @property
    def bitmap_bytes(self) -> int:
        """The bytes of a bitmap of all clients."""
        return -(-self.clients // 8)


class Values(SimpleNamespace):
    """What is known of one message so far: its fields, the counts between them, and its `name`."""

    name: str


Size: TypeAlias = int | Callable[[Values], int]


def each(count: str, size: int = 1) -> Size:
    """The size of as many entries of `size` bytes as the earlier field `count` says."""
    return lambda values: size * int(getattr(values, count))


def _evaluate(size: Size, values: Values) -> int:
    return size if isinstance(size, int) else size(values)


def refusal(
    where: str,
    problem: str,
    *,
    why: str = "a message has one form, and its counts fix its length",
    fix: str = "send it as the protocol's section on messages lays it out",
) -> MessageError:
    """The error for a message that breaks its layout; `where` is message and field."""
    return MessageError(f"{where}: {problem}", why=why, fix=fix)


def _expect_bytes(where: str, value: object, size: int) -> None:
    if not isinstance(value, bytes):
        raise refusal(where, f"{type(value).__name__} is not bytes")
    if len(value) != size:
        raise refusal(where, f"{len(value)} bytes, not {size}")


def _expect_unsigned(where: str, value: object, width: int) -> None:
    if type(value) is not int or not 0 <= value < 2 ** (8 * width):
        kind = "an integer out of range" if type(value) is int else type(value).__name__
        raise refusal(where, f"{kind}, not an unsigned integer of {width} bytes")


class Cursor:
    """A place in an encoded message; what it takes are views, never copies."""

    __slots__ = ("_at", "_view", "limits")

    def __init__(self, view: memoryview, limits: Limits) -> None:
        self._view, self._at, self.limits = view, 0, limits

    @property
    def rest(self) -> int:
        """The bytes that are left."""
        return len(self._view) - self._at

    def take(self, where: str, size: int) -> memoryview:
        """The next `size` bytes. Raises: MessageError where the message ends before."""
        if size > self.rest:
            raise refusal(where, f"{size} bytes are announced, {self.rest} are left")
        self._at += size
        return self._view[self._at - size : self._at]


@dataclass(frozen=True)
class Field:
    """A stretch of a message, found in `Values` under its name."""

    name: str

    def where(self, values: Values) -> str:
        """How errors name the field."""
        return f"{values.name}.{self.name}"

    def check(self, values: Values) -> None:
        """Hold type, length and range against the fields before. Raises: MessageError."""
        raise NotImplementedError

    def write(self, values: Values) -> bytes:
        """The bytes of checked values."""
        raise NotImplementedError

    def read(self, cursor: Cursor, values: Values) -> None:
        """Note an integer, or a view of anything else. Raises: MessageError."""
        raise NotImplementedError

    def finish(self, values: Values) -> None:
        """Copy what was noted as a view."""


@dataclass(frozen=True)
class Integer(Field):
    """An unsigned integer of `width` bytes.

    `below` names an earlier field that is larger, `limit` the one of `Limits` that bounds it.
    """

    width: int
    _: KW_ONLY
    least: int = 0
    below: str = ""
    limit: str = ""

    def check(self, values: Values) -> None:
        value = getattr(values, self.name)
        _expect_unsigned(self.where(values), value, self.width)
        if value < self.least:
            raise refusal(self.where(values), f"{value} is less than {self.least}")
        if self.below and value >= (bound := getattr(values, self.below)):
            raise refusal(self.where(values), f"{value} is not below {self.below} = {bound}")

    def write(self, values: Values) -> bytes:
        return int(getattr(values, self.name)).to_bytes(self.width, "little")

    def read(self, cursor: Cursor, values: Values) -> None:
        value = int.from_bytes(cursor.take(self.where(values), self.width), "little")
        if self.limit and value > (most := getattr(cursor.limits, self.limit)):
            raise refusal(
                self.where(values),
                f"{value} is more than the limit, {most}",
                why="a receiver sets memory aside for no more than it agreed to",
                fix=f"send less, or let the receiver raise Limits.{self.limit}",
            )
        setattr(values, self.name, value)


@dataclass(frozen=True)
class Count(Integer):
    """How many entries of `size` bytes the later field `of` holds; stands on the wire only."""

    of: str
    size: int = 1
    most: int = 2**32 - 1

    def check(self, values: Values) -> None:
        entries = getattr(values, self.of)
        if not isinstance(entries, bytes | tuple):
            problem = f"{type(entries).__name__} is neither bytes nor a tuple"
            raise refusal(f"{values.name}.{self.of}", problem)
        count, beyond = divmod(len(entries), self.size)
        most = min(self.most, 2 ** (8 * self.width) - 1)
        if beyond or count > most:
            problem = f"length {len(entries)}, not at most {most} times {self.size}"
            raise refusal(f"{values.name}.{self.of}", problem)
        setattr(values, self.name, count)


@dataclass(frozen=True)
class Choice(Field):
    """One of the values of the enumeration `kind`, an unsigned integer of `width` bytes."""

    width: int
    kind: type[IntEnum]

    def check(self, values: Values) -> None:
        value = getattr(values, self.name)
        if type(value) is not self.kind:
            raise refusal(self.where(values), f"{type(value).__name__} is not {self.kind.__name__}")

    def write(self, values: Values) -> bytes:
        return int(getattr(values, self.name)).to_bytes(self.width, "little")

    def read(self, cursor: Cursor, values: Values) -> None:
        value = int.from_bytes(cursor.take(self.where(values), self.width), "little")
        try:
            setattr(values, self.name, self.kind(value))
        except ValueError:
            raise refusal(self.where(values), f"{value} is no {self.kind.__name__}") from None


@dataclass(frozen=True)
class Bytes(Field):
    """Bytes, as many as a number or the earlier fields say."""

    size: Size

    def check(self, values: Values) -> None:
        size = _evaluate(self.size, values)
        _expect_bytes(self.where(values), getattr(values, self.name), size)

    def write(self, values: Values) -> bytes:
        return getattr(values, self.name)  # type: ignore[no-any-return]

    def read(self, cursor: Cursor, values: Values) -> None:
        size = _evaluate(self.size, values)
        setattr(values, self.name, cursor.take(self.where(values), size))

    def finish(self, values: Values) -> None:
        setattr(values, self.name, bytes(getattr(values, self.name)))


def sized(name: str, *, limit: str, width: int = 2, most: int = 2**32 - 1) -> tuple[Count, Bytes]:
    """Bytes of free length, after their length."""
    length = f"{name}_length"
    return Count(length, width, name, limit=limit, most=most), Bytes(name, each(length))


@dataclass(frozen=True)
class Bitmap(Bytes):
    """A set over as many members as the earlier field `bits` says; the bits beyond are zero."""

    bits: str

    def check(self, values: Values) -> None:
        super().check(values)
        if int.from_bytes(getattr(values, self.name), "little") >> getattr(values, self.bits):
            raise refusal(self.where(values), "a bit beyond the last member is set")


@dataclass(frozen=True)
class Rows(Field):
    """Entries one after the other on the wire that the message holds column by column.

    `columns`: names and sizes of columns of bytes. `indices`: the name of a column of `u16` before
    them, a tuple of ascending integers.
    """

    count: Size
    columns: tuple[tuple[str, int], ...]
    _: KW_ONLY
    indices: str = ""

    def check(self, values: Values) -> None:
        count = _evaluate(self.count, values)
        for name, size in self.columns:
            _expect_bytes(f"{values.name}.{name}", getattr(values, name), count * size)
        if self.indices:
            where, column = f"{values.name}.{self.indices}", getattr(values, self.indices)
            if not isinstance(column, tuple) or len(column) != count:
                raise refusal(where, f"not a tuple of {count} indices")
            for index in column:
                _expect_unsigned(where, index, 2)
            if any(a >= b for a, b in pairwise(column)):
                raise refusal(where, "the indices do not ascend, or one is there twice")

    def write(self, values: Values) -> bytes:
        count, places = _evaluate(self.count, values), self._places()
        table = np.empty((count, places[-1][2]), np.uint8)
        for name, start, stop in places:
            column = getattr(values, name)
            data = np.array(column, "<u2").tobytes() if name == self.indices else column
            table[:, start:stop] = np.frombuffer(data, np.uint8).reshape(count, stop - start)
        return table.tobytes()

    def read(self, cursor: Cursor, values: Values) -> None:
        size = _evaluate(self.count, values) * self._places()[-1][2]
        setattr(values, self.name, cursor.take(self.where(values), size))

    def finish(self, values: Values) -> None:
        places = self._places()
        table = np.frombuffer(getattr(values, self.name), np.uint8).reshape(-1, places[-1][2])
        for name, start, stop in places:
            column = table[:, start:stop].tobytes()
            indices = name == self.indices
            setattr(
                values, name, tuple(np.frombuffer(column, "<u2").tolist()) if indices else column
            )

    def _places(self) -> list[tuple[str, int, int]]:
        columns = ((self.indices, 2), *self.columns) if self.indices else self.columns
        edges = pairwise(accumulate((size for _, size in columns), initial=0))
        return [(name, *edge) for (name, _), edge in zip(columns, edges, strict=True)]


@dataclass(frozen=True)
class Entries(Field):
    """Entries that are tuples of bytes, their parts one after the other on the wire."""

    count: Size
    sizes: tuple[Size, ...]

    def check(self, values: Values) -> None:
        entries, count = getattr(values, self.name), _evaluate(self.count, values)
        if not isinstance(entries, tuple) or len(entries) != count:
            raise refusal(self.where(values), f"not a tuple of {count} entries")
        sizes = [_evaluate(size, values) for size in self.sizes]
        for entry in entries:
            if not isinstance(entry, tuple) or len(entry) != len(sizes):
                raise refusal(self.where(values), f"an entry is not a tuple of {len(sizes)}")
            for part, size in zip(entry, sizes, strict=True):
                _expect_bytes(self.where(values), part, size)

    def write(self, values: Values) -> bytes:
        return b"".join(part for entry in getattr(values, self.name) for part in entry)

    def read(self, cursor: Cursor, values: Values) -> None:
        size = sum(_evaluate(size, values) for size in self.sizes)
        view = cursor.take(self.where(values), _evaluate(self.count, values) * size)
        setattr(values, self.name, view)

    def finish(self, values: Values) -> None:
        edges = list(accumulate((_evaluate(size, values) for size in self.sizes), initial=0))
        view = getattr(values, self.name)
        rows = (view[start : start + edges[-1]] for start in range(0, len(view), edges[-1]))
        entries = tuple(tuple(bytes(row[a:b]) for a, b in pairwise(edges)) for row in rows)
        setattr(values, self.name, entries)


class Record:
    """The base of the messages: a type number and a table, which construction checks.

    A message is a dataclass with slots, so that its slots name its fields.
    """

    __slots__: tuple[str, ...] = ()

    code: ClassVar[int]
    wire: ClassVar[tuple[Field, ...]]

    def __post_init__(self) -> None:
        self._checked()

    def _checked(self) -> Values:
        values = Values(name=type(self).__name__)
        for name in self.__slots__:
            setattr(values, name, getattr(self, name))
        for field in self.wire:
            field.check(values)
        return values

    def to_wire(self) -> bytes:
        """The fields as they lie on the wire."""
        values = self._checked()
        return b"".join([field.write(values) for field in self.wire])

    @classmethod
    def from_wire(cls, view: memoryview, limits: Limits) -> Self:
        """The message whose fields fill `view`. Raises: MessageError."""
        values, cursor = Values(name=cls.__name__), Cursor(view, limits)
        for field in cls.wire:
            field.read(cursor, values)
        if cursor.rest:
            raise refusal(cls.__name__, f"{cursor.rest} bytes follow the last field")
        for field in cls.wire:
            field.finish(values)
        return cls(*(getattr(values, name) for name in cls.__slots__))
