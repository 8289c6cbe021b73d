"""docs/postgresql.md: its settings are taken, and its commands run in their order."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fedcore.cli import main
from fedserver.config import load
from tests.docs.blocks import blocks_of, commands_of
from tests.ports import free_ports
from tests.postgres import Postgres, binaries

PAGE = "docs/postgresql.md"
URL = "postgresql://fed@db.example.org/fed?sslmode=verify-full"

pytestmark = pytest.mark.postgres


def test_the_settings_of_one_of_several_servers_are_taken(tmp_path: Path) -> None:
    _, several = blocks_of(PAGE, "toml")
    path = tmp_path / "server.toml"
    path.write_text(several.text)
    server = load(path).server
    assert server.peer_address not in ("", server.address)


def test_the_commands_run_in_the_order_in_which_they_stand(
    postgres: Postgres,
    migrated: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    url = postgres.url(postgres.database(template=migrated))
    settings, _ = blocks_of(PAGE, "toml")
    listening = "port = {}\nenrolment_port = {}\nops_port = {}\n".format(*free_ports(3))
    text = settings.text + listening + "[limits]\ndisk_free = 0.0\n"
    assert URL in text
    Path("server.toml").write_text(text.replace(URL, url))
    authority = str(load(Path("server.toml")).authority_directory)
    init = ["ca", "init", "--trust-domain", "fl.test", "--host", "localhost"]
    assert main([*init, "--directory", authority]) == 0
    commands = [words for block in blocks_of(PAGE, "console") for words in commands_of(block)]
    assert [words[0] for words in commands].count("fed") == 4
    found = binaries()
    assert found is not None
    for words in commands:
        given = [word.replace(URL, url) for word in words]
        if given[0] == "fed":
            assert main(given[1:]) == 0, (words, capsys.readouterr())
            continue
        environment = {**os.environ, "PATH": f"{found}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(given, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
