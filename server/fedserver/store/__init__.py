"""The server's durable memory: what a method has answered is on disk, whole, or it never happened."""

__all__: list[str] = []
