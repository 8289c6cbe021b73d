"""The blocks of code in the project's pages, as a reader finds them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from tests.conftest import ROOT

__all__ = ["PAGES", "Block", "blocks_of", "commands_of", "page", "typed"]

PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
"""Every page that tells a reader what to type."""

_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """What stands between two fences: its language, its text, and the line where it begins."""

    page: str
    kind: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The name of the file that it is, which its first line says: `# task.toml`."""
        found = re.match(r"# ([\w.-]+\.\w+)\b", self.text)
        return found[1] if found else ""


def page(name: str) -> str:
    """The text of a page."""
    return (ROOT / name).read_text("utf-8")


def blocks_of(name: str, *kinds: str) -> list[Block]:
    """The blocks of a page in their order, of all kinds if none is named."""
    text = page(name)
    found = [
        Block(name, match[1], match[2], text[: match.start()].count("\n") + 1)
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if not kinds or block.kind in kinds]


def commands_of(block: Block) -> Iterator[list[str]]:
    """The words of each line of a console that is typed, without comments."""
    for line in re.findall(r"^\$ (.*)$", block.text, re.MULTILINE):
        if words := shlex.split(line, comments=True):
            yield words


def typed(block: Block) -> str:
    """The lines of a console that are typed, for a shell."""
    return "\n".join(re.findall(r"^\$ (.*)$", block.text, re.MULTILINE))
