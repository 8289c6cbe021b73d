"""The command line: data on standard output, everything else on standard error."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import benchmarks.__main__ as command
import benchmarks.import_core
from benchmarks import table
from benchmarks.figure import Figure
from benchmarks.load import Load
from benchmarks.peers import Peers
from benchmarks.registry import Benchmark, Measurement, discover

Declare = Callable[..., None]


def good(peers: Peers) -> Iterator[Figure]:
    yield Figure("good", 2.0, "ms")
    yield Figure("good.size", 3.0, "MB", 1.5, str(peers.scripts))


def broken(_peers: Peers) -> Iterator[Figure]:
    yield Figure("broken", 1.0, "ms")
    raise ZeroDivisionError("inside a benchmark")


def unanswered(_peers: Peers) -> Iterator[Figure]:
    yield Figure("unanswered", 100.0, "1/s", float("inf"), "nothing")
    yield Figure("unanswered.p99", float("inf"), "ms")


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """A function that makes the given functions the only benchmarks there are."""

    def only(*functions: Measurement) -> None:
        known = {f.__name__: Benchmark(f.__name__, f"{f.__name__}?", f) for f in functions}
        monkeypatch.setattr(command, "discover", lambda: known)

    return only


def test_list_names_every_benchmark_with_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        [declared.name, declared.question] for declared in discover().values()
    ]


def test_run_prints_one_json_line_a_figure_and_nothing_else(
    declare: Declare, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    declare(good)
    assert command.main(["run", "good", "--peers", str(tmp_path)]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["name"], r["value"], r["against"]) for r in records] == [
        ("good", 2.0, None),
        ("good.size", 3.0, str(tmp_path)),
    ]
    keys = {"name", "value", "unit", "ratio", "against", "target", "meets", "machine"}
    assert all(keys <= r.keys() and "NumPy" in r["machine"] for r in records)


def test_foreign_load_is_told_in_the_figure_and_on_standard_error(
    declare: Declare, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(
        [Load(0, 0, 0), Load(10, 8, 3), Load(10, 8, 3), Load(20, 18, 13), Load(20, 0, 0)]
    )
    monkeypatch.setattr(Load, "now", staticmethod(lambda: next(moments)))
    declare(good)
    assert command.main(["run", "good"]) == 0
    captured = capsys.readouterr()
    loads = [json.loads(line)["foreign_cores"] for line in captured.out.splitlines()]
    assert loads == [0.5, 0.0]
    assert captured.err.splitlines() == [
        "benchmarks: good is not clean: 0.50 cores busy with other work"
    ]


def test_figures_that_come_together_share_the_load_under_which_they_were_taken(
    declare: Declare, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = [Load(10, 8, 3), Load(10, 8, 3), Load(10.001, 8.01, 3), Load(10.001, 8.01, 3)]
    moments = iter([Load(0, 0, 0), *together])
    monkeypatch.setattr(Load, "now", staticmethod(lambda: next(moments)))
    declare(good)
    assert command.main(["run", "good"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["foreign_cores"] for line in lines] == [0.5, 0.5]


def test_one_broken_benchmark_loses_no_other_figure(
    declare: Declare, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(broken, good)
    assert command.main(["run", "--all"]) == 1
    captured = capsys.readouterr()
    names = [json.loads(line)["name"] for line in captured.out.splitlines()]
    assert names == ["broken", "good", "good.size"]
    assert "inside a benchmark" in captured.err and "broken failed" in captured.err


def test_a_figure_that_never_came_about_is_said_in_a_line(
    declare: Declare, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(unanswered, good)
    assert command.main(["run", "--all"]) == 1
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert [r["name"] for r in records] == ["unanswered", "good", "good.size"]
    assert records[0]["ratio"] is None
    assert "unanswered failed: unanswered.p99 would be inf" in captured.err
    assert "Traceback" not in captured.err


def test_write_puts_the_finished_benchmarks_into_the_readme(
    declare: Declare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{table.BEGIN}\n{table.END}\n")
    monkeypatch.setattr(command, "README", readme)
    declare(broken, good)
    assert command.main(["run", "--all"]) == 1
    assert table.row_names(readme.read_text()) == []
    assert command.main(["run", "--all", "--write"]) == 1
    assert table.row_names(readme.read_text()) == ["good", "good.size"]


def test_the_short_form_is_run_where_there_is_one_and_is_never_written_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {
        "good": Benchmark("good", "good?", good),
        "long": Benchmark("long", "long?", broken, short=good),
    }
    monkeypatch.setattr(command, "discover", lambda: known)
    assert command.main(["run", "long", "good", "--short"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    with pytest.raises(SystemExit):
        command.main(["run", "long", "--short", "--write"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run"], "nothing to run"),
        (["run", "good", "--all"], "names given beside --all"),
        (["run", "good", "bad", "worse"], "there is no bad, worse"),
    ],
)
def test_wrong_arguments_are_refused_with_what_to_do(
    declare: Declare, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    declare(good)
    assert command.main(arguments) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert reason in captured.err and "Fix: python -m benchmarks list" in captured.err


def test_import_core_measures_beside_numpy_and_finds_nothing_forbidden(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.import_core, "_REPEATS", 1)
    assert command.main(["run", "import-core"]) == 0
    time_ms, forbidden = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (time_ms["against"], time_ms["target"]) == ("import numpy", "value <= 150")
    assert (forbidden["name"], forbidden["value"]) == ("import-core.forbidden", 0)
    assert forbidden["meets"] is True
