"""Commands as a user gives them, against servers on loopback ports: one of canned answers, and one
that trains with devices that are coroutines."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from fedcore import cli
from fedcore.federated.task import Task
from fedserver import logs
from fedserver.admin import watching
from fedserver.app import Addresses, Server
from fedserver.audit_heads import AuditHeads
from fedserver.authority import Authority
from fedserver.authority_acts import AuthorityActs
from fedserver.certificate_lists import CertificateLists
from fedserver.key_files import write_public, write_secret
from fedserver.parts import Parts
from tests.server.federation import world as devices
from tests.server.serving import conftest as serving

SIGNER = b"s" * 32

TASK = """
[task]
name = "small"
seed = 3
[model]
[[model.layers]]
kind = "linear"
inputs = 4
outputs = 3
[data]
dataset = "toy"
[training]
loss = "cross_entropy"
epochs = 1
batch_size = 8
[training.optimizer]
name = "sgd"
lr = 0.5
[algorithm]
name = "fedavg"
[secure_aggregation]
profile = "malicious"
delta = 0.2
gamma = 0.0
[rounds]
count = 2
max_attempts = 3
[cohort]
goal = 5
minimum = 5
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The data of its envelope."""
        envelope = json.loads(self.out)
        assert envelope["version"] == 1
        return envelope["data"]


Fed = Callable[..., Awaitable[Ran]]


# To read what all installed distributions offer takes longer than most commands do.
_installed = functools.cache(cli._entry_points)


@pytest.fixture(autouse=True)
def commands_are_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_entry_points", _installed)


@pytest.fixture
def fed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fed:
    """Runs a command beside the server of the test: `await fed("task", "list", profile=folder)`."""
    monkeypatch.delenv("FEDCORE_PROFILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    # A test that failed has no server any more, and nobody should wait for it to come back.
    monkeypatch.setattr(watching, "_PATIENCE_S", 5.0)

    async def ran(command: str, *arguments: object, profile: Path | None = None) -> Ran:
        words = [str(argument) for argument in arguments]
        words += ["--profile", str(profile)] if profile is not None else []
        capfd.readouterr()
        code = await asyncio.to_thread(cli.main, [command, *words])
        found = capfd.readouterr()
        return Ran(int(code), found.out, found.err)

    return ran


def write_profile(
    folder: Path, holder: Any, address: str, authority: Authority, *, server_id: str = ""
) -> Path:
    """A profile folder, as `fed ca issue` writes it."""
    write_secret(folder / "key.pem", holder.key_pem)
    write_secret(folder / "identity.key", holder.identity.private_bytes_raw().hex().encode())
    write_public(folder / "chain.pem", holder.chain_pem)
    write_public(folder / "authority.pem", authority.root_pem)
    files = {
        "address": address,
        "server_id": server_id,
        "authority": "authority.pem",
        "certificate": "chain.pem",
        "key": "key.pem",
        "identity_key": "identity.key",
    }
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in files.items()]
    write_public(folder / "profile.toml", "".join(lines).encode())
    return folder


@pytest.fixture(autouse=True)
def logs_of_the_server() -> Iterator[io.StringIO]:
    """What the server beside a command logs is no output of the command."""
    root, out = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    logs.configure(stream=out)
    yield out
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(
        tmp_path_factory.mktemp("authority") / "ca", trust_domain="fl.test", now=int(time.time())
    )


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another federation's authority."""
    return Authority.create(
        tmp_path_factory.mktemp("stranger") / "ca", trust_domain="fl.test", now=int(time.time())
    )


class Canned:
    """A server whose federation gives canned answers, and profiles for it."""

    def __init__(self, world: serving.World, folder: Path) -> None:
        self.world, self._folder = world, folder
        self.federation = world.federation

    def profile(self, role: str = "admin", *, server_id: str = "", **options: Any) -> Path:
        """A new profile of that role."""
        holder = self.world.user(role, **options)
        folder = self._folder / f"{role}-{holder.fingerprint.hex()[:8]}"
        address = self.world.addresses.service
        return write_profile(folder, holder, address, self.world.authority, server_id=server_id)


@pytest.fixture
async def canned(tmp_path: Path, authority: Authority) -> AsyncIterator[Canned]:
    folder = tmp_path / "server"
    folder.mkdir()
    async with serving.a_world(folder, authority) as world:
        yield Canned(world, tmp_path)


class Training(devices.World):
    """A server that trains the task which is handed in by a command, and its devices."""

    addresses: Addresses
    server: Server
    heads: AuditHeads
    profile: Path

    async def serve(self, authority: Authority) -> None:
        """Opens ports before the federation."""
        await self.start()
        await self.enrol()
        assert self.federation is not None
        self.heads = AuditHeads(self.store, self.folder / "head", signer=SIGNER)
        # Of lists of its own, that no log has more entries than a test has made.
        acts = AuthorityActs(self.store, CertificateLists(self.folder), self.folder / "fed.db")
        parts = Parts(self.store, authority, self.federation, self.metrics, self.heads, acts)
        self.server = Server(serving.settings(self.folder), parts)
        self.addresses = await self.server.start()
        key, identity = serving.new_key(), serving.new_identity()
        issued = authority.issue_user(
            key.public_key(),
            name="ada",
            tenant=devices.TENANT,
            role="admin",
            identity_key=serving.raw(identity),
            now=int(time.time()),
        )
        holder = serving.Holder(serving.pem_of(key), serving.chain_of(issued.chain), identity)
        self.profile = write_profile(
            self.folder / "profile", holder, self.addresses.service, authority
        )

    async def close(self) -> None:
        await self.server.stop()
        await self.store.close()


@asynccontextmanager
async def training_in(folder: Path, authority: Authority) -> AsyncIterator[Training]:
    world = Training(folder, Task.from_toml(TASK).resolved(), clients=5)
    await world.serve(authority)
    try:
        yield world
    finally:
        await world.close()


@pytest.fixture
async def training(tmp_path: Path, authority: Authority) -> AsyncIterator[Training]:
    folder = tmp_path / "training"
    folder.mkdir()
    async with training_in(folder, authority) as world:
        yield world


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TASK)
    return path
