"""Whether the datastore keys at hand open what a database holds sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import and_, select

from fedserver.store import schema
from fedserver.store.migrating import connected
from fedserver.store.postgres.address import Database
from fedserver.store.records import OPEN, RoundRef
from fedserver.store.sealing import Sealer
from fedserver.store.sql.reads import all_rows
from fedserver.store.sql.sessions import opened_key

__all__ = ["require_keys"]

_KEYS, _ROUNDS = schema.attempt_key, schema.round_table
_OF_OPEN: Final = (
    select(_KEYS)
    .join(
        _ROUNDS,
        and_(*(_KEYS.c[name] == _ROUNDS.c[name] for name in ("task_id", "round", "attempt"))),
    )
    .where(_ROUNDS.c.phase.in_(OPEN))
)


def require_keys(database: Database, keys: Sequence[bytes]) -> None:
    """Opens the key of every open attempt, under which all that it keeps is sealed.

    Raises: StoreError if one does not open, or the database cannot be read.
    """
    sealer = Sealer(keys)
    with connected(database) as connection:
        for row in all_rows(connection, _OF_OPEN):
            opened_key(row, RoundRef(row["task_id"], row["round"], row["attempt"]), sealer)
