"""Settings: each mistake is told with its line, its value, what is allowed and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from fedcore.errors import TaskError
from fedserver.config import Config, load
from fedserver.store.postgres.address import PostgresAddress


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "server.toml"


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    try:
        load(path)
    except TaskError as refused:
        return str(refused)
    pytest.fail(f"it was taken: {text}")


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


def test_a_database_is_a_file_or_is_named_without_its_password(settings: Path) -> None:
    assert load().database == Path("fed-state/fed.db")
    settings.write_text(
        '[server]\ndatabase_url = "postgresql://fed@db/fed"\ndatabase_password_file = "env:PW"\n'
    )
    assert load(settings).database == PostgresAddress("postgresql://fed@db/fed", "env:PW")


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://fed:secret@db/fed", "postgresql://db/fed?user=fed&password=secret"),
        *("mysql://fed@db/secret", "secret"),
    ],
)
def test_a_url_that_is_none_or_shows_a_password_is_refused_and_not_shown(
    settings: Path, url: str
) -> None:
    text = refusal(settings, f'[server]\ndatabase_url = "{url}"\n')
    assert "server.database_url" in text and "secret" not in text
    assert "database_password_file" in text


def test_every_misspelt_key_is_refused_with_its_line_and_the_right_spelling(
    settings: Path,
) -> None:
    for section, key in sections():
        misspelt = key.replace("_", "-") if "_" in key else key + key[-1]
        text = refusal(settings, f"\n[{section}]\n# a comment\n{misspelt} = 1\n")
        assert "server.toml:4" in text and f"{section}.{misspelt} is no setting" in text
        assert f"did you mean {key}?" in text


@pytest.mark.parametrize(
    ("text", "line", "names"),
    [
        ("[sevrer]\nport = 1", 1, ("sevrer", "did you mean server?")),
        ("[server]\nport = 70_000", 2, ("server.port = 70000", "65535")),
        ("[server]\nhosts = []", 2, ("server.hosts", "a list of 1 … 32 texts")),
        ('[server]\nops_host = "0.0.0.0"', 2, ("server.ops_host = '0.0.0.0'", "127.0.0.1")),
        ('[server]\nops_host = "example.org"', 2, ("server.ops_host", "of this machine")),
        ('[logging]\nlevel = "wraning"', 2, ("'warning'", "did you mean 'warning'?")),
        ("[limits]\ndisk_free = 1.5", 2, ("limits.disk_free = 1.5", "a number from 0 below 1")),
        ("[rounds]\nlease_s = 0.5", 2, ("rounds.lease_s = 0.5", "from 1 to 3600")),
        ("server = 3", 1, ("server = 3", "a table")),
        ('[server]\nport = "7443"', 2, ("server.port = '7443'", "write 7443 without quotes")),
        ('[server]\nhosts = "server"', 2, ("server.hosts = 'server'", 'write ["server"]')),
        ('[server]\nhosts = ["a", 3]', 2, ("server.hosts[1] = 3", "a text")),
        ("\nport = 7443", 2, ("port is no setting", "it belongs in [server]")),
        ("[limits]\nport = 7443", 2, ("limits.port is no setting", "it belongs in [server]")),
        ("[server]\nport = 1\nops_port = 1", 3, ("server.ops_port = 1", "are the same")),
        ("[server]\nport = 7444", 2, ("server.port = 7444", "are the same")),
        ("test_mode = 1", 1, ("test_mode = 1", "true or false")),
        ('[server]\npeer_address = "a:1"', 2, ("server.peer_address = 'a:1'", "database_url")),
        ('[server]\naddress = "nonsense"', 2, ("server.address = 'nonsense'", "host:port")),
        ('[server]\nenrolment_address = "a:0"', 2, ("server.enrolment_address", "host:port")),
        ('[server]\npeer_address = "a"', 2, ("server.peer_address = 'a'", "host:port")),
    ],
)
def test_a_wrong_value_is_told_with_its_line_and_what_is_allowed(
    settings: Path, text: str, line: int, names: tuple[str, ...]
) -> None:
    told = refusal(settings, text)
    assert f"server.toml:{line}" in told
    for name in names:
        assert name in told


def wrong() -> Iterator[tuple[str, str, str, str]]:
    """(section, key, a value in TOML that is refused, words of what is allowed)."""
    kinds = {int: "whole number", float: "number", str: "text", Path: "path", bool: "true or false"}
    beyond = {"ge": -1, "le": 1, "gt": 0, "lt": 0}
    for section, key in sections():
        model = Config.model_fields[section].annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        field = model.model_fields[key]
        choices = [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
        allowed = kinds.get(field.annotation, "one of" if choices else "a list")
        for value in ("1979-05-27", "{ a = 1 }", "true" if allowed != "true or false" else "1"):
            yield section, key, value, allowed
        if allowed.endswith("number"):
            yield section, key, '"1"', allowed
            yield section, key, "nan", allowed
        for choice in choices:
            yield section, key, f'"{choice}x"', repr(choice)
        for bound, step in beyond.items():
            for limit in (getattr(extra, bound, None) for extra in field.metadata):
                if limit is not None:
                    yield section, key, f"{limit + step}", f" {limit}"
        if allowed == "a list":
            yield section, key, f"{['a'] * 33}", "1 … 32"


def test_every_setting_says_what_it_may_be_whatever_it_is_not(settings: Path) -> None:
    for section, key, value, allowed in wrong():
        told = refusal(settings, text := f"[{section}]\n{key} = {value}\n")
        assert f"{section}.{key}" in told and "server.toml:2" in told, text
        assert allowed in told and "Fix: " in told, text
        assert "Input" not in told, text
        if value[0] not in "{[":
            shown = {"true": "True"}.get(value, value).replace('"', "'")
            assert key.endswith(("_file", "_url")) or f"{key} = {shown}" in told, text


@pytest.mark.parametrize("other", ["enrolment_port", "ops_port"])
def test_two_ports_may_be_the_same_only_where_the_system_chooses_both(
    settings: Path, other: str
) -> None:
    settings.write_text(f"[server]\nport = 0\n{other} = 0\n")
    assert load(settings).server.port == 0
    assert "the two ports are the same" in refusal(
        settings, f"[server]\nport = 9000\n{other} = 9000\n"
    )


def test_the_environment_stands_above_the_file(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCORE__SERVER__PORT", "99")
    monkeypatch.setenv("FEDCORE__SERVER__HOSTS", '["x", "y"]')
    monkeypatch.setenv("FEDCORE__TEST_MODE", "true")
    monkeypatch.setenv("FEDCORE__LIMITS__DISK_FREE", "0.5")
    monkeypatch.setenv("FEDCORE__AUTHORITY__DIRECTORY", "ca")
    settings.write_text('[server]\nport = 1\nhost = "::1"\n')
    found = load(settings)
    assert (found.test_mode, found.limits.disk_free) == (True, 0.5)
    assert found.authority.directory == "ca" and found.authority_directory == Path("ca")
    assert (found.server.port, found.server.host, found.server.hosts) == (99, "::1", ("x", "y"))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FEDCORE__SERVER__PORT", "many", "FEDCORE__SERVER__PORT = 'many'"),
        ("FEDCORE__SERVER__PORT", "70000", "FEDCORE__SERVER__PORT = 70000"),
        ("FEDCORE__SERVER__PORT", "7444", "FEDCORE__SERVER__PORT = 7444"),
        ("FEDCORE__SERVER__HOSTS", "a", "FEDCORE__SERVER__HOSTS = 'a'"),
        ("FEDCORE__SERVER__HOSTS", "[3]", "FEDCORE__SERVER__HOSTS = 3"),
        ("FEDCORE__LOGGING", "x", "FEDCORE__LOGGING = 'x'"),
        ("FEDCORE__TEST_MODE", "perhaps", "FEDCORE__TEST_MODE = 'perhaps'"),
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
