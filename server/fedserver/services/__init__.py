"""The gRPC services: each field of a request is checked here, and turned into a plain type."""

__all__: list[str] = []
