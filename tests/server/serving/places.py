"""A folder from which a server is started: an authority, and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedserver.commands.ca import main as ca

__all__ = ["SETTINGS", "place"]

SETTINGS = """
[server]
port = 0
enrolment_port = 0
ops_port = 0
hosts = ["localhost"]
state_directory = "{state}"
notice_s = 0
[authority]
directory = "{ca}"
[limits]
disk_free = 0.0
"""


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with an authority and settings."""
    ca(
        [
            "init",
            "--trust-domain",
            "fl.test",
            "--host",
            "localhost",
            "--directory",
            f"{tmp_path}/ca",
        ]
    )
    (tmp_path / "server.toml").write_text(
        SETTINGS.format(state=tmp_path / "state", ca=tmp_path / "ca")
    )
    capsys.readouterr()
    return tmp_path
