"""Who is left out of a task for good, which was known to one server until it ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "downgrade", "revision", "upgrade"]

revision = "0005"
down_revision: str | None = "0004"


def upgrade() -> None:
    """Adds the table, empty: the audit log names clients, and not the tasks that barred them."""
    op.create_table(
        "barred_client",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["task.task_id"], name="fk_barred_client_task"),
        sa.ForeignKeyConstraint(
            ["client_id"], ["client.client_id"], name="fk_barred_client_client"
        ),
        sa.PrimaryKeyConstraint("task_id", "client_id", name="pk_barred_client"),
        sqlite_strict=True,
    )


def downgrade() -> None:
    """Drops it: older programs know nobody for longer than they run."""
    op.drop_table("barred_client")
