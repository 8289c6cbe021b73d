"""The table of the latest figures stands in this folder's README, between two markers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.figure import Json
from benchmarks.load import CLEAN
from benchmarks.registry import Benchmark
from fedcore.errors import DataFormatError

__all__ = ["BEGIN", "COLUMNS", "END", "rewritten", "row_names"]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
COLUMNS = (
    "name",
    "question",
    "value",
    "unit",
    "ratio",
    "against",
    "target",
    "meets",
    "command",
    "machine",
    "date",
)


def rewritten(
    text: str,
    records: Iterable[Mapping[str, Json]],
    *,
    ran: Iterable[str],
    known: Mapping[str, Benchmark],
    date: str,
) -> str:
    """`text` with new rows for the benchmarks that `ran`; rows of the other `known` ones stay.

    Raises: DataFormatError if `text` lacks the two markers.
    """
    head, body, tail = _parts(text)
    kept = known.keys() - set(ran)
    rows = {name: line for name, line in _rows(body) if name.partition(".")[0] in kept}
    for record in records:
        name = str(record["name"])
        rows[name] = _row(record, known[name.partition(".")[0]], date)
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *(rows[name] for name in sorted(rows))]
    return f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}"


def row_names(text: str) -> list[str]:
    """The names of the figures in the table of `text`, in its order."""
    return [name for name, _ in _rows(_parts(text)[1])]


def _parts(text: str) -> tuple[str, str, str]:
    head, begin, rest = text.partition(BEGIN)
    body, end, tail = rest.partition(END)
    if not (begin and end):
        raise DataFormatError(
            "benchmarks: the README has no place for the table",
            why=f"it lacks {BEGIN} or {END}",
            fix="put the two markers back, each on a line of its own",
        )
    return head, body, tail


def _rows(body: str) -> list[tuple[str, str]]:
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [(line.split("|")[1].strip(), line) for line in lines[2:]]


def _row(record: Mapping[str, Json], benchmark: Benchmark, date: str) -> str:
    machine, foreign = str(record["machine"]), record["foreign_cores"]
    if isinstance(foreign, float) and foreign > CLEAN:
        machine += f"; not clean: {foreign:.2f} cores busy with other work"
    return _line(
        [
            str(record["name"]),
            benchmark.question,
            *(
                _cell(record[key])
                for key in ("value", "unit", "ratio", "against", "target", "meets")
            ),
            f"`python -m benchmarks run {benchmark.name}`",
            machine,
            date,
        ]
    )


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Json) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.6g}" if isinstance(value, float) else value
