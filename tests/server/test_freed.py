"""Memory that was freed is not kept, and garbage is not looked for at every turn."""

from __future__ import annotations

import subprocess
import sys

import pytest


def said(program: str) -> str:
    """What a Python of its own prints: what is set here is set for a whole process."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is not glibc")
def test_threads_share_one_heap() -> None:
    def arenas(first: str) -> int:
        program = (
            "import threading, ctypes\nfrom fedserver.freed import one_heap\n" + first + "\n"
            "def work(turn):\n    turn.wait()\n    return [bytes(5_000) for _ in range(2_000)]\n"
            "turn = threading.Barrier(8)\n"
            "many = [threading.Thread(target=work, args=(turn,)) for _ in range(8)]\n"
            "[one.start() for one in many]\n[one.join() for one in many]\n"
            "libc = ctypes.CDLL(None)\nlibc.fdopen.restype = ctypes.c_void_p\n"
            "import os\nread, write = os.pipe()\nfile = ctypes.c_void_p(libc.fdopen(write, b'w'))\n"
            "libc.malloc_info(0, file)\nlibc.fflush(file)\n"
            "print(os.read(read, 1 << 20).decode().count('<heap nr='))\n"
        )
        return int(said(program))

    assert arenas("one_heap()") == 1
    assert arenas("") > 1


def test_garbage_is_looked_for_after_many_new_objects_and_not_after_few() -> None:
    program = (
        "import gc\nfrom fedserver.freed import collect_rarely\n"
        "collect_rarely()\ngc.collect()\nsearches = []\n"
        "gc.callbacks.append(lambda phase, info: searches.append(phase))\n"
        "few = [[] for _ in range(20_000)]\nbefore = len(searches)\n"
        "many = [[] for _ in range(40_000)]\nprint(before, len(searches) > 0)\n"
    )
    assert said(program).split() == ["0", "True"]


@pytest.mark.parametrize("searches", [0, 1], ids=["new", "once found in use"])
def test_what_lies_in_circles_is_found_in_time_however_little_it_is(searches: int) -> None:
    program = (
        "import asyncio, weakref\nfrom fedserver.freed import Collection, collect_rarely\n"
        "class Known: pass\n"
        "collect_rarely()\ncollect = Collection()\nknown = Known()\nknown.itself = known\n"
        f"for _ in range({searches}): asyncio.run(collect())\n"
        "found = weakref.ref(known)\ndel known\nbefore = found() is None\ncalls = 0\n"
        "while found() is not None and calls < 100: asyncio.run(collect()); calls += 1\n"
        "print(before, calls)\n"
    )
    before, calls = said(program).split()
    assert before == "False" and int(calls) <= (60 if searches else 1)
