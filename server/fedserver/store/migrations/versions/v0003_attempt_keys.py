"""A key for each attempt, under which its secrets are sealed, and without which they are lost.

An attempt that is open now goes on without one, to its end.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

from fedcore.errors import SchemaError

__all__ = ["down_revision", "downgrade", "revision", "upgrade"]

revision = "0003"
down_revision: str | None = "0002"

_IN_USE = """
    SELECT 1 FROM attempt_key AS k
    WHERE EXISTS (
        SELECT 1 FROM session_record AS s
        WHERE (s.task_id, s.round, s.attempt) = (k.task_id, k.round, k.attempt)
    ) OR EXISTS (
        SELECT 1 FROM upload AS u
        WHERE (u.task_id, u.round, u.attempt) = (k.task_id, k.round, k.attempt)
        AND u.state IN ('OPEN', 'SEALED')
    )
"""


def _number() -> TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds the table, empty."""
    op.create_table(
        "attempt_key",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("round", _number(), nullable=False),
        sa.Column("attempt", _number(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id", "round", "attempt"],
            ["round.task_id", "round.round", "round.attempt"],
            name="fk_attempt_key_round",
        ),
        sa.PrimaryKeyConstraint("task_id", "round", "attempt", name="pk_attempt_key"),
        sqlite_strict=True,
    )


def downgrade() -> None:
    """Drops it. Raises: SchemaError while an attempt needs what its key opens."""
    if op.get_bind().execute(sa.text(_IN_USE)).first() is not None:
        raise SchemaError(
            "the database cannot be migrated back in the middle of a round",
            why="what an open attempt holds is sealed under its key, and older programs know none",
            fix="start the server, let it drain until its rounds are over, or cancel their tasks",
        )
    op.drop_table("attempt_key")
