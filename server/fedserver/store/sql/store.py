"""All parts of the store in SQL, put together."""

from __future__ import annotations

import os

from fedserver.store.sql.participation import SqlParticipation
from fedserver.store.sql.parties import SqlParties
from fedserver.store.sql.rounds import SqlRounds
from fedserver.store.sql.system import SqlSystem
from fedserver.store.sql.tasks import SqlTasks
from fedserver.store.sql.transaction import Transaction
from fedserver.store.sql.uploads import SqlUploads

__all__ = ["SqlStore"]


class SqlStore(SqlSystem, SqlParties, SqlTasks, SqlRounds, SqlParticipation, SqlUploads):
    """`Store` but for what only the database itself can say: its clock, size and integrity."""

    async def identify(self) -> None:
        """Gives a new database its server's identity; closes the store where that fails."""
        try:
            await self._write("open", _identify)
        except BaseException:
            await self.close()
            raise


def _identify(db: Transaction) -> None:
    if db.one("SELECT 1 FROM server_identity") is None:
        db.insert("server_identity", server_id=os.urandom(16), epoch=1, created_ms=db.now_ms)
