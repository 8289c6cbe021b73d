"""The command `fed sim`, a file a verb."""

from fedsim.commands.verbs import main

__all__ = ["main"]
