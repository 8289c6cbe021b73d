"""Strangers who dial and say little take neither memory nor, for long, the places of devices."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.chaos.programs import until
from tests.chaos.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CONNECTIONS = 64
STRANGERS = 10 * CONNECTIONS
HELLO = bytes.fromhex("16030102000100")  # the first bytes of a handshake
MIB = 2**20


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"), connections=CONNECTIONS)
    yield made
    made.close()


class Strangers:
    """Connections to one port, of which each may say the next byte of a handshake."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        port = int(address.rpartition(":")[2])
        self._said = 0
        self._sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(STRANGERS)
        ]
        for found in self._sockets:
            found.setblocking(False)

    def say_a_byte(self) -> None:
        byte = HELLO[self._said : self._said + 1] or b"\0"
        self._said += 1
        for found in self._sockets[::2]:
            with suppress(OSError):
                found.send(byte)

    def left(self) -> int:
        """How many the server has not sent away."""
        left = 0
        for found in self._sockets:
            try:
                left += found.recv(4096) != b""
            except BlockingIOError:
                left += 1
            except OSError:
                pass
        return left


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_strangers_are_bounded_shed_and_do_no_harm(scene: Scene) -> None:
    task = scene.task()
    deployment, pid = scene.deployment, scene.deployment.server.pid
    task_id = deployment.admin.submit(task)
    scene.start_devices()
    until(lambda: len(scene.uploaded()) >= 2, "uploads are acknowledged")
    files, memory = open_files(pid), resident_bytes(pid)
    with ExitStack() as stack:
        strangers = Strangers(deployment.address, stack)

        def gone() -> bool:
            strangers.say_a_byte()
            assert open_files(pid) <= files + CONNECTIONS
            return not strangers.left()

        # One device comes anew, when every place is taken.
        scene.start_alone()
        until(gone, "the strangers are shed", every_s=0.5)
        scene.finish(task_id, task)
    assert resident_bytes(pid) - memory < 64 * MIB
