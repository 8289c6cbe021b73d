"""What shipped code may never do, read from its syntax: run data, or compare secrets in a hurry."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedclient
import fedcore
import fedserver
import fedsim

ROOTS = [Path(package.__file__).parent for package in (fedcore, fedclient, fedserver, fedsim)]
SOURCES = [
    path
    for root in ROOTS
    for path in sorted(root.rglob("*.py"))
    if "v1" not in path.relative_to(root).parts  # generated
]

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "execfile", "__import__", "extractall", "unpack_archive"}
FORBIDDEN_FUNCTIONS = {"torch.load", "os.system", "os.popen"}

# Values that guard something: an early end of `==` tells how much of a guess was right.
SECRET = re.compile(
    r"(^|_)(token|secret|signature|password|passphrase|mac|hmac|proof|private)(_|$)", re.IGNORECASE
)
# Names that say what a value is about, and not that it is the value; and constants.
HARMLESS = re.compile(r"_(bytes|length|size|count|id|name|file|path|kind|type|ms|s)$|^[A-Z_]+$")


def found_in(source: str) -> list[str]:
    """What is wrong with a source, each with its line."""
    return [f"{node.lineno}: {why}" for node, why in _findings(ast.parse(source))]


def _findings(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    nodes = list(ast.walk(tree))
    numbers = {  # the fencing token of a lease is a number that everybody may know
        node.arg
        for node in nodes
        if isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) == "int"
    }
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in FORBIDDEN_MODULES:
                    yield node, f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in FORBIDDEN_MODULES:
                yield node, f"imports from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _bad_call(node)
        elif isinstance(node, ast.Compare):
            yield from _bad_comparison(node, numbers)


def _bad_call(node: ast.Call) -> Iterator[tuple[ast.expr, str]]:
    name = _name(node.func)
    if name in FORBIDDEN_CALLS and (isinstance(node.func, ast.Name) or name.startswith("ext")):
        yield node, f"calls {name}"
    called = ast.unparse(node.func)
    if called in FORBIDDEN_FUNCTIONS:
        yield node, f"calls {called}"
    for keyword in node.keywords:
        if keyword.arg in ("allow_pickle", "shell") and not _is_false(keyword.value):
            yield node, f"passes {keyword.arg}"


def _bad_comparison(node: ast.Compare, numbers: set[str]) -> Iterator[tuple[ast.expr, str]]:
    sides = [node.left, *node.comparators]
    for operator, left, right in zip(node.ops, sides, sides[1:], strict=False):
        if not isinstance(operator, ast.Eq | ast.NotEq):
            continue
        if any(isinstance(side, ast.Constant) for side in (left, right)):
            continue  # with what everybody knows there is nothing to guess
        if any(re.search(r"\bc\.\w+$", ast.unparse(side)) for side in (left, right)):
            continue  # a column: the database compares digests, in an index
        for side in (left, right):
            name = _name(side)
            if SECRET.search(name) and not HARMLESS.search(name) and name not in numbers:
                yield node, f"compares {name} with =="


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    return ""


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_no_shipped_source_runs_data_or_compares_secrets_with_equality() -> None:
    assert len(SOURCES) > 150
    wrong = [
        f"{path.name}:{finding}"
        for path in SOURCES
        for finding in found_in(path.read_text("utf-8"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import a, marshal",
        "from yaml import load",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "exec(x)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "archive.extractall(path)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import os\nos.system('ls')",
        "if token == given: pass",
        "x = a.signature != b.signature",
        "y = self._secret == other",
        "z = row.token_sha256 == digest",
        "w = f(x) == mac",
    ],
)
def test_what_is_forbidden_is_found(source: str) -> None:
    assert found_in(source)


@pytest.mark.parametrize(
    "source",
    [
        "import json, ast",
        "np.load(f, allow_pickle=False)",
        "self.eval()",
        "if token_bytes == 32: pass",
        "if len(signature) != SIGNATURE_BYTES: pass",
        "hmac.compare_digest(token, given)",
        "if token == '': pass",
        "if x is token: pass",
        "where(table.c.token_sha256 == digest)",
        "def f(row, token: int): return row['token'] != token",
    ],
)
def test_what_is_harmless_passes(source: str) -> None:
    assert not found_in(source)
