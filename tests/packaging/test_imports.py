"""Importing the core is cheap: no optional, network or database library comes along."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ["cupy", "google.protobuf", "grpc", "pydantic", "scipy", "sqlalchemy", "torch", "typer"]


def modules_after(statement: str) -> set[str]:
    """The names in `sys.modules` of a fresh interpreter that ran `statement`."""
    command = [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_fedcore_loads_no_heavy_library() -> None:
    loaded = modules_after("import fedcore.public")
    assert "fedcore.tensor.tensor" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_fedcore_loads_neither_secure_aggregation_nor_its_cryptography() -> None:
    loaded = modules_after("import fedcore.public")
    assert loaded.isdisjoint({"cryptography", "fedcore.entropy", "fedcore.secagg"})


def test_importing_secure_aggregation_loads_no_heavy_library() -> None:
    loaded = modules_after("import fedcore.secagg")
    assert {"cryptography", "fedcore.entropy", "fedcore.secagg"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_a_part_loads_neither_tensors_nor_what_it_does_not_need() -> None:
    for part in ("fedcore", "fedcore.secagg", "fedcore.rounds", "fedcore.wire", "fedclient"):
        loaded = modules_after(f"import {part}\nfrom fedcore import errors")
        assert not {name for name in loaded if name.startswith(("fedcore.tensor", "fedcore.auto"))}


def test_importing_the_simulator_loads_its_parts_as_they_are_asked_for() -> None:
    assert not {name for name in modules_after("import fedsim") if name.startswith("fedsim.")}
    parts = ("fedsim.run", "fedsim.modes", "fedsim.report", "fedsim.sweep", "fedsim.commands")
    loaded = modules_after("from fedsim import Scenario")
    assert "fedsim.scenario" in loaded
    assert not {name for name in loaded if name.startswith(parts)}
    assert "fedsim.run.outcome" in modules_after("from fedsim import simulate")


def test_a_worker_of_a_simulation_loads_nothing_that_plans_or_reports_one() -> None:
    loaded = modules_after("import fedsim.engine.process")
    parts = ("clock", "commands", "engine.ray", "modes", "report", "run", "scenario", "sources")
    assert not {name for name in loaded if name.startswith(tuple(f"fedsim.{p}" for p in parts))}


def test_a_server_loads_what_speaks_to_other_machines_only_where_it_is_told_to() -> None:
    loaded = modules_after("import fedserver.opening, fedserver.object_blobs, fedserver.standby")
    assert "fedserver.objects" in loaded
    assert loaded.isdisjoint({"aiobotocore", "botocore", "fsspec", "psycopg", "s3fs"})


def test_the_check_sees_a_library_that_is_loaded() -> None:
    assert "google.protobuf" in modules_after("import google.protobuf")
