"""Who looks at a server every few seconds does not read what only becomes more."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import event

from fedserver.store.sqlite.store import SqliteStore

# What gains rows with each round or each call.
_GROWING = {"assignment", "audit_log", "check_in", "model", "round", "round_event", "upload"}


async def test_open_rounds_and_counts_are_found_without_the_history(tmp_path: Path) -> None:
    path, asked = tmp_path / "fed.db", list[tuple[str, tuple[object, ...]]]()
    store = await SqliteStore.open(path, keys=[bytes(32)])
    try:
        engine = store._reads._engine
        event.listen(
            engine,
            "before_cursor_execute",
            lambda _, cursor, statement, values, *more: asked.append((statement, values)),
        )
        await store.open_rounds()
        await store.statistics()
    finally:
        await store.close()
    of_rounds = [one for one in asked if "FROM round" in one[0]]
    assert len(of_rounds) == 2
    with closing(sqlite3.connect(path)) as connection:
        assert {row[0] for row in connection.execute("SELECT name FROM sqlite_master")} >= _GROWING
        for one in asked:
            steps = [
                row[3].split() for row in connection.execute(f"EXPLAIN QUERY PLAN {one[0]}", one[1])
            ]
            assert not [step for step in steps if step[0] == "SCAN" and step[1] in _GROWING]
            if one in of_rounds:
                assert any(step[-3:] == ["INDEX", "ix_round_phase", "(phase=?)"] for step in steps)
