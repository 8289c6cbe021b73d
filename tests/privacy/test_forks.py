"""A forked process is another one, also where its id is its parent's."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedcore.privacy.forks import this_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")

# As in a process namespace of its own, whose first process has the id 1 like its parent's.
_ALIKE = "import os, sys\nos.getpid = lambda: 1\n"


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _ALIKE + textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_is_itself() -> None:
    assert this_process() == this_process()


def test_no_two_processes_of_a_line_of_forks_are_the_same() -> None:
    found = run("""
        from fedcore.privacy.forks import this_process
        print(this_process(), flush=True)
        for _ in range(3):
            if child := os.fork():
                os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(this_process(), flush=True)
    """).splitlines()
    assert len(found) == 4 and len(set(found)) == 4


def test_importing_it_registers_nothing() -> None:
    assert run("""
        def register(**hooks):
            if any("fedcore" in hook.__module__ for hook in hooks.values()):
                print("registered")
        os.register_at_fork = register
        import fedcore.privacy.forks, fedcore.privacy.ledger, fedcore.privacy.mechanisms
        print("imported")
        fedcore.privacy.forks.this_process()
    """).split() == ["imported", "registered"]


def test_a_child_with_its_parents_id_draws_other_noise() -> None:
    one, other = run("""
        from fedcore.privacy.csprng import Stream
        stream = Stream()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        print(stream.bytes(32).hex(), flush=True)
    """).split()
    assert one != other


_LEDGER = """
    from fedcore.errors import FedcoreError
    from fedcore.privacy.ledger import Ledger
    from tests.privacy.ledger_world import plan_of
    def attempt(call):
        try:
            call()
            return "done"
        except FedcoreError as error:
            return type(error).__name__
    ledger = Ledger.create(sys.argv[1], plan_of())
    reservation = ledger.reserve(0)
    if child := os.fork():
        os.waitpid(child, 0)
        print("parent", attempt(reservation.mark_drawn), attempt(lambda: ledger.reserve(1)))
    else:
        print("child", attempt(reservation.mark_drawn), attempt(lambda: ledger.reserve(1)))
        ledger.close()
        sys.stdout.flush()
        os._exit(0)
    """


def test_a_child_with_its_parents_id_spends_none_of_its_ledger(tmp_path: Path) -> None:
    assert run(_LEDGER, tmp_path / "ledger").splitlines() == [
        "child ReservationError LedgerError",
        "parent done done",
    ]


def test_a_childs_close_leaves_the_parents_lock(tmp_path: Path) -> None:
    assert (
        run(
            _LEDGER.replace(
                'print("parent"',
                "again = os.fork() or print(attempt(lambda: Ledger.open(sys.argv[1], checkpoint="
                "None)), flush=True) or os._exit(0)\n        os.waitpid(again, 0)\n"
                '        print("parent"',
            ),
            tmp_path / "ledger",
        ).splitlines()[1]
        == "LedgerBusyError"
    )
