"""What can be wrong with a user, a way or a file: one message and one exit code each."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedserver.commands import ca
from tests.server.admin.conftest import TASK, write_profile


async def test_without_a_profile_it_is_said_where_one_is_looked_for(
    fed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = await fed("task", "list")
    assert found.code == 2 and "there is no profile" in found.err and "nobody/fed" in found.err
    monkeypatch.setenv("FEDCORE_PROFILE", str(tmp_path / "elsewhere"))
    assert "elsewhere" in (await fed("task", "list")).err


async def test_a_profile_of_fed_ca_issue_is_taken_by_option_or_variable(
    fed: Any, canned: Any, authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ada"
    words = ["--name", "ada", "--role", "viewer", "--output", str(folder)]
    words += ["--address", canned.world.addresses.service, "--directory", str(authority.directory)]
    assert ca.main(["issue", *words]) == 0
    assert (await fed("task", "list", profile=folder)).code == 0
    monkeypatch.setenv("FEDCORE_PROFILE", str(folder))
    assert (await fed("task", "list")).code == 0


async def test_an_expired_profile_is_told_before_a_call(fed: Any, canned: Any) -> None:
    old = canned.profile(age_s=200 * 24 * 3600)
    found = await fed("task", "list", profile=old)
    assert found.code == 2 and "FED-2314 the profile has expired" in found.err
    assert canned.federation.calls == []


async def test_a_damaged_profile_is_told(fed: Any, canned: Any) -> None:
    for name, text in [("profile.toml", "address = 3 3"), ("chain.pem", "no certificate")]:
        folder = canned.profile()
        (folder / name).chmod(0o600)
        (folder / name).write_text(text)
        found = await fed("task", "list", profile=folder)
        assert found.code == 2 and "FED-2206 the profile is damaged" in found.err
    mixed, other = canned.profile(), canned.profile()
    (mixed / "chain.pem").unlink()
    (other / "chain.pem").rename(mixed / "chain.pem")
    found = await fed("task", "list", profile=mixed)
    assert found.code == 2 and "does not belong to its certificate" in found.err


async def test_a_server_of_another_federation_is_not_spoken_to(
    fed: Any, canned: Any, stranger: Any, tmp_path: Path
) -> None:
    holder = canned.world.user("admin", authority=stranger)
    address = canned.world.addresses.service
    folder = write_profile(tmp_path / "stranger", holder, address, stranger)
    found = await fed("task", "list", profile=folder)
    assert found.code == 2 and "FED-2313" in found.err, found.err


async def test_a_profile_for_one_server_orders_nothing_from_another(fed: Any, canned: Any) -> None:
    folder = canned.profile(server_id="0f" * 16)
    found = await fed("token", "create", profile=folder)
    assert found.code == 2 and "this is another server" in found.err
    right = canned.profile(server_id=canned.world.server_id.hex())
    assert (await fed("token", "create", profile=right)).code == 0


@pytest.mark.slow
async def test_a_server_that_is_down_is_told_with_its_address(
    fed: Any, authority: Any, canned: Any, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        holder = canned.world.user("admin")
        folder = write_profile(tmp_path / "down", holder, address, authority)
        found = await fed("task", "list", profile=folder)
    assert found.code == 2 and "FED-2312" in found.err and address in found.err


async def test_a_wrong_role_is_told_who_may(fed: Any, canned: Any) -> None:
    for role, words in (
        ("viewer", ["token", "create"]),
        ("operator", ["audit", "tail"]),
        ("researcher", ["token", "clients"]),
    ):
        found = await fed(*words, profile=canned.profile(role))
        assert found.code == 2 and f"FED-2102 the role '{role}' may not call" in found.err, words


async def test_a_mistake_in_a_task_is_told_with_its_line(
    fed: Any, canned: Any, task_file: Path
) -> None:
    text = TASK.replace('name = "fedavg"', 'name = "fedavgg"')
    Path.write_text(task_file, text)
    line = text.splitlines().index('name = "fedavgg"') + 1
    found = await fed("task", "submit", task_file, profile=canned.profile())
    assert found.code == 4 and f"at small.toml:{line}" in found.err, found.err


@pytest.mark.parametrize(
    "words",
    [
        ["token", "create", "--lifetime", "soon"],
        ["token", "create", "--uses", "0"],
        ["token", "create", "--attribute", "berlin"],
        ["token", "revoke", "x", "--reason", "y"],
        ["model", "diff", "a", "b"],
        ["task", "lst"],
        ["task", "cancel", "t"],
        ["audit", "verify", "--signer", "x"],
        ["audit", "verify", "--file", "absent"],
    ],
)
async def test_wrong_arguments_end_with_4_and_a_remedy(fed: Any, words: list[str]) -> None:
    found = await fed(*words)
    assert found.code == 4 and "Fix: " in found.err and found.out == ""


async def test_an_empty_task_id_is_told_before_a_call_is_made(fed: Any, canned: Any) -> None:
    for words in (
        *(["task", verb] for verb in ("show", "watch")),
        ["task", "cancel", "--reason", "x", "--yes"],
        *(["round", "list"], ["round", "show"], ["model", "list"]),
        ["model", "export", "--out", "m.safetensors"],
    ):
        found = await fed(*words[:2], "", *words[2:], profile=canned.profile())
        assert found.code == 4 and "'' is no id of a task" in found.err, (words, found.err)
        assert "Why: it is empty" in found.err and "fed task list" in found.err
    assert canned.federation.calls == []


async def test_an_option_that_is_missing_is_told_of_its_verb_and_with_what_it_is_for(
    fed: Any,
) -> None:
    found = await fed("task", "cancel", "digits-1")
    assert "fed task cancel: Missing option '--reason'" in found.err
    assert "Why: for the log, and for those who take part" in found.err
    assert "Fix: fed task cancel --help" in found.err
    wrong = await fed("task", "show", "digits-1", "--colour")
    assert "fed task show: " in wrong.err and "Why: Usage: fed task show [OPTIONS]" in wrong.err


def test_the_commands_need_no_library_of_the_server() -> None:
    script = (
        "import sys\n"
        "from fedserver.admin import audit, model, round, submission, task, token, watching\n"
        "banned = 'sqlalchemy alembic structlog prometheus_client pydantic starlette uvicorn'\n"
        "print(sorted(set(banned.split()) & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
