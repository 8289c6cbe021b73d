"""SQLAlchemy on connections of our own."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.postgres.connection import LOCKED, migrating, reading

__all__ = ["migrating_engine", "reading_engine"]


def reading_engine(address: PostgresAddress) -> Engine:
    """An engine without a pool, of connections that cannot write."""
    return create_engine(
        "postgresql+psycopg://", creator=lambda: reading(address), poolclass=NullPool
    )


def migrating_engine(address: PostgresAddress) -> Engine:
    """An engine whose transactions write to the database as alone as those of a server."""
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: migrating(address), poolclass=NullPool
    )
    event.listen(engine, "begin", _lock)
    return engine


def _lock(connection: Connection) -> None:
    connection.exec_driver_sql(LOCKED)
