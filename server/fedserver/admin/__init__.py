"""The commands of operators, researchers and auditors, who reach a server by its services."""

__all__: list[str] = []
