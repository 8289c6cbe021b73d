"""The server's durable memory: what it has answered is on disk, and nothing is there by halves."""

__all__: list[str] = []
