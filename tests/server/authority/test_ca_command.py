"""`fed ca` makes an authority whole or not at all, gives profiles, and takes them back."""

from __future__ import annotations

import json
import shlex
import stat
import time
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore import cli
from fedcore.console import ExitCode, exit_code
from fedcore.errors import (
    ArgumentError,
    AuthorityError,
    FedcoreError,
    KeyFileError,
)
from fedserver.authority import Authority
from fedserver.certificates import new_key, pem_of_key
from fedserver.commands.ca import main
from fedserver.config import load
from fedserver.key_files import load_key, load_keys, read_secret, write_secret

Capture = pytest.CaptureFixture[str]


def init(directory: Path, *more: str) -> int:
    hosts = ["--host", "localhost", "--host", "127.0.0.1"]
    domain = ["--trust-domain", "fl.example.org"]
    return main(["init", "--directory", str(directory), *domain, *hosts, *more])


def issue(directory: Path, output: Path, *more: str) -> int:
    who = ["--name", "ada", "--role", "operator", "--address", "localhost:7443"]
    return main(["issue", "--directory", str(directory), "--output", str(output), *who, *more])


@pytest.fixture
def made(tmp_path: Path, capsys: Capture) -> Path:
    """The directory of an authority."""
    assert init(tmp_path / "ca") == 0
    capsys.readouterr()
    return tmp_path / "ca"


def listed(directory: Path, capsys: Capture) -> list[dict[str, str]]:
    main(["list", "--directory", str(directory), "--format", "json"])
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["version"], envelope["command"]) == (1, "ca list")
    found: list[dict[str, str]] = envelope["data"]
    return found


def test_init_makes_all_that_a_server_needs(made: Path) -> None:
    authority = Authority.open(made)
    assert authority.trust_domain == "fl.example.org"
    keys = [load_key(made / f"{name}.key") for name in ("registrar", "participation")]
    keys += [load_key(made / "audit-signer.key"), *load_keys(made / "datastore.keys")]
    assert len(set(keys)) == 4
    for path in made.iterdir():
        others = stat.S_IMODE(path.stat().st_mode) & 0o077
        assert others == (0o044 if path.suffix == ".pem" and ".key" not in path.name else 0)


def test_init_without_a_directory_makes_what_a_server_without_settings_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--trust-domain", "fl.example.org", "--host", "localhost"]) == 0
    assert Authority.open(load().authority_directory).root_pem


def test_init_overwrites_nothing(made: Path, capsys: Capture) -> None:
    before = {path: path.read_bytes() for path in made.iterdir()}
    with pytest.raises(ArgumentError, match="something in the directory") as refused:
        init(made)
    assert exit_code(refused.value) == ExitCode.ARGUMENTS
    assert {path: path.read_bytes() for path in made.iterdir()} == before
    assert capsys.readouterr().out == ""


def test_an_init_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError):
        init(tmp_path / "ca", "--host", "no host")
    assert list(tmp_path.iterdir()) == []
    assert init(tmp_path / "ca") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


def test_init_takes_passphrases_from_where_nobody_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ROOT_PASSPHRASE", "for the vault")
    monkeypatch.setenv("ISSUING_PASSPHRASE", "for the server")
    passphrases = ["--root-passphrase", "env:ROOT_PASSPHRASE"]
    issuing = ["--passphrase", "env:ISSUING_PASSPHRASE"]
    assert init(tmp_path / "ca", *passphrases, *issuing) == 0
    with pytest.raises(KeyFileError):
        issue(tmp_path / "ca", tmp_path / "ada")
    assert issue(tmp_path / "ca", tmp_path / "ada", *issuing) == 0
    shown = capsys.readouterr()
    assert "for the" not in shown.out + shown.err


def test_a_profile_holds_what_a_users_commands_need(
    made: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert issue(made, tmp_path / "ada", "--tenant", "ward", "--server-id", "0f" * 16) == 0
    profile = tomllib.loads((tmp_path / "ada" / "profile.toml").read_text())
    assert profile["address"] == "localhost:7443" and profile["server_id"] == "0f" * 16
    chain = (tmp_path / "ada" / profile["certificate"]).read_bytes()
    authority = Authority.open(made)
    peer = authority.parse_peer(chain, now=int(time.time()))
    assert (peer.kind, peer.name, peer.tenant, peer.role) == ("user", "ada", "ward", "operator")
    identity = load_key(tmp_path / "ada" / profile["identity_key"])
    public = Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
    assert public == peer.identity_key
    assert b"PRIVATE KEY" in read_secret(tmp_path / "ada" / profile["key"])
    assert (tmp_path / "ada" / profile["authority"]).read_bytes() == authority.root_pem
    assert identity.hex() not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--role", "root"], AuthorityError),
        (["--role", "client"], AuthorityError),
        (["--name", "a/b"], AuthorityError),
        (["--address", "localhost"], ArgumentError),
        (["--days", "0"], AuthorityError),
        (["--days", "many"], ArgumentError),
        (["--server-id", "xyz"], ArgumentError),
        (["--nonsense"], ArgumentError),
    ],
    ids=str,
)
def test_a_profile_that_cannot_be_is_refused(
    made: Path, tmp_path: Path, more: list[str], error: type[FedcoreError]
) -> None:
    with pytest.raises(error):
        issue(made, tmp_path / "ada", *more)
    assert not (tmp_path / "ada").exists()


def test_a_profile_is_not_overwritten(made: Path, tmp_path: Path) -> None:
    issue(made, tmp_path / "ada")
    with pytest.raises(ArgumentError, match="profile"):
        issue(made, tmp_path / "ada")


def test_the_list_shows_whom_the_authority_named_and_disowned(
    made: Path, tmp_path: Path, capsys: Capture
) -> None:
    issue(made, tmp_path / "ada")
    capsys.readouterr()
    rows = listed(made, capsys)
    assert [row["kind"] for row in rows] == ["root", "issuing", "server", "user"]
    assert rows[0]["fingerprint"] == Authority.open(made).root_digest.hex()
    revoke = ["revoke", rows[3]["fingerprint"], "--reason", "left", "--directory", str(made)]
    assert main([*revoke, "--dry-run"]) == 0
    assert "would revoke" in capsys.readouterr().out
    assert Authority.open(made).lists.revoked() == frozenset()
    assert main([*revoke, "--yes"]) == 0
    assert main([*revoke, "--yes"]) == 0
    assert "revoked before" in capsys.readouterr().out
    assert Authority.open(made).lists.revoked() == {bytes.fromhex(rows[3]["fingerprint"])}
    assert [row["kind"] for row in listed(made, capsys)][3:] == ["revoked"]


def test_nobody_is_revoked_without_being_asked_for(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoke = ["revoke", "0a" * 32, "--reason", "x", "--directory", str(made)]
    with pytest.raises(ArgumentError, match="cannot be undone"):
        main(revoke)
    for wrong in ("", "0a", "zz" * 32):
        with pytest.raises(ArgumentError, match="no fingerprint"):
            main(["revoke", wrong, "--reason", "x", "--directory", str(made), "--yes"])
    assert Authority.open(made).lists.revoked() == frozenset()


def test_the_issuing_certificate_is_renewed_and_what_it_signed_stays_good(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOT", "correct horse")
    directory = tmp_path / "ca"
    assert init(directory, "--root-passphrase", "env:ROOT") == 0
    running = Authority.open(directory)
    old = running.issuing_not_after
    later = int(time.time()) + 4 * 365 * 86_400
    monkeypatch.setattr("fedserver.commands.ca.time.time", lambda: later)
    renew = ["renew", "--directory", str(directory)]
    with pytest.raises(KeyFileError, match=r"root\.key\.pem"):
        main(renew)
    assert Authority.open(directory).issuing_not_after == old
    assert main([*renew, "--root-passphrase", "env:ROOT"]) == 0
    assert "start the server again" in capsys.readouterr().out
    renewed = Authority.open(directory)
    assert renewed.issuing_not_after > old + 3 * 365 * 86_400
    assert (renewed.root, renewed.trust_domain) == (running.root, running.trust_domain)
    # What either of them signs, both know again; and a TLS peer accepts it by the new chain.
    for issuer in (running, renewed):
        issued = issuer.issue_client(
            new_key().public_key(), client_id=b"c" * 16, tenant="default", now=later
        )
        leaf = x509.load_der_x509_certificate(issued.chain[0])
        pem = leaf.public_bytes(serialization.Encoding.PEM)
        for reader in (running, renewed):
            assert reader.parse_peer(pem, now=later).id == b"c" * 16
        leaf.verify_directly_issued_by(x509.load_der_x509_certificate(renewed._issuing))


def test_a_root_that_ends_too_soon_or_is_elsewhere_renews_nothing(made: Path) -> None:
    authority = Authority.open(made)
    with pytest.raises(AuthorityError, match="expires too soon"):
        authority.renew_issuing(root_passphrase=None, now=int(time.time()) + 6 * 365 * 86_400)
    key = (made / "root.key.pem").read_bytes()
    (made / "root.key.pem").unlink()
    with pytest.raises(KeyFileError):
        authority.renew_issuing(root_passphrase=None, now=int(time.time()))
    write_secret(made / "root.key.pem", pem_of_key(new_key()))
    with pytest.raises(AuthorityError, match="not the key"):
        authority.renew_issuing(root_passphrase=None, now=int(time.time()))
    write_secret(made / "root.key.pem", key, replace=True)
    assert authority.renew_issuing(root_passphrase=None, now=int(time.time())) > 0


def test_init_says_what_to_do_next(tmp_path: Path, capsys: Capture) -> None:
    assert init(tmp_path / "ca") == 0
    *_, line = capsys.readouterr().out.splitlines()
    command = shlex.split(line.partition("next: fed ca ")[2])
    command[command.index("--output") + 1] = str(tmp_path / "profile")
    assert main([("ada" if word == "NAME" else word) for word in command]) == 0
    assert (tmp_path / "profile" / "profile.toml").exists()


@pytest.mark.parametrize("verb", ["list", "revoke"])
def test_a_directory_without_an_authority_is_named(tmp_path: Path, verb: str) -> None:
    more = ["0a" * 32, "--reason", "x", "--yes"] if verb == "revoke" else []
    with pytest.raises(AuthorityError, match="no authority"):
        main([verb, *more, "--directory", str(tmp_path)])


def test_mistakes_end_as_those_of_every_command(capsys: Capture) -> None:
    for arguments, where in (
        ([], "fed ca"),
        (["nonsense"], "fed ca"),
        (["init"], "fed ca init"),
        (["issue", "--days", "x"], "fed ca issue"),
        (["rotate", "registrar"], "fed ca rotate: Invalid value for 'key': 'registrar' is not one"),
    ):
        assert cli.main(["ca", *arguments]) == 4
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.startswith(f"FED-1109 {where}")


def test_help_is_plain_text(capsys: Capture) -> None:
    assert cli.main(["ca", "--help"]) == 0
    assert cli.main(["ca", "init", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--trust-domain" in shown and shown.isascii()


def test_common_options_stand_anywhere(made: Path, capsys: Capture) -> None:
    lines = []
    for arguments in (
        ["--format", "jsonl", "ca", "list", "--directory", str(made)],
        ["ca", "--format", "jsonl", "list", "--directory", str(made)],
        ["ca", "list", "--directory", str(made), "--format", "jsonl"],
    ):
        assert cli.main(arguments) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1] == lines[2] != ""
