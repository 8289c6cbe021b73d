"""`python -m tests.mutation PART MUTANTS SEED`: how many small defects the tests of a part see.

mutmut makes every small change to every function of a part; so many of them, drawn by the seed, are
given to the tests that belong to it, the quickest first. No other wording of a message is drawn.
What survives is listed at the end. In `build/mutation/PART`, `mutmut show NAME` shows a change, and
`mutmut.log` says how far it is.
"""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from tests.mutation.parts import PARTS, ROOT, Part, files_of
from tests.mutation.words import meaning

_SHOWN = ("client", "server", "simulations", "tests", "docs", "README.md")
_QUICK = "not slow and not oracle and not postgres"
_QUICKEST_FIRST = "tests.mutation.quickest_first"
_ALIVE = ("survived", "no tests", "not checked")


def main(name: str, mutants: int, seed: int) -> None:
    """Print a table of the part's modules and the names of those that survived."""
    os.chdir(_project(name))
    with Path("mutmut.log").open("w") as log, redirect_stdout(log):
        made = _made()
    drawn = random.Random(seed).sample(made, min(mutants, len(made)))
    # Programs that the tests start see the changed sources as well.
    folders = [Path("mutants", name).resolve() for name in ("", "client", "server", "simulations")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    program = Path(sys.executable).with_name("mutmut")
    command = [program, "run", "--max-children", "1", *drawn]
    with Path("mutmut.log").open("a") as log:
        subprocess.run(command, env=environment, check=True, stdout=log, stderr=log)
    _report(name, drawn, len(made))


def _project(name: str) -> Path:
    """A folder that looks like the checkout, with settings of its own.

    What mutmut measured there is of use again: which tests reach a function, how long they take.
    """
    folder = ROOT / "build/mutation" / name
    (folder / "mutants").mkdir(parents=True, exist_ok=True)
    for shown in ("fedcore", *_SHOWN):
        if not (folder / shown).exists():
            (folder / shown).symlink_to(ROOT / shown)
    ours = (ROOT / "pyproject.toml").read_text("utf-8")
    (folder / "pyproject.toml").write_text(ours + _settings(PARTS[name]), "utf-8")
    return folder


def _settings(part: Part) -> str:
    """A server forks for each mutant: a test that remembers what it saw would see no change."""
    options = {
        "source_paths": ["fedcore"],
        "only_mutate": part.sources,
        "also_copy": _SHOWN,
        # To measure makes tests slow, and their own limit would end it.
        "pytest_add_cli_args": ["-m", _QUICK, "-p", _QUICKEST_FIRST, "--timeout=1800"],
        "pytest_add_cli_args_test_selection": files_of(part),
        "process_isolation": "forkserver",
        "timeout_multiplier": 4.0,
        "timeout_constant": 30.0,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(["\n[tool.mutmut]", *lines, ""])


def _made() -> list[str]:
    """Make all mutants, and name those that are more than another wording."""
    # It reads its settings from the working folder when it is imported.
    from mutmut.__main__ import create_mutants
    from mutmut.utils.file_utils import copy_src_dir

    copy_src_dir()
    create_mutants(1)
    return sorted(
        ".".join((*path.with_suffix("").parts[1:], mutant)).replace(".__init__.", ".")
        for path in Path("mutants/fedcore").rglob("*.py")
        if path.with_name(f"{path.name}.meta").exists()
        for mutant in _changed(path.read_text("utf-8"))
    )


def _changed(source: str) -> Iterator[str]:
    """The mutants of a file, each a function beside the original, without those of words alone."""
    functions = {
        node.name: node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "__mutmut_" in node.name
    }
    meant = {name: meaning(node) for name, node in functions.items()}
    for name in meant:
        original = name.partition("__mutmut_")[0] + "__mutmut_orig"
        if meant[name] != meant[original]:
            yield name


def _exit_codes() -> dict[str, int | None]:
    """By mutant how its tests ended."""
    found: dict[str, int | None] = {}
    for path in Path("mutants/fedcore").rglob("*.meta"):
        found |= json.loads(path.read_text("utf-8"))["exit_code_by_key"]
    return found


def _report(name: str, drawn: list[str], made: int) -> None:
    from mutmut.stats import status_by_exit_code

    codes = _exit_codes()
    ends = {mutant: status_by_exit_code[codes[mutant]] for mutant in drawn}
    print(f"\n{name}: {len(drawn)} of {made} mutants\n\n| module | mutants | seen | share |")
    print("|---|---|---|---|")
    for module in sorted(set(map(_module, drawn))):
        print(_row(module, [end for mutant, end in ends.items() if _module(mutant) == module]))
    print(_row(f"**{name}**", list(ends.values())), dict(Counter(ends.values())), "", sep="\n")
    for mutant, end in sorted(ends.items()):
        if end in _ALIVE:
            print(f"{end}: {mutant}")


def _module(mutant: str) -> str:
    return mutant.rpartition(".")[0]


def _row(name: str, ends: list[str]) -> str:
    seen = sum(end not in _ALIVE for end in ends)
    return f"| {name} | {len(ends)} | {seen} | {100 * seen / len(ends):.0f} % |"


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in PARTS:
        sys.exit(f"usage: python -m tests.mutation {{{','.join(PARTS)}}} MUTANTS SEED")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
