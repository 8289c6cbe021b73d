"""Whether a database is older than what was done with it, by the signed head that lies beside it.

Nothing here opens a store, so that it can be asked while a server runs, and changes nothing.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from fedcore.errors import AuditError
from fedserver.audit_heads import AUDIT_HEAD, own_head, public_keys
from fedserver.config import Config
from fedserver.key_files import AUDIT_SIGNER, load_keys
from fedserver.store.backup import check_signed
from fedserver.store.migrating import connected, is_empty
from fedserver.store.postgres.address import Database
from fedserver.store.records import AuditHead
from fedserver.store.schema import server_identity

__all__ = ["check_database", "require_database", "server_id_of", "signed_head"]


def require_database(config: Config) -> None:
    """Raises: AuditError where there was a database, and would be an empty one now."""
    database, head = config.database, config.server.state_directory / AUDIT_HEAD
    if not isinstance(database, Path) or not head.exists():
        return
    gone = not database.exists()
    if gone or is_empty(database):
        raise AuditError(
            f"the database {database.name} is {'gone' if gone else 'empty'}",
            why=f"the audit log in it was signed: {head}",
            fix="restore a backup: `fed db restore`; --accept-rollback begins with an empty one",
        )


def check_database(config: Config) -> int:
    """How many entries its audit log has, which reaches what was signed of it.

    Raises: AuditError, KeyFileError, StoreError.
    """
    state, keys = config.server.state_directory, config.authority_directory
    server_id = server_id_of(config.database)
    signed = signed_head(state / AUDIT_HEAD, keys / AUDIT_SIGNER, server_id)
    return check_signed(config.database, signed).sequence


def server_id_of(database: Database) -> bytes:
    """The id of the server whose database it is. Raises: StoreError."""
    with connected(database) as connection:
        found = connection.scalar(select(server_identity.c.server_id))
    return b"" if found is None else bytes(found)


def signed_head(path: Path, signer: Path, server_id: bytes) -> AuditHead | None:
    """The newest signed head, or None where none was ever written.

    Raises: AuditError, KeyFileError.
    """
    if not path.exists():
        return None
    return own_head(path.read_bytes(), server_id, public_keys(load_keys(signer)))
