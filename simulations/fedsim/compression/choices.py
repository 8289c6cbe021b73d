"""Compressions by the names that a scenario gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from fedcore.federated.choices import Choice
from fedsim.compression.compression import Compression
from fedsim.compression.random_k import RandomK

__all__ = ["COMPRESSION", "CompressionChoice"]

COMPRESSION: Final[Mapping[str, Any]] = {"random_k": RandomK}
"""Compressions by the name that a scenario gives; each takes its options by keyword."""


@dataclass(frozen=True, kw_only=True)
class CompressionChoice(Choice):
    """A compression of `COMPRESSION` with all of its options.

    >>> CompressionChoice.read({"name": "random_k", "fraction": 0.5}, "compression").make()
    RandomK(fraction=0.5, error_feedback=False)
    """

    known: ClassVar[Mapping[str, Any]] = COMPRESSION

    def make(self) -> Compression:
        """The compression."""
        found: Compression = self.known[self.name](**dict(self.options))
        return found
