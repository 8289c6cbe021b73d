"""A peer is a script run by its own interpreter; what it lacks is said, and stops no benchmark."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.figure import Figure, Target
from benchmarks.measure import compare
from benchmarks.peers import PeerCommand, Peers
from benchmarks.tasks import TASKS, dp_commands, training_commands
from fedcore.errors import InstallError

COMMAND = PeerCommand("fake", "fakes", "fake.py", ("--model", "A"))


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    """An installed peer: an interpreter (this one) and an empty script, for tests to fill."""
    (tmp_path / "venvs/fakes/bin").mkdir(parents=True)
    os.symlink(sys.executable, tmp_path / "venvs/fakes/bin/python")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/fake.py").touch()
    return Peers(tmp_path / "scripts", tmp_path / "venvs")


def test_the_last_result_line_is_parsed(peers: Peers) -> None:
    (peers.scripts / "fake.py").write_text(
        "import json, sys\n"
        "print('starting')\n"
        "print('RESULT ' + json.dumps({'clients_per_s': 1}))\n"
        "print('RESULT ' + json.dumps({'clients_per_s': 2.5, 'arguments': sys.argv[1:]}))\n"
        "print('done')\n"
    )
    assert peers.run(COMMAND) == {"clients_per_s": 2.5, "arguments": ["--model", "A"]}


def test_rivals_are_runs_of_each_command_by_name(peers: Peers) -> None:
    (peers.scripts / "fake.py").write_text(
        "import json, sys\nprint('RESULT ' + json.dumps({'rate': len(sys.argv[1])}))\n"
    )
    commands = [PeerCommand(name, "fakes", "fake.py", (name,)) for name in ("ab", "abcd")]
    assert {name: run() for name, run in peers.rivals(commands, "rate").items()} == {
        "ab": 2.0,
        "abcd": 4.0,
    }


def test_a_limit_on_our_threads_does_not_reach_the_peer(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    (peers.scripts / "fake.py").write_text(
        "import json, os\n"
        "left = sorted(k for k in os.environ if k.endswith('_NUM_THREADS'))\n"
        "print('RESULT ' + json.dumps({'left': left}))\n"
    )
    assert peers.run(COMMAND) == {"left": []}


def test_processes_that_a_peer_starts_find_its_folder(peers: Peers) -> None:
    (peers.scripts / "common_part.py").write_text(
        "if __name__ == '__main__': print('RESULT {\"rate\": 7}')\n"
    )
    (peers.scripts / "fake.py").write_text(
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'common_part'], cwd='/', check=True)\n"
    )
    assert peers.run(COMMAND) == {"rate": 7}


def test_a_peer_that_breaks_is_reported_with_its_last_words(peers: Peers) -> None:
    (peers.scripts / "fake.py").write_text("import no_such_library\n")
    with pytest.raises(InstallError) as caught:
        peers.run(COMMAND)
    assert "did not run to its end" in caught.value.what
    assert "no_such_library" in caught.value.why


def test_a_missing_script_and_a_missing_environment_are_told_apart(peers: Peers) -> None:
    with pytest.raises(InstallError) as no_script:
        peers.run(PeerCommand("other", "fakes", "other.py", ()))
    assert "no script" in no_script.value.why
    assert "--peers" in no_script.value.fix
    with pytest.raises(InstallError) as no_environment:
        peers.run(PeerCommand("other", "others", "fake.py", ()))
    assert "no interpreter" in no_environment.value.why
    assert "--venvs" in no_environment.value.fix


@pytest.mark.parametrize("name", sorted(TASKS))
def test_with_no_peers_installed_the_figure_is_against_null(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, task = Peers(tmp_path, tmp_path), TASKS[name]
    commands = training_commands(task) + dp_commands(task)
    rivals = nowhere.rivals(commands, "clients_per_s")
    found = compare(lambda: 10.0, rivals, repeats=2, best=max)
    figure = Figure("x", found.value, "/s", found.ratio, found.against, Target("ratio", ">=", 1.2))
    record = figure.record(machine="", foreign_cores=None)
    assert (record["value"], record["against"], record["ratio"]) == (10.0, None, None)
    assert record["meets"] is None
    told = capsys.readouterr().err
    assert all(f"no comparison with {command.name}" in told for command in commands)
