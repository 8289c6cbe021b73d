"""Tables in this folder's README, each between two markers that name it."""

from __future__ import annotations

from typing import Final

from benchmarks.science.scenarios import HERE
from fedcore.errors import DataFormatError

__all__ = ["README", "put_table", "with_table"]

README: Final = HERE / "README.md"


def put_table(name: str, table: str) -> None:
    """Writes the table into the README. Raises: DataFormatError without the markers."""
    README.write_text(with_table(README.read_text("utf-8"), name, table), "utf-8")


def with_table(text: str, name: str, table: str) -> str:
    r"""`text` with a table between the markers of its name. Raises: DataFormatError without them.

    >>> with_table("a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb", "t", "new")
    'a\n<!-- t: begin -->\nnew\n<!-- t: end -->\nb'
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise DataFormatError(
            f"the README has no place for the table {name}",
            why=f"it lacks {begin} or {end}",
            fix="put the two markers back, each on a line of its own",
        )
    return f"{head}{begin}\n{table}\n{end}{tail}"
