"""The wheel holds the package and nothing else, and builds to the same bytes again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def build(root: Path, folder: Path) -> Path:
    """A wheel built by this environment's own build back end: no isolation, hence no network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: an edit while the tests run cannot fall between two builds."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs")
    return shutil.copytree(
        root, tmp_path_factory.mktemp("checkout"), ignore=ignored, dirs_exist_ok=True
    )


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_contains_exactly_the_packages(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages == {"fedcore", "fedclient", "fedserver", "fedsim"}
    assert len(tops) == 5  # and what describes them


def test_every_source_file_and_the_type_marker_are_in_the_wheel(
    checkout: Path, names: set[str]
) -> None:
    for package in ("fedcore", "client/fedclient", "server/fedserver", "simulations/fedsim"):
        house = (checkout / package).parent
        sources = {path.relative_to(house) for path in (checkout / package).rglob("*.py")}
        wanted = {path.as_posix() for path in sources} | {f"{Path(package).name}/py.typed"}
        assert len(wanted) > 1
        assert names >= wanted


def test_the_distribution_has_its_own_name_its_licence_and_four_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(path).decode()
    assert "\nName: fedcore-fl\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert sorted(needed) == ["cryptography", "grpcio", "numpy", "protobuf"]


def test_a_wheel_built_later_has_the_same_bytes(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    first = wheel.read_bytes()
    for path in (checkout / "fedcore").rglob("*.py"):
        path.touch()
    assert build(checkout, tmp_path).read_bytes() == first


@pytest.mark.parametrize("folder", ["client", "examples", "protos", "server", "tests"])
def test_a_folder_beside_the_package_is_no_package_itself(root: Path, folder: str) -> None:
    # An editable install puts the root on the path; without __init__.py such a folder stays empty.
    assert not (root / folder / "__init__.py").exists()
