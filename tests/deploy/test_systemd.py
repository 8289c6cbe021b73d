"""The unit of systemd is one, leaves the server what it needs alone, and names what is there."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fedserver import app
from tests.deploy.manifests import DEPLOY, bytes_of, require_command, settings_in

FOLDER = DEPLOY / "systemd"
ANALYZE = shutil.which("systemd-analyze")
LEAST_EXPOSED = 2.0
"""By `systemd-analyze security`, of 10; below 2 it says OK."""


def parsed(text: str) -> dict[str, dict[str, str]]:
    """Sections of a unit by name. Fails for a line that is neither comment, section nor option."""
    sections: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if found := re.fullmatch(r"\[(Unit|Service|Install)\]", line):
            section = sections.setdefault(found[1], {})
            continue
        found = re.fullmatch(r"([A-Z][A-Za-z0-9]+)=(.*)", line)
        assert found is not None, line
        assert found[1] not in section, f"{found[1]} is said twice"
        section[found[1]] = found[2]
    return sections


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    return parsed((FOLDER / "fedcore.service").read_text("utf-8"))["Service"]


def on_this_machine(folder: Path) -> Path:
    """The unit with a program that exists here, which systemd looks for."""
    text = (FOLDER / "fedcore.service").read_text("utf-8")
    unit = folder / "fedcore.service"
    unit.write_text(text.replace("/opt/fedcore/bin/fed ", f"{shutil.which('true')} "))
    return unit


@pytest.mark.skipif(ANALYZE is None, reason="there is no systemd-analyze here")
def test_systemd_finds_nothing_amiss(tmp_path: Path) -> None:
    assert ANALYZE is not None
    unit = str(on_this_machine(tmp_path))
    done = subprocess.run([ANALYZE, "verify", "--man=no", unit], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "fedcore" in line]
    assert (done.returncode, said) == (0, [])
    rated = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", unit], capture_output=True, text=True
    )
    found = re.search(r"Overall exposure level for fedcore.service: ([\d.]+)", rated.stdout)
    assert found is not None and float(found[1]) < LEAST_EXPOSED, rated.stdout


def test_the_unit_is_closed(service: dict[str, str]) -> None:
    assert service["ProtectSystem"] == "strict" and service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == ""
    assert service["StateDirectoryMode"] == "0700" and service["UMask"] == "0077"
    user = (FOLDER / "fedcore.sysusers.conf").read_text("utf-8").split()[:2]
    assert user == ["u", service["User"]]


def test_the_server_is_the_one_of_the_settings(
    service: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in("systemd")
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/fed")
    require_command(words, capsys)
    assert words[words.index("--config") + 1] == "/etc/fedcore/server.toml"
    name, _, _ = service["LoadCredential"].partition(":")
    credential = f"/run/credentials/fedcore.service/{name}"
    assert settings.authority.passphrase_file == credential
    state = Path("/var/lib") / service["StateDirectory"]
    assert settings.server.state_directory.is_relative_to(state)
    assert 0 < settings.limits.memory_bytes < bytes_of(service["MemoryMax"])
    assert int(service["LimitNOFILE"]) > 2 * settings.limits.waiting_rpcs
    assert int(service["TimeoutStopSec"]) > settings.server.notice_s + settings.server.drain_s


def test_the_server_says_what_this_type_of_service_waits_for(service: dict[str, str]) -> None:
    assert service["Type"] == "notify"  # else systemd would count it as started at once
    assert {"READY=1", "STOPPING=1"} <= set(re.findall(r'"(\w+=1)"', inspect.getsource(app)))


@pytest.mark.parametrize("line", ["[Servce]", "Restart", "restart=no", " Restart=no"])
def test_a_line_that_is_no_option_is_refused(line: str) -> None:
    with pytest.raises(AssertionError):
        parsed(f"[Service]\nType=notify\n{line}\n")
