"""What is opened from settings is as the settings say, and the same after a restart."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fedcore.errors import AuditError, ServerError
from fedserver.authority import Authority
from fedserver.config import Config
from fedserver.federation.federation import LocalFederation
from fedserver.key_files import AUDIT_SIGNER, DATASTORE_KEYS, PARTICIPATION_KEY, create_key
from fedserver.opening import opened
from tests.server.federation.world import World, task_of


@pytest.fixture
def config(tmp_path: Path) -> Config:
    Authority.create(tmp_path / "ca", trust_domain="fl.test", now=int(time.time()))
    for name in (DATASTORE_KEYS, PARTICIPATION_KEY, AUDIT_SIGNER):
        create_key(tmp_path / "ca" / name)
    return Config.of(
        {
            "server": {"state_directory": str(tmp_path / "state")},
            "authority": {"directory": str(tmp_path / "ca")},
            "rounds": {"lease_s": 5, "most_attempts": 3, "check_ins_per_second": 7},
        }
    )


async def test_rounds_are_driven_as_the_settings_say(config: Config) -> None:
    async with opened(config) as parts:
        federation = parts.federation
        assert isinstance(federation, LocalFederation)
        found = federation._resources
        assert (found.lease_ms, found.most_attempts, found.check_ins_per_second) == (5000, 3, 7)


async def test_nobody_drives_a_task_of_a_server_that_cannot_open_its_ports(
    config: Config, tmp_path: Path
) -> None:
    world = World(tmp_path, task_of(), clients=1)
    async with opened(config) as parts:
        assert isinstance(parts.federation, LocalFederation)
        world.federation = parts.federation
        await world.submit()
    with capture_logs() as logs, pytest.raises(ServerError, match="in use"):
        async with opened(config) as parts:
            assert isinstance(parts.federation, LocalFederation)
            driving = list(parts.federation._running.values())
            raise ServerError("the port 7443 is in use")
    assert driving and all(task.done() for task in driving)
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_the_figures_tell_how_many_bytes_of_chunks_wait_in_memory(config: Config) -> None:
    async with opened(config) as parts:
        assert isinstance(parts.federation, LocalFederation)
        spool, early = parts.federation._resources.spool, bytes(1000)
        assert b"fedcore_chunk_bytes 0.0" in parts.metrics.exposition()
        await spool.open(b"an upload", 2000)
        await spool.put(b"an upload", 1000, zlib.crc32(early), early)  # waits for what comes before
        assert b"fedcore_chunk_bytes 1000.0" in parts.metrics.exposition()


async def test_a_server_that_starts_again_need_not_wait_for_the_leases_it_held(
    config: Config,
) -> None:
    owners = []
    for _ in range(2):
        async with opened(config) as parts:
            assert isinstance(parts.federation, LocalFederation)
            identity = await parts.store.server_identity()
            owners.append(parts.federation._owner)
            assert owners[-1] == identity.server_id.hex()
    assert owners[0] == owners[1]


async def test_a_database_that_is_gone_is_not_replaced_by_an_empty_one(config: Config) -> None:
    assert isinstance(config.database, Path)
    async with opened(config):
        pass
    for file in config.database.parent.glob(f"{config.database.name}*"):
        file.unlink()
    with pytest.raises(AuditError, match="is gone") as refused:
        async with opened(config):
            raise AssertionError("opened")
    assert "fed db restore" in refused.value.fix and not config.database.exists()
    async with opened(config, accept_rollback=True):
        assert config.database.exists()
