"""Who looks for the open rounds does not read those that are over, which only become more."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import event

from fedserver.store.sqlite.store import SqliteStore


async def test_open_rounds_are_found_by_an_index(tmp_path: Path) -> None:
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
        for statement, values in of_rounds:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            assert any("INDEX ix_round_phase (phase=?)" in step for step in plan), plan
            assert not any(step.startswith("SCAN round") for step in plan), plan
