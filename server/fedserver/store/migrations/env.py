"""How Alembic reaches the database: by the connection that its caller holds.

Alembic runs this file under the name `env_py`; imported as a module it does nothing.
"""

from __future__ import annotations

from alembic import context

from fedserver.store.schema import metadata

__all__ = ["run"]


def run() -> None:
    """Runs what Alembic was asked for on `config.attributes["connection"]`, in one transaction."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        transactional_ddl=True,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if __name__ == "env_py":
    run()
