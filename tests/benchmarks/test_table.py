"""The table in the README keeps every row that was not measured anew."""

from collections.abc import Iterator

import pytest

from benchmarks import table
from benchmarks.figure import Figure, Json, Target
from benchmarks.peers import Peers
from benchmarks.registry import Benchmark
from fedcore.errors import DataFormatError

EMPTY = f"# Title\n\n{table.BEGIN}\n{table.END}\nafter\n"


def never(_peers: Peers) -> Iterator[Figure]:
    raise AssertionError("a table measures nothing")


KNOWN = {name: Benchmark(name, f"How fast is {name}?", never) for name in ("alpha", "beta")}


def record(name: str, value: float, foreign_cores: float | None = 0.0) -> dict[str, Json]:
    figure = Figure(name, value, "ms", 0.5, "a rival", Target("value", "<=", 10))
    return figure.record(machine="a machine", foreign_cores=foreign_cores)


def rewritten(text: str, *records: dict[str, Json]) -> str:
    ran = {str(r["name"]).partition(".")[0] for r in records}
    return table.rewritten(text, records, ran=ran, known=KNOWN, date="2026-11-24")


def test_a_row_holds_every_column_of_the_figure() -> None:
    text = rewritten(EMPTY, record("alpha", 12.5))
    header, _, row = [line for line in text.splitlines() if line.startswith("|")]
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert tuple(column.strip("| ") for column in cells) == table.COLUMNS
    assert [cell.strip("| ") for cell in cells.values()] == [
        "alpha",
        "How fast is alpha?",
        "12.5",
        "ms",
        "0.5",
        "a rival",
        "value <= 10",
        "no",
        "`python -m benchmarks run alpha`",
        "a machine",
        "2026-11-24",
    ]


def test_what_stands_around_the_table_is_kept() -> None:
    text = rewritten(EMPTY, record("alpha", 1.0))
    assert text.startswith(f"# Title\n\n{table.BEGIN}\n|")
    assert text.endswith(f"|\n{table.END}\nafter\n")


def test_rows_of_other_benchmarks_stay_and_all_rows_of_the_one_that_ran_are_replaced() -> None:
    first = rewritten(EMPTY, record("alpha", 1.0), record("alpha.old", 2.0), record("beta", 3.0))
    second = rewritten(first, record("alpha", 4.0), record("alpha.new", 5.0))
    assert table.row_names(second) == ["alpha", "alpha.new", "beta"]
    assert "| 4 |" in second and "| 1 |" not in second
    assert next(line for line in first.splitlines() if line.startswith("| beta")) in second


def test_rows_of_benchmarks_that_no_longer_exist_are_dropped() -> None:
    text = rewritten(EMPTY, record("alpha", 1.0)).replace("alpha", "gone")
    assert table.row_names(rewritten(text, record("beta", 1.0))) == ["beta"]


def test_writing_the_same_figures_again_changes_nothing() -> None:
    once = rewritten(EMPTY, record("alpha", 1.0))
    assert rewritten(once, record("alpha", 1.0)) == once


def test_a_row_taken_beside_other_work_says_so() -> None:
    assert "not clean: 0.84 cores" in rewritten(EMPTY, record("alpha", 1.0, 0.84))
    assert "not clean" not in rewritten(EMPTY, record("alpha", 1.0, 0.05))
    assert "not clean" not in rewritten(EMPTY, record("alpha", 1.0, None))


@pytest.mark.parametrize("text", ["no table", table.BEGIN, table.END, table.END + table.BEGIN])
def test_a_text_without_both_markers_is_refused(text: str) -> None:
    with pytest.raises(DataFormatError, match="no place for the table"):
        rewritten(text, record("alpha", 1.0))
