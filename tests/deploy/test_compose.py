"""deploy/compose.yml is one by the schema of its makers, and names what the server has."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import (
    DEPLOY,
    IMAGE_USER,
    bytes_of,
    option,
    require_command,
    seconds_of,
    settings_in,
)

yaml = pytest.importorskip("yaml", reason="manifests are read with PyYAML (the extra 'dev')")


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yml").read_text("utf-8"))


@pytest.fixture(scope="module")
def schema() -> Any:
    found = find_spec("check_jsonschema")  # to import it takes seconds
    if found is None or found.origin is None:
        pytest.skip("the schema comes with check-jsonschema (the extra 'dev')")
    folder = Path(found.origin).parent / "builtin_schemas/vendor"
    return json.loads((folder / "compose-spec.json").read_text("utf-8"))


@pytest.mark.slow
def test_it_is_a_compose_file(compose: Any, schema: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose | {"servers": {}}, schema)


def test_no_service_may_do_more_than_it_needs(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not {"privileged", "cap_add", "devices", "pid"} & service.keys(), name
    for name in ("authority", "server"):
        assert compose["services"][name]["user"] == f"{IMAGE_USER}:{IMAGE_USER}"


def test_the_server_is_the_one_of_the_settings(
    compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = compose["services"]["server"]
    for name, value in server["environment"].items():
        monkeypatch.setenv(name, value)
    settings = settings_in("docker")
    assert settings.server.hosts == ("fl.example.org",)
    ports = {int(port.split(":")[1]) for port in server["ports"]}
    assert ports == {settings.server.port, settings.server.enrolment_port}
    (volume,) = (entry.split(":")[1] for entry in server["volumes"])
    assert settings.server.state_directory.is_relative_to(volume)
    (secret,) = server["secrets"]
    assert settings.authority.passphrase_file == f"/run/secrets/{secret}"
    assert 0 < settings.limits.memory_bytes < bytes_of(server["mem_limit"])
    ending_s = settings.server.notice_s + settings.server.drain_s
    assert seconds_of(server["stop_grace_period"]) > ending_s
    assert server["ulimits"]["nofile"] > 2 * settings.limits.waiting_rpcs
    build = server["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert (context / build["dockerfile"]).is_file()


def test_the_authority_is_made_where_the_server_looks_for_it(
    compose: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    services, settings = compose["services"], settings_in("docker")
    authority, words = services["authority"], services["authority"]["command"]
    require_command(words, capsys)
    assert option(words, "--directory") == str(settings.authority_directory)
    assert authority["volumes"] == services["server"]["volumes"]
    assert authority["image"] == services["server"]["image"]
    assert (
        f'["{option(words, "--host")}"]'
        == services["server"]["environment"]["FEDCORE__SERVER__HOSTS"]
    )
    for name in ("--passphrase", "--root-passphrase"):
        assert option(words, name).removeprefix("/run/secrets/") in authority["secrets"]
    assert authority["profiles"] and authority["network_mode"] == "none"


def test_every_volume_and_secret_that_is_used_is_declared_and_no_secret_is_in_the_checkout(
    compose: Any,
) -> None:
    secrets = compose["secrets"]
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= secrets.keys()
        for entry in service["volumes"]:
            source = entry.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_dir(), entry
    for secret in secrets.values():
        assert not (DEPLOY / secret["file"]).exists()
        assert (DEPLOY / secret["file"]).parent.name == "secrets"
