"""The store on SQLite: one writer that groups commits, and readers that cannot write."""

from fedserver.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
