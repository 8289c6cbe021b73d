"""What all tests share: reproducible random examples, and what may not be there on a machine."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fedcore.tensor import blas
from tests.postgres import Postgres, binaries

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("quick", derandomize=True, deadline=None, max_examples=8)
settings.register_profile("thorough", deadline=None, max_examples=500, print_blob=True)
# Without a database, so that a seed says all: what failed once is not tried first.
settings.register_profile("repeated", deadline=None, max_examples=10, database=None)
settings.load_profile("quick")

# As in every program of ours that trains: the bits of devices and workers are held against those of
# this process, and some processors have kernels that OpenBLAS does not choose by itself.
blas.prepare()


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that may lie beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets do not lie beside this checkout, in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that runs as long as the tests of this process."""
    made = Postgres()
    yield made
    made.close()


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """The name of an empty database of the newest schema."""
    from fedserver.store import migrating
    from fedserver.store.postgres.address import PostgresAddress

    name = postgres.database()
    migrating.upgrade(PostgresAddress(postgres.url(name)))
    return name


@functools.cache
def _reason_for_no_gpu() -> str:
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed (the extra 'gpu')"
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"
    return ""


def _reason_for_no_postgres() -> str:
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed (the extra 'postgres')"
    return "" if binaries() else "PostgreSQL's server is not installed"


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: who waits for a process or a disk leaves a core to another.

    On two cores `make test` took 300 s with two workers, and 265 with three.
    """
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The twenty thousand tests that are found stay to the end: no collector looks through them.

    Of three workers that saved each 2 s of 13, and what every later look would have taken.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := _reason_for_no_gpu()):
        pytest.skip(reason)
    if item.get_closest_marker("postgres") and (reason := _reason_for_no_postgres()):
        pytest.skip(reason)
