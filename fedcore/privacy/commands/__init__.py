"""The command `fed privacy`, a file a verb."""

from fedcore.privacy.commands.verbs import main

__all__ = ["main"]
