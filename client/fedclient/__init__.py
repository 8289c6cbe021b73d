"""The client of a federation: it joins, trains on data that stay where they are, and may refuse."""

__all__: list[str] = []
