"""gRPC's calls as bare frames of HTTP/2: a tenth of what a gRPC client costs its processor.

So one core can offer a server on another core three times what it can take, which a gRPC client in
Python cannot. Only what unary calls need of RFC 9113 is here. The server is told to keep no table
of headers (RFC 7541), so that each block of them can be read by itself.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from benchmarks.federation.bare_tls import context_of
from benchmarks.federation.stage import Device

__all__ = ["ENDED", "OVERLOADED", "Answer", "Done", "Wire", "head_of"]

ENDED: Final = 1  # CANCELLED
OVERLOADED: Final = 8  # RESOURCE_EXHAUSTED
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_REFUSED_STREAM: Final = 7
_TABLE_SIZE, _STREAMS, _FIRST_WINDOW = 1, 3, 4
_FRAME, _WINDOW_AT_FIRST, _LARGEST_WINDOW = 16_384, 65_535, 2**31 - 1
_READ: Final = 1 << 18


class Answer(NamedTuple):
    """How a call ended. `status`: gRPC's number, 0 for success, -1 if the stream broke.

    `hinted`: a refusal says after how long to come back. `message`: the answer's bytes.
    """

    status: int
    hinted: bool
    message: bytes


Done = Callable[[Answer], None]


class _Call(NamedTuple):
    head: bytes
    message: bytes
    done: Done


def head_of(method: str, *, timeout_s: int) -> bytes:
    """The header block of a call, which is the same for all calls of a method."""
    return (
        b"\x83\x87"  # POST, https
        + b"\x04%c%b" % (len(method), method.encode())
        + b"\x01\x09localhost"
        + b"\x0f\x10\x10application/grpc"
        + b"\x00\x02te\x08trailers"
        + b"\x00\x0cgrpc-timeout%c%dS" % (len(str(timeout_s)) + 1, timeout_s)
    )


class Wire:
    """One connection of one client, which never blocks: `pump` does what can be done now."""

    def __init__(self, address: str, device: Device, root: bytes) -> None:
        context = context_of(device, root)
        context.set_alpn_protocols(["h2"])
        host, _, port = address.partition(":")
        plain = socket.create_connection((host, int(port)))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=host)
        self.socket.setblocking(False)
        settings = struct.pack(">HIHI", _TABLE_SIZE, 0, _FIRST_WINDOW, _LARGEST_WINDOW)
        more = struct.pack(">I", _LARGEST_WINDOW - _WINDOW_AT_FIRST)
        self._out = bytearray(_PREFACE + _frame(_SETTINGS, 0, 0, settings))
        self._out += _frame(_WINDOW, 0, 0, more)
        self._in = bytearray()
        self._next, self._most = 1, 100
        self._window, self._first_window = _WINDOW_AT_FIRST, _WINDOW_AT_FIRST
        self._windows: dict[int, int] = {}
        self._unsent: dict[int, memoryview] = {}  # the oldest first
        self._open: dict[int, tuple[_Call, bytearray]] = {}
        self._due: deque[_Call] = deque()

    @property
    def waits(self) -> bool:
        """Whether the socket has to take more before all is sent."""
        return bool(self._out)

    def call(self, head: bytes, message: bytes, done: Done) -> None:
        """Begins a call, or, where the server takes no more at once, leaves it to `pump`."""
        self._due.append(_Call(head, message, done))
        self._begin()

    def pump(self) -> None:
        """Reads and writes. Raises: ConnectionError if the server has gone."""
        try:
            while data := self.socket.recv(_READ):
                self._in += data
            raise ConnectionError("the server has closed the connection")
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        self._read()
        self._begin()
        self.flush()

    def flush(self) -> None:
        """Writes what the socket takes."""
        try:
            while self._out:
                del self._out[: self.socket.send(self._out)]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass

    def close(self) -> None:
        self.socket.close()

    def _begin(self) -> None:
        while self._due and len(self._open) < self._most:
            call = self._due.popleft()
            stream, self._next = self._next, self._next + 2
            self._open[stream] = call, bytearray()
            self._windows[stream] = self._first_window
            prefix = b"\0" + struct.pack(">I", len(call.message))
            self._unsent[stream] = memoryview(prefix + call.message)
            self._out += _frame(_HEADERS, _END_HEADERS, stream, call.head)
        self._fill()

    def _fill(self) -> None:
        """Frames as much of the messages as the windows allow."""
        for stream, rest in list(self._unsent.items()):
            while rest and (size := min(_FRAME, len(rest), self._window, self._windows[stream])):
                if size <= 0:
                    break
                end = _END_STREAM if size == len(rest) else 0
                self._out += _frame(_DATA, end, stream, rest[:size])
                rest = rest[size:]
                self._window -= size
                self._windows[stream] -= size
            if rest:
                self._unsent[stream] = rest
            else:
                del self._unsent[stream]
            if self._window <= 0:
                return

    def _read(self) -> None:
        at = 0
        while len(self._in) - at >= 9:
            size = int.from_bytes(self._in[at : at + 3])
            if len(self._in) - at - 9 < size:
                break
            kind, flags, stream = struct.unpack(">BBI", self._in[at + 3 : at + 9])
            self._take(kind, flags, stream, bytes(self._in[at + 9 : at + 9 + size]))
            at += 9 + size
        del self._in[:at]

    def _take(self, kind: int, flags: int, stream: int, data: bytes) -> None:
        if kind == _DATA and stream in self._open:
            self._open[stream][1].extend(data)
        elif kind == _HEADERS and flags & _END_STREAM:
            status = _value(data, b"grpc-status")
            hint = _value(data, b"grpc-retry-pushback-ms")
            self._end(stream, int(status or -1), hinted=hint not in (b"", b"-1"))
        elif kind == _RESET and stream in self._open:
            if int.from_bytes(data) == _REFUSED_STREAM:  # one too many, and not looked at
                self._due.appendleft(self._forget(stream)[0])
            else:
                self._end(stream, -1, hinted=False)
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", data):
                if name == _FIRST_WINDOW:
                    for other in self._windows:
                        self._windows[other] += value - self._first_window
                    self._first_window = value
                elif name == _STREAMS:
                    self._most = value
            self._out += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._out += _frame(_PING, _ACK, 0, data)
        elif kind == _WINDOW:
            more = int.from_bytes(data)
            if stream == 0:
                self._window += more
            elif stream in self._windows:
                self._windows[stream] += more
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server has ended the connection: {data!r}")

    def _end(self, stream: int, status: int, *, hinted: bool) -> None:
        if stream in self._open:
            call, data = self._forget(stream)
            call.done(Answer(status, hinted, bytes(data[5:])))

    def _forget(self, stream: int) -> tuple[_Call, bytearray]:
        self._unsent.pop(stream, None)
        del self._windows[stream]
        return self._open.pop(stream)


def _frame(kind: int, flags: int, stream: int, data: bytes | memoryview) -> bytes:
    size = struct.pack(">I", len(data))[1:]
    return b"".join((size, struct.pack(">BBI", kind, flags, stream), data))


def _value(block: bytes, name: bytes) -> bytes:
    """The value of a header. Without a table all are written out, and gRPC's short ones plainly."""
    at = block.find(name)
    if at < 0:
        return b""
    begin = at + len(name)
    return block[begin + 1 : begin + 1 + block[begin]]
