"""Compression that sums go through: fewer numbers, whose mean says the same."""

from fedsim.compression.choices import COMPRESSION, CompressionChoice
from fedsim.compression.compression import Code, Compression

__all__ = ["COMPRESSION", "Code", "Compression", "CompressionChoice"]
