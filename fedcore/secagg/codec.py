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
from functools import cached_property
from itertools import pairwise, starmap
from struct import Struct, calcsize
from types import SimpleNamespace
from typing import ClassVar, Self, TypeAlias

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
    config_bytes: int = 8192
    pulse_bytes: int = 1024
    chunk_bytes: int = 2**20

    @property
    def bitmap_bytes(self) -> int:
        """The bytes of a bitmap of all clients."""
        return -(-self.clients // 8)


class Values(SimpleNamespace):
    """What is known of one message so far: its fields, the counts between them, and its `name`."""

    name: str

    def __repr__(self) -> str:
        return f"Values({self.name})"  # a field may be a secret


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

    def take(self, size: int, field: Field, values: Values) -> memoryview:
        """The next `size` bytes. Raises: MessageError where the message ends before."""
        begin, end = self._at, self._at + size
        if end > len(self._view):
            where = field.where(values)
            raise refusal(where, f"{size} bytes are announced, {self.rest} are left")
        self._at = end
        return self._view[begin:end]


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
        """The bytes of values that have been checked."""
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
        value = int.from_bytes(cursor.take(self.width, self, values), "little")
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

    def write(self, values: Values) -> bytes:
        setattr(values, self.name, len(getattr(values, self.of)) // self.size)
        return super().write(values)


@dataclass(frozen=True)
class Choice(Integer):
    """One of the values of the enumeration `kind`."""

    kind: type[IntEnum]

    def check(self, values: Values) -> None:
        if type(value := getattr(values, self.name)) is not self.kind:
            raise refusal(self.where(values), f"{type(value).__name__} is not {self.kind.__name__}")

    def read(self, cursor: Cursor, values: Values) -> None:
        super().read(cursor, values)
        value = getattr(values, self.name)
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
        setattr(values, self.name, cursor.take(size, self, values))

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

    `columns`: names, and codes of `struct`. A column "H" is a tuple of ascending roster indices,
    and the one that `count` was taken of; a column "100s" is bytes, 100 for each entry.
    """

    count: Size
    columns: tuple[tuple[str, str], ...]

    def check(self, values: Values) -> None:
        count = _evaluate(self.count, values)
        for name, code in self.columns:
            where, column = f"{values.name}.{name}", getattr(values, name)
            if code == "H":
                _expect_indices(where, column)
            else:
                _expect_bytes(where, column, count * calcsize(code))

    def write(self, values: Values) -> bytes:
        cells = []
        for name, code in self.columns:
            column, size = getattr(values, name), calcsize(code)
            cells.append(
                column
                if code == "H"
                else [column[i : i + size] for i in range(0, len(column), size)]
            )
        return b"".join(starmap(self._row.pack, zip(*cells, strict=True)))

    def read(self, cursor: Cursor, values: Values) -> None:
        size = _evaluate(self.count, values) * self._row.size
        setattr(values, self.name, cursor.take(size, self, values))

    def finish(self, values: Values) -> None:
        rows = list(self._row.iter_unpack(getattr(values, self.name)))
        for place, (name, code) in enumerate(self.columns):
            column = tuple(row[place] for row in rows)
            setattr(values, name, column if code == "H" else b"".join(column))

    @cached_property
    def _row(self) -> Struct:
        return Struct("<" + "".join(code for _, code in self.columns))


def _expect_indices(where: str, column: object) -> None:
    if not isinstance(column, tuple):
        raise refusal(where, f"{type(column).__name__} is not a tuple of indices")
    if not all(type(index) is int and 0 <= index < 2**16 for index in column):
        raise refusal(where, "an index is not an unsigned integer of 2 bytes")
    if any(a >= b for a, b in pairwise(column)):
        raise refusal(where, "the indices do not ascend, or one is there twice")


@dataclass(frozen=True)
class Entries(Field):
    """A tuple of entries that are tuples of bytes; `count` was taken of it."""

    count: Size
    sizes: tuple[Size, ...]

    def check(self, values: Values) -> None:
        where, entries = self.where(values), getattr(values, self.name)
        sizes = self._sizes(values)
        if not isinstance(entries, tuple):
            raise refusal(where, f"{type(entries).__name__} is not a tuple of entries")
        for entry in entries:
            if not isinstance(entry, tuple) or len(entry) != len(sizes):
                raise refusal(where, f"an entry is not a tuple of {len(sizes)}")
            for part, size in zip(entry, sizes, strict=True):
                _expect_bytes(where, part, size)

    def write(self, values: Values) -> bytes:
        return b"".join(part for entry in getattr(values, self.name) for part in entry)

    def read(self, cursor: Cursor, values: Values) -> None:
        size = _evaluate(self.count, values) * sum(self._sizes(values))
        setattr(values, self.name, cursor.take(size, self, values))

    def finish(self, values: Values) -> None:
        row = Struct("".join(f"{size}s" for size in self._sizes(values)))
        setattr(values, self.name, tuple(row.iter_unpack(getattr(values, self.name))))

    def _sizes(self, values: Values) -> list[int]:
        return [_evaluate(size, values) for size in self.sizes]


class Record:
    """The base of the messages: a type number and a table, which construction checks.

    A message is a dataclass with slots, so that its slots name its fields.
    """

    __slots__: tuple[str, ...] = ()

    code: ClassVar[int]
    wire: ClassVar[tuple[Field, ...]]

    def __post_init__(self) -> None:
        values = self._values()
        for field in self.wire:
            field.check(values)

    def _values(self) -> Values:
        values = Values(name=type(self).__name__)
        for name in self.__slots__:
            setattr(values, name, getattr(self, name))
        return values

    def write(self, head: bytes) -> bytes:
        """`head`, then the fields as they lie on the wire."""
        values = self._values()
        return b"".join([head, *(field.write(values) for field in self.wire)])

    @classmethod
    def read(cls, view: memoryview, limits: Limits) -> Self:
        """The message whose fields fill `view`. Raises: MessageError."""
        values, cursor = Values(name=cls.__name__), Cursor(view, limits)
        for field in cls.wire:
            field.read(cursor, values)
        if cursor.rest:
            raise refusal(cls.__name__, f"{cursor.rest} bytes follow the last field")
        for field in cls.wire:
            field.finish(values)
        return cls(*(getattr(values, name) for name in cls.__slots__))
