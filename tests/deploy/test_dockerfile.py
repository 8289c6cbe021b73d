"""The image is made of what is locked, runs as nobody, and does what the server does."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.deploy.manifests import DEPLOY, IMAGE_USER, require_command, settings_in

KNOWN = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN"),
    *("STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}
"""Instructions that this file may have; ADD, SHELL and the like have no place in it."""


class Line(NamedTuple):
    """An instruction, its options, and the rest of its line."""

    name: str
    options: tuple[str, ...]
    text: str

    @property
    def words(self) -> list[str]:
        """The list that it gives; a text would be run by a shell, which the image need not have."""
        found = json.loads(self.text)
        assert isinstance(found, list) and all(isinstance(word, str) for word in found), self.text
        return found


def parsed(text: str) -> list[Line]:
    """The instructions of a Dockerfile. Fails for what is none."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    lines = []
    for line in joined.splitlines():
        if not line.strip():
            continue
        found = re.fullmatch(r"([A-Z]+)((?:\s+--\S+)*)\s+(.+?)\s*", line)
        assert found is not None and found[1] in KNOWN, line
        lines.append(Line(found[1], tuple(found[2].split()), found[3]))
    return lines


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return parsed((DEPLOY / "docker/Dockerfile").read_text("utf-8"))


@pytest.fixture(scope="module")
def final(lines: list[Line]) -> list[Line]:
    """The stage that becomes the image."""
    last = max(at for at, line in enumerate(lines) if line.name == "FROM")
    return lines[last:]


def only(lines: list[Line], name: str) -> Line:
    (found,) = (line for line in lines if line.name == name)
    return found


def filled(text: str, lines: list[Line]) -> str:
    """With the values that the arguments have unless another is given."""
    given = dict(line.text.split("=") for line in lines if line.name == "ARG" and "=" in line.text)
    return re.sub(r"\$\{(\w+)\}", lambda found: given[found[1]], text)


@pytest.mark.parametrize("line", ["ADD . /", "run ls", "RUN", "EXPORT 7443", "SHELL []"])
def test_what_is_no_instruction_of_ours_is_refused(line: str) -> None:
    with pytest.raises(AssertionError):
        parsed(line)


def test_everything_is_installed_by_its_hash_or_is_this_project(lines: list[Line]) -> None:
    installs = [line.words for line in lines if line.name == "RUN" and "install" in line.words[:2]]
    pips = [words for words in installs if words[0].endswith("/pip")]
    assert len(pips) == 3
    locks = {"build.lock": "requirements-build.lock", "server.lock": "${LOCK}"}
    assert {line.text for line in lines if line.name == "COPY" and "lock" in line.text} == {
        f"{source} {target}" for target, source in locks.items()
    }
    for words in pips:
        if "-r" in words:
            assert "--require-hashes" in words and "--only-binary=:all:" in words
            assert words[words.index("-r") + 1] in locks
        else:
            assert {"--no-deps", "--no-index"} <= set(words) and words[-1] == "fedcore-fl"
    assert not any(re.search(r"curl|wget|apt|https?:", line.text) for line in lines)


def test_only_what_is_there_is_copied_and_nothing_else_is_given_to_the_engine(
    lines: list[Line],
) -> None:
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignore
    sent = {line[1:] for line in ignore if line.startswith("!")}
    assert {lock.name for lock in ROOT.glob("requirements-*.lock")} <= sent
    for line in lines:
        if line.name == "COPY" and not any("--from" in option for option in line.options):
            *sources, _ = filled(line.text, lines).split()
            assert all((ROOT / source).exists() for source in sources), line
            assert set(sources) <= sent, "the engine is not given it: .dockerignore"


def test_the_image_runs_as_nobody_without_a_shell(final: list[Line]) -> None:
    assert only(final, "USER").text == f"{IMAGE_USER}:{IMAGE_USER}"
    assert not [line for line in final if line.name == "RUN"]
    for name in ("ENTRYPOINT", "CMD", "VOLUME"):
        assert only(final, name).words
    assert only(final, "STOPSIGNAL").text == "SIGTERM"


def test_commands_ports_and_paths_are_those_of_the_program(
    final: list[Line], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in("docker")
    copied = [line.text.split() for line in final if line.name == "COPY"]
    assert ["deploy/docker/server.toml", "/etc/fedcore/server.toml"] in copied
    assert only(final, "ENTRYPOINT").words == ["fed"]
    start = only(final, "CMD").words
    require_command(start, capsys)
    health = only(final, "HEALTHCHECK")
    probe = json.loads(health.text.removeprefix("CMD "))
    assert probe[0] == "fed"
    require_command(probe[1:], capsys)
    for words in (start, probe):
        assert words[words.index("--config") + 1] == "/etc/fedcore/server.toml"
    ports = {int(port) for port in only(final, "EXPOSE").text.split()}
    assert ports == {settings.server.port, settings.server.enrolment_port}
    (volume,) = only(final, "VOLUME").words
    assert settings.server.state_directory.is_relative_to(volume)
    assert only(final, "WORKDIR").text == volume
