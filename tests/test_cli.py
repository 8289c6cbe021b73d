"""The command `fed`: it imports one command alone, and its exit codes and output are a contract."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
import stat
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import fedcore
from fedcore.cli import GROUP, main
from tests.variants import mostly_slow

FED = "import sys\nfrom fedcore.cli import main\nsys.exit(main())"
COMMAND = """
    from fedcore.console import Console, Parser, common_options

    def main(argv):
        parser = Parser(prog="fed works", parents=[common_options()])
        actions = parser.add_subparsers(dest="action", required=True)
        add = actions.add_parser("add", parents=[common_options()])
        add.add_argument("terms", type=int, nargs="*")
        options = parser.parse_args(argv)
        console = Console.of(options, command="works add")
        console.progress("adding")
        console.detail("one by one")
        console.show({"sum": sum(options.terms)}, f"sum {sum(options.terms)}")
        return 0
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution that provides one command, its module made of `body`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def add(
        body: str, *, name: str = "works", owner: str = "acme", requires: Sequence[str] = ()
    ) -> Path:
        module = f"{owner}_{name}_{re.sub('[^a-z0-9]', '_', tmp_path.name.lower())}"
        (site / f"{module}.py").write_text(textwrap.dedent(body))
        info = site / f"{owner}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        lines = [f"Metadata-Version: 2.1\nName: {owner}\nVersion: 1.0", *requires]
        (info / "METADATA").write_text("\nRequires-Dist: ".join(lines) + "\n")
        points = info / "entry_points.txt"
        text = points.read_text() if points.exists() else f"[{GROUP}]\n"
        points.write_text(text + f"{name} = {module}:main\n")
        importlib.invalidate_caches()
        return site

    return add


def that(statement: str) -> str:
    """The module of a command that does one thing."""
    return f"def main(argv):\n    {statement}\n"


def fed(
    *arguments: str, site: Path | None = None, program: str = FED, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `fed`, or a program that calls it, in an interpreter of its own."""
    path = {"PYTHONPATH": str(site)} if site else {}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        env={**os.environ, "NO_COLOR": "1", **path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def bundles(folder: Path) -> list[Path]:
    return sorted(folder.glob("fed-bug-*"))


# Nothing is imported that was not asked for.


def test_the_dispatcher_needs_the_standard_library_alone() -> None:
    # Importing `fedcore` takes NumPy with it; an empty package in its place shows what is ours.
    statement = (
        "import sys, types\n"
        "package = sys.modules['fedcore'] = types.ModuleType('fedcore')\n"
        f"package.__path__ = [{os.path.dirname(fedcore.__file__)!r}]\n"
        "import fedcore.cli\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(roots - sys.stdlib_module_names))"
    )
    command = [sys.executable, "-I", "-S", "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["__main__", "fedcore"]


def test_only_the_command_that_was_named_is_imported(install: Install) -> None:
    install("raise ImportError('imported')", name="sleeps")
    site = install(COMMAND)
    listed = fed("--help", site=site)
    assert listed.returncode == 0 and re.search(r"^  sleeps$", listed.stdout, re.MULTILINE)
    done = fed("works", "add", "1", "2", site=site)
    assert (done.returncode, done.stdout, done.stderr) == (0, "sum 3\n", "adding\n")


def test_the_script_and_every_command_of_the_project_can_be_loaded(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"fed": "fedcore.cli:main"}
    for name, value in project.get("entry-points", {}).get(GROUP, {}).items():
        assert callable(importlib.metadata.EntryPoint(name, value, GROUP).load())


def test_it_says_its_version_and_help_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fed {importlib.metadata.version('fedcore-fl')}\n"
    assert main(["-h"]) == main(["--help"]) == 0
    assert "commands:" in capsys.readouterr().out
    assert main([]) == 4
    out, err = capsys.readouterr()
    assert not out and err.startswith("usage: fed [options] <command>")


# How a command ends.


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("import fedcore.errors as e; raise e.CheckpointError('x', fix='y')", 4, "FED-1204 x"),
        ("import fedcore.errors as e; raise e.SecAggError('x')", 1, "FED-1400 x"),
        ("import fedcore.errors as e; raise e.ArgumentError('x')", 4, "FED-1109 x"),
        ("import fedcore.errors as e; raise e.InstallError('x')", 4, "FED-1001 x"),
        ("from fedcore.console import Parser; Parser('p').parse_args(argv)", 4, "FED-1109 p: un"),
        ("import argparse; argparse.ArgumentParser().parse_args(argv)", 4, "usage: "),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('no')", 1, "no"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("1 / 0", 5, "FED-1000 fed: internal error, ZeroDivisionError"),
        ("open('/no/such/file')", 5, "FED-1000 fed: internal error, FileNotFoundError"),
        ("raise BrokenPipeError", 5, "FED-1000 fed: internal error, BrokenPipeError"),
        ("raise MemoryError('10 GiB')", 1, "FED-1110 there is not memory enough"),
        ("return None", 5, "FED-1000 fed: internal error, TypeError"),
        ("import fed_absent", 5, "FED-1000 fed: internal error, ModuleNotFoundError"),
    ],
)
def test_the_exit_code_says_how_it_ended_and_no_traceback_is_shown(
    install: Install,
    capsys: pytest.CaptureFixture[str],
    statement: str,
    code: int,
    said: str,
) -> None:
    install(that(statement))
    assert main(["works", "--unknown"]) == code
    out, err = capsys.readouterr()
    assert not out and err.startswith(said) and bool(err) == bool(said)
    assert "Traceback" not in err


def test_an_error_names_its_file_but_not_the_line_of_the_script(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(that("import fedcore.errors as e; raise e.PlanError('x', where='plan.toml:3')"))
    assert main(["works"]) == 4
    assert capsys.readouterr().err == "FED-1501 x\n  at plan.toml:3\n"


def test_the_line_of_the_script_that_ran_it_is_left_out(install: Install) -> None:
    # The library names its caller's line; a command of the package has none but that of the script.
    body = "from fedcore.optim import Adam\n\ndef main(argv):\n    Adam(lr=-1)\n"
    install("__name__ = 'fedcore.works'\n" + body, name="ours")
    site = install(body)
    program = (
        "import sys\nfrom fedcore.cli import main\nfor name in ('works', 'ours'):\n"
        "    assert main([name]) == 4\n    print('ended', file=sys.stderr)"
    )
    theirs, ours, rest = fed(site=site, program=program).stderr.split("ended\n")
    assert re.search(r"\n  at acme_works_\w+.py:4: Adam", theirs)
    assert "FED-1109" in ours and "\n  at " not in ours and not rest


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback_of_any_error(
    install: Install, capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    arguments = ["--debug", "works"] if before else ["works", "--debug"]
    install(that("import fedcore.errors as e; raise e.PlanError('x')"))
    assert main(arguments) == 4
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and "FED-1501 x" in err
    install(that("1 / 0"), name="fails")
    assert main([word.replace("works", "fails") for word in arguments]) == 5
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and "ZeroDivisionError: division" in err
    assert main(["works", "--", "--debug"]) == 4
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way")
@pytest.mark.parametrize(
    ("many", "unbuffered"),
    mostly_slow([("1", ""), ("100000", "1"), ("1", "1"), ("100000", "")], quick=2),
)
def test_a_reader_that_goes_away_is_no_bug(
    install: Install, tmp_path: Path, many: str, unbuffered: str
) -> None:
    site = install(that("[print(i) for i in range(int(argv[0]))]; return 0"))
    environment = {**os.environ, "PYTHONPATH": str(site), "TMPDIR": str(tmp_path)}
    environment["PYTHONUNBUFFERED"] = unbuffered
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", FED, "works", many],
            env=environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    assert bundles(tmp_path) == []


# A command that is not there.


@pytest.mark.parametrize(
    ("given_name", "fix"),
    [("wroks", "did you mean 'fed works'?"), ("zzz", "fed --help lists the commands")],
)
def test_an_unknown_command_is_answered_with_the_nearest(
    install: Install, capsys: pytest.CaptureFixture[str], given_name: str, fix: str
) -> None:
    install(COMMAND)
    assert main([given_name]) == 4
    err = capsys.readouterr().err
    assert err.startswith(f"FED-1109 fed: there is no command {given_name!r}\n")
    assert "works" in err and err.endswith(f"Fix: {fix}\n")


@pytest.mark.parametrize(
    ("requires", "fix"),
    [
        (["absent-parts>=2; extra == 'cli'"], "install the extra 'cli', in a checkout"),
        (
            [
                'absent_parts; extra == "dev"',
                'Absent.Parts[x]>=2 ; (os_name != "z") and extra=="a"',
            ],
            "install the extra 'a', in a checkout",
        ),
        (["absent-parts-too; extra == 'x'", "absent-parts"], "install what provides the module"),
        ([], "install what provides the module absent_parts"),
    ],
)
def test_a_missing_library_names_the_extra_that_brings_it(
    install: Install, capsys: pytest.CaptureFixture[str], requires: list[str], fix: str
) -> None:
    install("import absent_parts.more", requires=requires)
    assert main(["works"]) == 4
    err = capsys.readouterr().err
    assert err.startswith("FED-1001 'fed works' needs absent_parts\n") and f"Fix: {fix}" in err


@pytest.mark.parametrize("module", ["fedcore.absent", "fedserver_x", "fedclient_x"])
def test_a_missing_module_of_ours_is_a_bug(
    install: Install, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    install(f"import {module}", requires=[f"{module}; extra == 'x'"])
    assert main(["works"]) == 5
    assert "internal error, ModuleNotFoundError" in capsys.readouterr().err


def test_a_module_that_exits_when_imported_ends_like_a_command(install: Install) -> None:
    install("raise SystemExit(2)")
    assert main(["works"]) == 4


def test_a_command_that_two_distributions_claim_is_not_run(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("raise ImportError('imported')")
    install("raise ImportError('imported')", owner="zeta")
    assert main(["works"]) == 4
    assert "which of acme, zeta would run" in capsys.readouterr().err


# The bundle of a bug.


def test_a_bug_leaves_a_private_bundle_and_prints_its_path(
    install: Install, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    install("import math\n\ndef main(argv):\n    return math.sqrt(-len(argv))\n")
    assert main(["works", "add", "--rounds=7", "-q"]) == 5
    (bundle,) = bundles(tmp_path)
    assert str(bundle) in capsys.readouterr().err
    text = bundle.read_text("utf-8")
    assert text.startswith("arguments: fed works add --rounds=<hidden> -q\n")
    assert "return math.sqrt(-len(argv))" in text and "ValueError: math domain error" in text
    assert f"Python {sys.version.split()[0]}" in text
    for name in ("fedcore-fl", "numpy"):
        assert f"{name} {importlib.metadata.version(name)}" in text
    if os.name == "posix":
        assert stat.S_IMODE(bundle.stat().st_mode) == 0o600


def test_a_bundle_that_cannot_be_written_is_printed(
    install: Install,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    install(that("1 / 0"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert main(["works"]) == 5
    err = capsys.readouterr().err
    assert "arguments: fed works\n" in err and "ZeroDivisionError: division by zero" in err


@given(
    secret=st.from_regex(r"[A-Za-z0-9_~/+=][A-Za-z0-9_~/+=-]{15,40}", fullmatch=True),
    shape=st.sampled_from(
        [["--token", "S"], ["--token=S"], ["-pS"], ["-p", "S"], ["join", "S"], ["S"], ["--", "S"]]
    ),
)
def test_no_value_of_an_argument_reaches_the_bundle(secret: str, shape: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        site = Path(folder) / "site"
        info = site / "acme-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\nworks = acme_leaks:main\n")
        (site / "acme_leaks.py").write_text(that("raise ValueError(f'no {argv} here', *argv)"))
        patch.syspath_prepend(site)
        patch.setattr(tempfile, "tempdir", folder)
        with contextlib.redirect_stderr(io.StringIO()) as shown:
            assert main(["works", *(part.replace("S", secret) for part in shape)]) == 5
        (bundle,) = bundles(Path(folder))
        assert "ValueError" in bundle.read_text("utf-8")
        assert secret not in bundle.read_text("utf-8") + shown.getvalue()


# Data and progress.


def test_the_common_options_may_stand_anywhere(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(COMMAND)
    orders = (
        ["--format", "jsonl", "-q", "works", "add", "2", "3"],
        ["--format=jsonl", "works", "-q", "add", "2", "3"],
        ["works", "--format", "jsonl", "add", "2", "3", "-q"],
    )
    for order in orders:
        assert main(order) == 0
        out, err = capsys.readouterr()
        assert out == '{"version": 1, "command": "works add", "data": {"sum": 5}}\n'
        assert not err


@pytest.mark.parametrize(
    ("options", "progress"),
    [([], "adding\n"), (["-q"], ""), (["--quiet"], ""), (["-v"], "adding\none by one\n")],
)
def test_progress_goes_to_standard_error_as_loud_as_asked(
    install: Install, capsys: pytest.CaptureFixture[str], options: list[str], progress: str
) -> None:
    install(COMMAND)
    assert main(["works", "add", *options]) == 0
    assert capsys.readouterr() == ("sum 0\n", progress)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--format", "yaml"], "fed: argument --format: invalid choice: 'yaml'"),
        (["--form", "json"], "fed: unrecognized arguments: --form"),
        (["works", "add", "--form=json"], "fed works: unrecognized arguments: --form"),
        (["works", "add", "-q", "-v"], "not allowed with argument"),
        (["works", "add", "x"], "fed works add: argument terms: invalid int value: 'x'"),
        (["works"], "fed works: the following arguments are required: action"),
    ],
)
def test_wrong_arguments_are_refused_with_the_usage(
    install: Install, capsys: pytest.CaptureFixture[str], wrong: list[str], said: str
) -> None:
    install(COMMAND)
    assert main(wrong) == 4
    out, err = capsys.readouterr()
    assert not out and said in err and "Why: usage: fed" in err and "--help says" in err


def test_a_name_that_is_no_text_can_be_printed(install: Install) -> None:
    site = install(that("print(argv[0], chr(0x3b5)); return 0"))
    done = fed("works", os.fsdecode(b"a\xff"), site=site, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\\udcff \\u03b5\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is imitated by a pty")
@pytest.mark.parametrize(("asked", "set_to"), [("", "NONE"), ("DEBUG", "DEBUG")])
def test_grpc_writes_nothing_of_its_own_unless_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, asked: str, set_to: str
) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", asked)  # is put back afterwards
    if not asked:
        monkeypatch.delenv("GRPC_VERBOSITY")
    assert main(["--version"]) == 0
    assert os.environ["GRPC_VERBOSITY"] == set_to


def test_no_colour_is_printed_even_on_a_terminal(install: Install) -> None:
    import pty

    site = install(COMMAND)
    environment: Mapping[str, str] = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(site)}
    orders = (["--help"], ["works", "--help"], ["wroks"], ["works", "add", "1"])
    program = f"from fedcore.cli import main\nfor words in {orders}:\n main(words); print('ended')"
    terminal, end = pty.openpty()
    command, shown = [sys.executable, "-u", "-c", program], b""
    with subprocess.Popen(command, env=environment, stdout=end, stderr=end):
        os.close(end)
        with contextlib.suppress(OSError):  # how Linux says that the other end was closed
            while part := os.read(terminal, 4096):
                shown += part
    os.close(terminal)
    *each, rest = shown.split(b"ended\r\n")
    assert len(each) == len(orders) and all(each) and not rest and b"\x1b" not in shown
