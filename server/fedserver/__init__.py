"""The aggregation server of a federation: what it has acknowledged is never lost."""

__all__: list[str] = []
