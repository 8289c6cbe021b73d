"""Where rows come from: published data sets in their official formats, and a user's own files."""

from fedsim.sources.choices import SOURCES, SourceSpec
from fedsim.sources.source import Reader, Source

__all__ = ["SOURCES", "Reader", "Source", "SourceSpec"]
