"""An index by which a server finds what an authority did, among all that was ever audited."""

from __future__ import annotations

from alembic import op

__all__ = ["down_revision", "downgrade", "revision", "upgrade"]

revision = "0006"
down_revision: str | None = "0005"


def upgrade() -> None:
    """Adds it."""
    op.create_index("ix_audit_log_action", "audit_log", ["action"])


def downgrade() -> None:
    """Takes it away; no row changes."""
    op.drop_index("ix_audit_log_action", "audit_log")
