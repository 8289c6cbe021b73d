"""What a release is made of: every version by its hash, under a licence that may be passed on.

Four files, one resolution: requirements.lock has everything, the others are parts of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

BUILD = "requirements-build.lock"
SERVERS = {
    "requirements-server.lock": {"server"},
    "requirements-cluster.lock": {"postgres", "s3", "server"},
}
"""What a server is installed from, and the extras that it has."""

ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0"),
    *("BSL-1.0", "CC0-1.0", "PSF-2.0", "Unlicense", "Zlib"),
}
"""Of licences by their SPDX names: none asks that what is built on them be published."""

WORDS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "python software foundation license": "PSF-2.0",
}
"""How older packages name theirs."""

LINKED = {"psycopg": {"LGPL-3.0-only"}, "psycopg-binary": {"LGPL-3.0-only"}}
"""A licence of a library that stays a file of its own, which whoever gets it may exchange. Only who
asks for PostgreSQL gets one."""

EXCEPTIONS = {"GPL-3.0-or-later WITH GCC-exception-3.1", "LGPL-2.1-or-later"}
"""Of libraries of the compiler within wheels, which may be passed on with any program."""


def pins(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """By package and marker its version and hashes."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pinned, *hashes = line.split("--hash=")
            package, _, rest = pinned.strip().partition("==")
            version, _, marker = rest.partition(";")
            assert version and hashes, f"{name}: {line[:60]} is not fixed by a hash"
            key = f"{canonicalize_name(package)};{marker.strip()}"
            found[key] = (version.strip(), frozenset(text.strip() for text in hashes))
    return found


def names_in(lock: str) -> set[str]:
    return {key.partition(";")[0] for key in pins(lock)}


@pytest.mark.parametrize("part", [*SERVERS, BUILD])
def test_a_part_has_the_versions_and_hashes_of_the_whole(part: str) -> None:
    whole = {package.partition(";")[0]: set() for package in pins("requirements.lock")}
    for key, pinned in pins("requirements.lock").items():
        whole[key.partition(";")[0]].add(pinned)
    found = pins(part)
    assert found
    for key, pinned in found.items():
        assert pinned in whole[key.partition(";")[0]], key


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> None:
    """What an installed package needs on this machine, and what that needs."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    for text in requires(name) or []:
        found = Requirement(text)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if found.marker is None or any(found.marker.evaluate(one) for one in environments):
            needed(canonicalize_name(found.name), frozenset(found.extras), seen)


@pytest.mark.parametrize(("part", "extras"), SERVERS.items())
def test_a_servers_part_is_all_that_its_extras_need_and_no_more(
    part: str, extras: set[str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(project["dependencies"])
    for extra in extras:
        waiting += project["optional-dependencies"][extra]
    while waiting:
        found = Requirement(waiting.pop())
        if found.name == project["name"]:
            for extra in found.extras:
                waiting += project["optional-dependencies"][extra]
            continue
        try:
            needed(canonicalize_name(found.name), frozenset(found.extras), seen)
        except PackageNotFoundError as error:
            pytest.skip(f"the extras {sorted(extras)} are not installed whole: {error}")
    wanted = {name for name, _ in seen}
    elsewhere = {"colorama", "tzdata"}  # of another system than this one
    assert wanted <= names_in(part) <= wanted | elsewhere


def test_the_build_part_is_what_a_wheel_is_built_with() -> None:
    system = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]
    (backend,) = map(Requirement, system["requires"])
    versions = {key.partition(";")[0]: found for key, (found, _) in pins(BUILD).items()}
    assert backend.specifier.contains(versions[canonicalize_name(backend.name)])


def licences(name: str) -> Iterator[str]:
    """The SPDX names that a package's licence consists of."""
    told = metadata(name)
    if expression := told.get("License-Expression"):
        yield from licences_in(expression)
        return
    classified = [
        text.rpartition(" :: ")[2]
        for text in told.get_all("Classifier") or []
        if text.startswith("License :: ") and not text.endswith("OSI Approved")
    ]
    text = (told.get("License") or "").strip()
    for words in classified or [text]:
        yield WORDS.get(words.lower(), words)


def licences_in(expression: str) -> set[str]:
    """All that must be kept to: an alternative is taken where it is allowed."""
    found: set[str] = set()
    for part in re.split(r"\s+AND\s+", re.sub(r"[()]", "", expression)):
        choices = re.split(r"\s+OR\s+", part)
        allowed = [one for one in choices if one in ALLOWED | EXCEPTIONS]
        found |= set(allowed[:1] or choices)
    return found


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("MIT", {"MIT"}),
        ("MIT OR GPL-3.0-only", {"MIT"}),
        ("GPL-3.0-only", {"GPL-3.0-only"}),
        ("BSD-3-Clause AND (MIT OR X)", {"BSD-3-Clause", "MIT"}),
    ],
)
def test_an_expression_is_read_as_what_must_be_kept_to(expression: str, names: set[str]) -> None:
    assert licences_in(expression) == names


@pytest.mark.parametrize(
    ("part", "linked"), [("requirements-server.lock", {}), ("requirements-cluster.lock", LINKED)]
)
def test_everything_that_a_server_is_made_of_may_be_passed_on(
    part: str, linked: dict[str, set[str]]
) -> None:
    refused, looked_at = {}, 0
    for name in names_in(part):
        try:
            found = set(licences(name))
        except PackageNotFoundError:
            continue  # of another system
        looked_at += 1
        if not found or found - ALLOWED - EXCEPTIONS - linked.get(name, set()):
            refused[name] = found
    assert refused == {} and looked_at > 30


@pytest.mark.slow
@pytest.mark.parametrize("part", SERVERS)
def test_the_bill_of_materials_has_every_package_of_a_server_with_its_hashes(
    tmp_path: Path, part: str
) -> None:
    pytest.importorskip("cyclonedx_py", reason="it is written by cyclonedx-bom (the extra 'dev')")
    said = subprocess.run(
        ["make", "-n", "--no-print-directory", "sbom"], cwd=ROOT, capture_output=True, text=True
    )
    command = re.search(r"-W ignore.*lock", said.stdout.replace("\\\n", " "))
    assert command is not None, said
    which = part.removeprefix("requirements-").removesuffix(".lock")
    assert f" {which}" in said.stdout.partition("; do")[0]
    words = command[0].replace("$part", which).split()
    assert words[-1] == part
    words[words.index("-o") + 1] = str(tmp_path / "bill.json")
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bill.json").read_bytes())
    assert "timestamp" not in found["metadata"] and "serialNumber" not in found  # the same again
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["name"] == "fedcore-fl"
    wanted = {
        f"pkg:pypi/{key.partition(';')[0]}@{version}" for key, (version, _) in pins(part).items()
    }
    assert {component["purl"] for component in found["components"]} == wanted
    for component in found["components"]:
        (source,) = component["externalReferences"]
        assert {digest["alg"] for digest in source["hashes"]} == {"SHA-256"}
