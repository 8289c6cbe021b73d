"""Settings: each mistake is told with its line, its value, what is allowed and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from fedcore.errors import TaskError
from fedserver.config import Config, load


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "server.toml"


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(TaskError) as refused:
        load(path)
    return str(refused.value)


def sections() -> list[tuple[str, str]]:
    """(section, key) of every setting."""
    return [
        (name, key)
        for name, section in Config.model_fields.items()
        if isinstance(section.annotation, type) and issubclass(section.annotation, BaseModel)
        for key in section.annotation.model_fields
    ]


def test_without_a_file_there_are_defaults_that_bind_to_this_machine() -> None:
    found = load()
    assert (found.server.host, found.server.port, found.server.ops_host) == (
        "127.0.0.1",
        7443,
        "127.0.0.1",
    )
    assert found.authority_directory == Path("fed-state/authority")
    assert not found.test_mode and not found.server.reflection


def test_a_file_says_what_it_says(settings: Path) -> None:
    settings.write_text(
        '[server]\nport = 1\nhosts = ["a", "b"]\nstate_directory = "s"\n'
        '[authority]\ndirectory = "ca"\npassphrase_file = "env:PASS"\n'
        "[limits]\ndisk_free = 0.25\nupload_bytes = 1_048_576\n"
    )
    found = load(settings)
    assert (found.server.port, found.server.hosts) == (1, ("a", "b"))
    assert (found.authority_directory, found.limits.disk_free) == (Path("ca"), 0.25)


@pytest.mark.parametrize(("section", "key"), sections())
def test_every_misspelt_key_is_refused_with_its_line_and_the_right_spelling(
    settings: Path, section: str, key: str
) -> None:
    misspelt = key.replace("_", "-") if "_" in key else key + key[-1]
    text = refusal(settings, f"\n[{section}]\n# a comment\n{misspelt} = 1\n")
    assert "server.toml:4" in text and f"{section}.{misspelt} is no setting" in text
    assert f"did you mean {key}?" in text


@pytest.mark.parametrize(
    ("text", "line", "names"),
    [
        ("[sevrer]\nport = 1", 1, ("sevrer", "did you mean server?")),
        ("[server]\nport = 70_000", 2, ("server.port = 70000", "65535")),
        ("[server]\nhosts = []", 2, ("server.hosts", "at least 1")),
        ('[server]\nops_host = "0.0.0.0"', 2, ("server.ops_host = 0.0.0.0", "127.0.0.1")),
        ('[server]\nops_host = "example.org"', 2, ("server.ops_host", "of this machine")),
        ('[logging]\nlevel = "wraning"', 2, ("'warning'", "did you mean 'warning'?")),
        ("[limits]\ndisk_free = 1.5", 2, ("limits.disk_free = 1.5", "less than 1")),
        ("[rounds]\nlease_s = 0.5", 2, ("rounds.lease_s = 0.5", "greater than or equal to 1")),
        ("server = 3", 1, ("server = 3",)),
    ],
)
def test_a_wrong_value_is_told_with_its_line_and_what_is_allowed(
    settings: Path, text: str, line: int, names: tuple[str, ...]
) -> None:
    told = refusal(settings, text)
    assert f"server.toml:{line}" in told
    for name in names:
        assert name in told


def test_the_environment_stands_above_the_file(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCORE__SERVER__PORT", "99")
    monkeypatch.setenv("FEDCORE__SERVER__HOSTS", '["x", "y"]')
    settings.write_text('[server]\nport = 1\nhost = "::1"\n')
    found = load(settings)
    assert (found.server.port, found.server.host, found.server.hosts) == (99, "::1", ("x", "y"))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FEDCORE__SERVER__PORT", "many", "FEDCORE__SERVER__PORT = many"),
        ("FEDCORE__SERVER__PROT", "1", "FEDCORE__SERVER__PROT is no setting"),
        ("FEDCORE__SEVRER__PORT", "1", "FEDCORE__SEVRER__PORT is no setting"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(
    settings: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    text = refusal(settings, "[server]\nport = 1\n")
    assert told in text
    assert "server.toml" not in text


def test_a_secret_in_the_place_of_its_file_is_not_repeated(settings: Path) -> None:
    text = refusal(settings, '[authority]\npassphrase_file = "correct horse battery!"')
    assert "horse" not in text
    assert "authority.passphrase_file" in text and "env:NAME" in text


def test_no_setting_holds_a_secret_itself() -> None:
    secret = re.compile("token|secret|passphrase|password|key")
    named = [f"{section}.{key}" for section, key in sections() if secret.search(key)]
    assert all(name.endswith("_file") for name in named)
