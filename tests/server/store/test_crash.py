"""A kill at any moment takes no acknowledged act, and leaves none half done."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedserver.store.audit import verify
from fedserver.store.sqlite import SqliteStore
from tests.variants import mostly_slow

CHILD = Path(__file__).with_name("crash_child.py")


def killed(
    database: Path, first: int, *, after: int, lanes: int = 10, failpoints: str = ""
) -> list[int]:
    """Runs a child until it has told of `after` acts, or kills itself; gives all it told of."""
    command = [sys.executable, str(CHILD), str(database), str(first), str(lanes), failpoints]
    told: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        guard = threading.Timer(60, child.kill)
        guard.start()
        try:
            assert child.stdout.readline() == "ready\n"
            for line in child.stdout:
                told.append(int(line))
                if len(told) == after:
                    child.kill()
                    break
            # What it had written before it died, it had acknowledged too; a line may be torn.
            told += [int(line) for line in child.stdout if line.endswith("\n")]
        finally:
            guard.cancel()
            child.kill()
    assert child.returncode == -9
    return told


async def acts_in(database: Path) -> set[int]:
    """The acts that are there whole. Fails if one is there by halves."""
    store = await SqliteStore.open(database, keys=[bytes(32)])
    assert await store.integrity() == ()
    records = [record for record in await store.audit_entries(limit=10**6)]
    assert verify(records) == await store.audit_head()
    await store.close()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        tokens = {row[0] for row in connection.execute("SELECT max_uses FROM enrolment_token")}
        (answers,) = connection.execute("SELECT count(*) FROM idempotency").fetchone()
    assert tokens == {int(record.entry.object) for record in records}
    assert len(tokens) == len(records) == answers
    return tokens


async def survives(database: Path, kills: int, seed: int) -> None:
    chance, acknowledged = random.Random(seed), set()
    for _ in range(kills):
        first = max(acknowledged, default=0) + 100
        acknowledged |= set(killed(database, first, after=chance.randrange(1, 200)))
        assert acknowledged <= await acts_in(database)


@pytest.mark.parametrize("place", mostly_slow(["store.after_commit", "store.before_commit"]))
async def test_a_kill_around_a_commit_takes_nothing_that_was_acknowledged(
    tmp_path: Path, place: str
) -> None:
    database = tmp_path / "server.db"
    told = killed(database, 1, after=10**6, lanes=1, failpoints=f"{place}=kill@5")
    assert told == [1, 2, 3, 4]
    # The fifth, of which nobody was told, is there whole if its commit came, and else not at all.
    committed = place == "store.after_commit"
    assert await acts_in(database) == {1, 2, 3, 4} | ({5} if committed else set())


async def test_a_writer_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    await survives(tmp_path / "server.db", kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_sixty_kills_lose_nothing(tmp_path: Path) -> None:
    await survives(tmp_path / "server.db", kills=60, seed=2)


@pytest.mark.slow  # after each kill above, too, the database is opened
async def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    database = tmp_path / "server.db"
    killed(database, 1, after=1)
    store = await SqliteStore.open(database, keys=[bytes(32)])
    await store.close()
