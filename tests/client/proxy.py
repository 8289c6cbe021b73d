"""A way between client and server that can be cut: after so many bytes, or for good."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """Forwards connections to a port of this machine. `cut_after`: bytes of the next connections.

    Each number is used up by one cut: the connection in which it is reached is closed.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_after: list[int] = []
        self.cuts = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Closes every connection now."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for found in sockets:
            with suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
            found.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        moved = 0
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
                moved += len(data)
                with self._lock:
                    reached = bool(self.cut_after) and moved >= self.cut_after[0]
                    if reached:
                        self.cut_after.pop(0)
                        self.cuts += 1
                if reached:
                    self.cut()
                    return
        for found in (source, sink):
            with suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
