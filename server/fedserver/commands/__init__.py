"""The operator's commands that run on the server's own machine, a file a verb."""

__all__: list[str] = []
