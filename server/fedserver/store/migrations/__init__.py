"""The history of the schema, a step a file, in Alembic's form."""

__all__: list[str] = []
