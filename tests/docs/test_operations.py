"""docs/operations.md: its runbook runs as it stands, and its tables are those of the program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedcore.cli import main
from fedserver.metrics import Metrics
from tests.conftest import ROOT
from tests.docs.blocks import blocks_of, commands_of, page
from tests.docs.machine import Machine
from tests.ports import free_ports

PAGE = "docs/operations.md"
TEXT = page(PAGE)
OUTSIDE = ("cp", "docker", "kubectl", "runuser", "systemctl", "systemd-sysusers")
"""Programs of a machine that this one is not: what they are given is looked at."""

SHELL = ("(umask", "chmod", "chown", "export", "head", "install", "mv", "unset")
"""What makes room for files and secrets."""


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = re.search(r"^\|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert table is not None, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]


class Runbook:
    """The blocks in their order, on a machine of one folder, and a device that joined early."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folder, self.machine = folder, machine
        self.ports = dict(zip("345", map(str, free_ports(3)), strict=True))
        self.shown = ""

    def here(self, text: str) -> str:
        """A block with names and ports of this machine."""
        text = text.replace("fl.example.org", "localhost").replace('"0.0.0.0"', '"127.0.0.1"')
        return re.sub(r"\b744([345])\b", lambda found: self.ports[found[1]], text)

    def run(self, text: str) -> str:
        found = self.machine.run(self.here(text))
        self.shown += found
        return found

    def device(self, verb: str) -> None:
        """A verb of the device, which has to go well."""
        self.machine.run(f"fed client {verb}")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_command_of_the_runbook_runs_in_its_order(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the server needs the extra 'server'")
    with Machine(tmp_path) as machine:
        book = Runbook(tmp_path, machine)
        for block in blocks_of(PAGE, "toml", "sh"):
            if block.kind == "toml":
                (tmp_path / block.file).write_text(book.here(block.text), "utf-8")
                continue
            retires = "fed ca retire issuing" in block.text
            if retires:
                book.device("doctor --directory device")  # its certificate is of the key before
            book.run(block.text)
            if "fed token create" in block.text:
                book.device("join - --name device --directory device < invitation")
            if retires:
                # Whoever has the old key's certificates is known no more.
                book.run("! fed client doctor --directory device > /dev/null 2>&1")
                book.run("! fed task list --profile ada > /dev/null 2>&1")
    shown = book.shown
    assert shown.count("ready\n") >= 5 and "not ready" not in shown
    assert "verdict  holds" in shown and "would replace" in shown
    assert "restored" in shown and "use fed server start --accept-rollback" in shown
    assert "is signed, and holds" in shown and "the schema is" in shown
    assert len(list((tmp_path / "state").glob("fed.db.before-*"))) == 2


def test_a_copy_beside_a_server_that_writes_is_no_failure_and_another_one_is(
    tmp_path: Path,
) -> None:
    (command,) = re.findall(r"^tar --create .*$", TEXT, re.MULTILINE)
    for folder in ("state/ledgers", "authority", "backup"):
        (tmp_path / folder).mkdir(parents=True)
    with (tmp_path / "state/ledgers/digits").open("wb", buffering=0) as ledger:
        ledger.truncate(64 << 20)
        ledger.seek(0, os.SEEK_END)
        ended = threading.Event()

        def append() -> None:
            while not ended.is_set():
                ledger.write(b"a record\n")

        writer = threading.Thread(target=append)
        writer.start()
        try:
            copied = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
            )
        finally:
            ended.set()
            writer.join()
    assert "changed as we read it" in copied.stderr  # or this tries nothing
    assert copied.returncode == 0
    (tmp_path / "authority").rmdir()
    failed = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert failed.returncode != 0


def test_every_figure_stands_in_the_table_with_its_labels() -> None:
    said: dict[str, list[str]] = {}
    for names, labels, meaning in rows("Figures"):
        assert meaning
        for name in re.findall(r"`(\w+)`", names):
            said[name] = re.findall(r"`(\w+)`", labels)
    metrics = Metrics()
    given = {
        family.name
        for family in text_string_to_metric_families(metrics.exposition().decode())
        if not family.name.endswith("_created")
    }
    assert said.keys() == given
    for name, labels in said.items():
        figure = getattr(metrics, name.removeprefix("fedcore_"))
        assert list(figure._labelnames) == labels, name


def test_every_alert_stands_in_the_table() -> None:
    yaml = pytest.importorskip("yaml", reason="manifests are read with PyYAML (the extra 'dev')")
    found = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))
    alerts = [rule["alert"] for group in found["groups"] for rule in group["rules"]]
    assert [name.strip("`") for name, _ in rows("Alerts")] == alerts


def test_the_figures_of_capacity_are_those_that_were_measured() -> None:
    measured = {
        name: value.replace(",", "")
        for name, value in re.findall(
            r"^\| ([\w.-]+) \| [^|]+ \| ([\d.,]+) \|", page("benchmarks/README.md"), re.MULTILINE
        )
    }
    for names, said in rows("Capacity"):
        text = f"{names} {said}".replace(",", "")
        named = re.findall(r"`([\w.-]+)`", text)
        assert named
        for name in named:
            assert re.search(rf"(?<![\d.]){re.escape(measured[name])}(?![\d.]*\d)", text), name


def test_what_another_machine_runs_names_what_is_there() -> None:
    blocks = [block for block in blocks_of(PAGE, "console") if "venv" not in block.text]
    assert len(blocks) == 3
    for block in blocks:
        for words in commands_of(block):
            assert words[0] in OUTSIDE + SHELL, words
            for word in words:
                if word.startswith("deploy/") and not word.startswith("deploy/secrets"):
                    assert (ROOT / word).exists(), word
    cluster = blocks[2].text
    manifests = (ROOT / "deploy/k8s/authority-job.yaml").read_text("utf-8")
    (secret,) = re.findall(r"secret generic (\S+)", cluster)
    assert f"name: {secret}" in manifests
    for key in re.findall(r"--from-file=(\w+)", cluster):
        assert f"key: {key} " in manifests
    (job,) = re.findall(r"job/(\S+)", cluster)
    assert f"name: {job}\n" in manifests
    compose = (ROOT / "deploy/compose.yml").read_text("utf-8")
    (service,) = re.findall(r"run --rm (\w+)", blocks[1].text)
    assert f"  {service}:" in compose
    (image,) = re.findall(r"-t (\S+)", blocks[1].text)
    assert f"image: {image}" in compose and f"image: {image}" in manifests


@pytest.mark.parametrize("number", range(3), ids=["systemd", "container", "kubernetes"])
def test_an_authority_is_made_and_gives_a_profile_on_another_machine(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = [block for block in blocks_of(PAGE, "console") if "venv" not in block.text][number]
    for name in ("ISSUING", "ISSUING_PASSPHRASE"):
        monkeypatch.setenv(name, "an issuing passphrase")
    monkeypatch.setenv("ROOT", "a root passphrase")
    monkeypatch.setenv("ROOT_PASSPHRASE", "a root passphrase")
    secrets = tmp_path / "run/secrets"
    secrets.mkdir(parents=True)
    for name in ("issuing", "root"):
        path = secrets / f"{name}-passphrase"
        path.write_text(f"{'a' if name == 'root' else 'an'} {name} passphrase\n")
        path.chmod(0o400)
    given, settings = list[list[str]](), {}
    for words in commands_of(block):
        if (fed := fed_of(words)) is not None:
            given.append(words[fed + 1 :])
            settings.update(word.split("=", 1) for word in words[:fed] if "=" in word)
    if number:
        yaml = pytest.importorskip("yaml", reason="manifests are read with PyYAML")
        name = ("compose.yml", "k8s/authority-job.yaml")[number - 1]
        found = yaml.safe_load((ROOT / "deploy" / name).read_text("utf-8"))
        if number == 1:
            given.insert(0, found["services"]["authority"]["command"])
        else:
            given.insert(0, found["spec"]["template"]["spec"]["containers"][0]["args"])
    else:
        text = (ROOT / "deploy/systemd/server.toml").read_text("utf-8")
        for port, free in zip(("7443", "7444", "7445"), free_ports(3), strict=True):
            text = text.replace(port, str(free))
        (tmp_path / "etc/fedcore").mkdir(parents=True)
        text = text.replace("/var/", f"{tmp_path}/var/")
        (tmp_path / "etc/fedcore/server.toml").write_text(text, "utf-8")
    doctor = [] if number else [["server", "doctor"]]
    assert [words[:2] for words in given] == [["ca", "init"], *doctor, ["ca", "issue"]]
    assert settings.keys() == ({"FEDCORE__AUTHORITY__PASSPHRASE_FILE"} if doctor else set())
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for words in given:
        here = [re.sub(r"^/(?=var/|run/|etc/)", f"{tmp_path}/", word) for word in words]
        assert main(here) == 0, words
    assert (tmp_path / "var/lib/fedcore/ada").is_dir()
    taken_off = tmp_path / "var/lib/fedcore/state/authority/root.key.pem"
    assert taken_off.is_file() and f"/{taken_off.relative_to(tmp_path)}" in block.text


def fed_of(words: list[str]) -> int | None:
    """Where in a command `fed` stands, which another program starts."""
    return next(
        (i for i, word in enumerate(words) if word in ("fed", "/opt/fedcore/bin/fed")), None
    )


def test_an_install_is_by_hashes_with_options_that_pip_has() -> None:
    (block,) = (b for b in blocks_of(PAGE, "console") if "venv" in b.text)
    venv, locked, own = commands_of(block)
    assert venv[1:3] == ["-m", "venv"] and own[1:] == ["install", "--no-deps", "."]
    assert "--require-hashes" in locked and (ROOT / locked[-1]).is_file()
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--help"], capture_output=True, text=True
    )
    if shown.returncode:
        pytest.skip("this environment has no pip")
    for option in (word.partition("=")[0] for word in locked + own if word.startswith("--")):
        assert re.search(rf"{option}\b", shown.stdout), option
