"""The manifests of Kubernetes are such by its own schemas, and name what the server has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedserver.key_files import secret_from
from tests.deploy.manifests import (
    DEPLOY,
    IMAGE_USER,
    bytes_of,
    option,
    require_command,
    settings_in,
)

yaml = pytest.importorskip("yaml", reason="manifests are read with PyYAML (the extra 'dev')")

FOLDER = DEPLOY / "k8s"
VERSIONS = ("1.31.0", "1.34.0")
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


def loaded(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def pods() -> dict[str, Any]:
    """The two pods, by what they are for."""
    return {
        "server": loaded("statefulset.yaml")["spec"]["template"]["spec"],
        "authority": loaded("authority-job.yaml")["spec"]["template"]["spec"],
    }


@pytest.fixture(scope="module")
def containers(pods: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, pod in pods.items():
        (found[name],) = pod["containers"]
    return found


@pytest.mark.slow  # to import the schemas takes seconds
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_is_a_resource_by_the_schema_of_its_version(path: Path, version: str) -> None:
    found = yaml.safe_load(path.read_text("utf-8"))
    schemas = pytest.importorskip("kubernetes_validate", reason="of the extra 'dev'")
    schemas.validate(found, version, strict=True)
    with pytest.raises(schemas.ValidationError):
        schemas.validate(found | {"specs": {}}, version, strict=True)


def test_all_of_them_are_in_the_kustomization_but_the_one_that_runs_once() -> None:
    found = loaded("kustomization.yaml")
    names = {path.name for path in FILES}
    assert set(found["resources"]) == names - {"authority-job.yaml"}
    (settings,) = found["configMapGenerator"]
    assert [(FOLDER / file).is_file() for file in settings["files"]] == [True]
    if (kubectl := shutil.which("kubectl")) is None:
        return
    done = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = [one["kind"] for one in yaml.safe_load_all(done.stdout)]
    assert len(kinds) == len(names)  # the settings in the place of the job


def test_no_pod_may_do_more_than_it_needs(pods: dict[str, Any]) -> None:
    for pod in pods.values():
        assert pod["automountServiceAccountToken"] is False
        context = pod["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] == IMAGE_USER
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        # Else kubelet opens the keys on the volume to the group whenever the pod starts.
        assert context["fsGroupChangePolicy"] == "OnRootMismatch"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"] and inner["allowPrivilegeEscalation"] is False
            assert inner["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= container["resources"].keys()


def test_the_server_is_the_one_of_the_settings(
    pods: dict[str, Any], containers: dict[str, Any]
) -> None:
    settings, pod, server = settings_in("k8s"), pods["server"], containers["server"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    wanted = {"members": settings.server.port, "enrolment": settings.server.enrolment_port}
    assert ports == wanted
    service = loaded("service.yaml")["spec"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == wanted
    policy = loaded("network-policy.yaml")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == wanted.keys()
    assert policy["egress"] == []
    labels = loaded("statefulset.yaml")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"] == policy["podSelector"]["matchLabels"] == labels
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert settings.server.state_directory.is_relative_to(mounts["state"])
    assert settings.server.state_directory != Path(mounts["state"])  # whose mode is kubelet's
    assert 0 < settings.limits.memory_bytes < bytes_of(server["resources"]["limits"]["memory"])
    ending_s = settings.server.notice_s + settings.server.drain_s
    assert pod["terminationGracePeriodSeconds"] > ending_s


def test_one_server_runs_on_the_volume_and_no_two(pods: dict[str, Any]) -> None:
    assert loaded("statefulset.yaml")["spec"]["replicas"] == 1
    claim = loaded("volume.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    for pod in pods.values():
        (state,) = (one for one in pod["volumes"] if one["name"] == "state")
        assert state["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}


def test_every_command_and_probe_is_one_of_the_program(
    containers: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in("k8s")
    server = containers["server"]
    probes = [server[f"{kind}Probe"]["exec"]["command"] for kind in ("startup", "liveness")]
    ready = server["readinessProbe"]["exec"]["command"]
    for probe in (*probes, ready):
        assert probe[0] == "fed"
        require_command(probe[1:], capsys)
        assert option(probe, "--config") == option(server["args"], "--config")
    # A server that drains or whose disk is full is not killed for it.
    assert all("--alive" in probe for probe in probes) and "--alive" not in ready
    for container in containers.values():
        require_command(container["args"], capsys)
    words = containers["authority"]["args"]
    assert option(words, "--directory") == str(settings.authority_directory)
    assert (option(words, "--host"),) == settings.server.hosts


def test_secrets_come_by_references_that_the_program_reads(
    containers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in("k8s")
    for name, container in containers.items():
        for variable in container["env"]:
            assert "value" not in variable, f"a secret stands in the manifest of {name}"
            monkeypatch.setenv(variable["name"], variable["valueFrom"]["secretKeyRef"]["key"])
    assert secret_from(settings.authority.passphrase_file) == b"issuing"
    words = containers["authority"]["args"]
    assert secret_from(option(words, "--passphrase")) == b"issuing"
    assert secret_from(option(words, "--root-passphrase")) == b"root"
