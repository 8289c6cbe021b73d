"""The sources keep the promises that no linter checks: public names, sizes, the install command."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOUSES = (ROOT, ROOT / "client", ROOT / "server", ROOT / "simulations")
PACKAGES = ("fedcore", "fedclient", "fedserver", "fedsim")
SOURCES = sorted(
    path
    for house, package in zip(HOUSES, PACKAGES, strict=True)
    for path in (house / package).rglob("*.py")
    if not path.stem.endswith(("_pb2", "_pb2_grpc"))  # generated
)
OF_PACKAGE = {  # a test a package: of a test a file there would be thousands
    package: [path for path in SOURCES if path.is_relative_to(house / package)]
    for house, package in zip(HOUSES, PACKAGES, strict=True)
}
MOST_LINES = 450

# A stranger owns the bare name on the public index; the name of this distribution ends in -fl.
FORBIDDEN = re.compile(r"(?:pip3?|uv) (?:install|add)\b[^\n]*?(?<![\w./-])fedcore(?![\w./-])")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of_the_package(path: Path) -> Iterator[tuple[str, str]]:
    """Each (module, name) of a `from <package of ours> import name` anywhere in a file.

    Generated modules declare nothing.
    """
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            if re.fullmatch(r"fedcore\.v1\.\w+_pb2(_grpc)?", str(node.module)):
                continue
            yield from ((str(node.module), alias.name) for alias in node.names)


def module_of(path: Path) -> ModuleType:
    house = next(house for house in reversed(HOUSES) if path.is_relative_to(house))
    parts = path.relative_to(house).with_suffix("").parts
    return importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def taken(source: str, name: str) -> object:
    """What `from source import name` gives: an attribute, or a module that it imports."""
    module = importlib.import_module(source)
    if not hasattr(module, name):  # a function may import it, and has not been called
        importlib.import_module(f"{source}.{name}")
    return getattr(module, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_what_exists_and_nothing_twice(package: str) -> None:
    wrong = []
    for path in OF_PACKAGE[package]:
        module = module_of(path)
        listed = getattr(module, "__all__", [])
        absent = [name for name in listed if not hasattr(module, name)]
        wrong += [named(path)] if absent or len(set(listed)) != len(listed) else []
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_module_takes_from_another_is_in_the_others_all(package: str) -> None:
    for path in OF_PACKAGE[package]:
        module_of(path)  # so that every submodule it names is an attribute of its package
    undeclared = [
        f"{named(path)}: {source}.{name}"
        for path in OF_PACKAGE[package]
        for source, name in imports_of_the_package(path)
        if name != "*"  # which takes what is listed
        and not isinstance(taken(source, name), ModuleType)
        and name not in getattr(importlib.import_module(source), "__all__", [])
    ]
    assert undeclared == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_class_is_the_same_wherever_it_is_named(package: str) -> None:
    """Else a module was imported twice, by whoever collects tests as by whoever runs them."""
    for path in OF_PACKAGE[package]:
        for value in vars(module_of(path)).values():
            if isinstance(value, type) and value.__module__.partition(".")[0] in PACKAGES:
                home = importlib.import_module(value.__module__)
                assert getattr(home, value.__qualname__, value) is value, named(path)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_every_public_name_it_gathers(package: str) -> None:
    unlisted = []
    for path in sorted({path.parent / "__init__.py" for path in OF_PACKAGE[package]}):
        gathered = {
            alias.asname or alias.name
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.ImportFrom) and node.module != "__future__"
            for alias in node.names
        }
        listed = {*getattr(module_of(path), "__all__", [])}
        unlisted += [
            f"{named(path)}: {name}" for name in gathered - listed if not name.startswith("_")
        ]
    assert unlisted == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_stays_readable_in_one_sitting(package: str) -> None:
    lengths = {named(p): len(p.read_text("utf-8").splitlines()) for p in OF_PACKAGE[package]}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_opens_with_the_reason_it_exists(package: str) -> None:
    silent = [path for path in OF_PACKAGE[package] if not (module_of(path).__doc__ or "").strip()]
    assert silent == []


def texts() -> Iterator[Path]:
    """Every text a reader may copy a command from."""
    yield from (ROOT / name for name in ("Makefile", "pyproject.toml", ".ci/run"))
    yield from ROOT.glob("*.md")
    for folder in (
        "benchmarks",
        "client",
        "docs",
        "examples",
        "fedcore",
        "server",
        "simulations",
        "tests",
    ):
        for kind in ("*.md", "*.py", "*.toml", "*.sh"):
            yield from (ROOT / folder).rglob(kind)


def test_no_text_tells_the_reader_to_install_a_strangers_package() -> None:
    wrong = [named(path) for path in texts() if FORBIDDEN.search(path.read_text("utf-8"))]
    assert wrong == []


@pytest.mark.parametrize("tail", ["", "[dev]", " numpy", "==1.0", "'"])
def test_the_forbidden_command_is_recognised(tail: str) -> None:
    assert FORBIDDEN.search("pip " + "install -U fedcore" + tail)


@pytest.mark.parametrize("target", ["fedcore-fl", "'fedcore-fl[dev]'", "-e .", "./fedcore_fl.whl"])
def test_the_right_commands_are_let_through(target: str) -> None:
    assert not FORBIDDEN.search("pip " + f"install {target}")
