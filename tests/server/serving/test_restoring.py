"""The drill with a backup, by the commands of an operator: what was rolled back is not served."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedcore.cli import main
from fedcore.errors import AuditError
from fedserver.config import Config, load
from fedserver.opening import opened
from fedserver.store.records import AuditEntry


@pytest.fixture
def settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Settings of a server whose authority is made."""
    file = tmp_path / "server.toml"
    file.write_text(
        f'[server]\nstate_directory = "{tmp_path}/state"\n'
        f'[authority]\ndirectory = "{tmp_path}/ca"\n'
    )
    run("ca", "init", "--trust-domain", "fl.test", "--host", "localhost",
        "--directory", f"{tmp_path}/ca")  # fmt: skip
    return file


def run(*words: str) -> int:
    with ThreadPoolExecutor(1) as thread:  # a command owns its event loop
        return thread.submit(main, list(words)).result()


async def acted(config: Config, *acts: str, accept_rollback: bool = False) -> None:
    """A server's life, in which so much is done; at the end it signs the head of its log."""
    async with opened(config, accept_rollback=accept_rollback) as parts:
        for act in acts:
            await parts.store.append_audit(AuditEntry("user:ada", act, "object"))


async def test_a_database_that_was_rolled_back_is_not_served_and_the_newest_one_is(
    settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, backup = load(settings), tmp_path / "monday.db"
    database = ["--config", str(settings)]
    await acted(config, "one")
    assert run("db", "backup", "--output", str(backup), *database) == 0
    async with opened(config):  # while a server has it, that alone is the reason
        assert run("db", "restore", str(backup), "--yes", *database) == 1
        said = capsys.readouterr().err
        assert "in use" in said and "--accept-rollback" not in said
    await acted(config, "two", "three")
    newest = config.database.read_bytes()

    # By the command: refused, and nothing is changed.
    capsys.readouterr()
    assert run("db", "restore", str(backup), "--yes", *database) == 1
    said = capsys.readouterr().err
    assert "FED-2205" in said and "restore a newer backup" in said
    assert config.database.read_bytes() == newest

    # By hand: no server starts on it, until somebody takes the loss upon himself.
    shutil.copyfile(backup, config.database)
    with pytest.raises(AuditError, match="entry") as refused:
        await acted(config)
    assert "--accept-rollback" in refused.value.fix
    config.database.write_bytes(newest)
    await acted(config, "four")

    assert run("db", "backup", "--output", f"{tmp_path}/friday.db", *database) == 0
    config.database.unlink()
    assert run("db", "restore", f"{tmp_path}/friday.db", "--yes", *database) == 0
    await acted(config, "five")

    assert run("db", "restore", str(backup), "--yes", "--accept-rollback", *database) == 0
    with pytest.raises(AuditError):
        await acted(config)
    await acted(config, accept_rollback=True)
    await acted(config)
    assert run("db", "check", *database) == 0
