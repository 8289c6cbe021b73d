"""What can be wrong in a PostgreSQL database that it does not notice by itself."""

from __future__ import annotations

from sqlalchemy import Connection, and_, exists, select, text

from fedserver.store.schema import metadata

__all__ = ["problems"]

_INVALID = text(
    "SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
    " WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace"
)


def problems(connection: Connection) -> tuple[str, ...]:
    """Rows that point nowhere, as after a restore without its triggers, and indexes that fail."""
    found = [f"the index {name} is not valid" for name in connection.scalars(_INVALID)]
    for table in metadata.sorted_tables:
        for key in table.foreign_key_constraints:
            target = key.referred_table
            same = [table.c[own.parent.name] == own.column for own in key.elements]
            lost = ~exists(select(1).select_from(target).where(and_(*same)).correlate(table))
            if connection.scalar(select(exists(select(1).select_from(table).where(lost)))):
                found.append(f"a row of {table.name} points to a row of {target.name} that is gone")
    return tuple(found)
