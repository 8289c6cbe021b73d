"""Every kind of key that a server holds is exchanged, or said to be one that cannot be.

What the old key did counts until it is retired, so that nobody is shut out by an exchange. Devices'
and users' own certificates are renewed in tests/client/test_certificates.py and by `fed ca issue`.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store

from fedcore.cli import main as fed
from fedcore.errors import (
    ArgumentError,
    AuditError,
    AuthorityError,
    LedgerError,
    StoreError,
    UnauthenticatedError,
)
from fedcore.federated.payments import Accounts
from fedserver.audit_heads import AuditHeads
from fedserver.authority import Authority
from fedserver.certificate_lists import CertificateLists
from fedserver.certificates import new_key
from fedserver.commands.ca import main
from fedserver.key_files import (
    AUDIT_SIGNER,
    DATASTORE_KEYS,
    create_key,
    load_keys,
)
from fedserver.store.sealing import Sealer
from tests.server.databases import opened
from tests.server.federation.world import task_of

HOSTS = ("localhost",)
PLACE = ("session_record", "task/1/1", "value")
NOW = int(time.time())


@pytest.fixture
def ca(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The directory of an authority."""
    domain = ["--trust-domain", "fl.test", "--host", HOSTS[0]]
    assert main(["init", "--directory", f"{tmp_path}/ca", *domain]) == 0
    return tmp_path / "ca"


def rotate(ca: Path, key: str) -> None:
    assert main(["rotate", key, "--directory", str(ca)]) == 0


def retire(ca: Path, key: str) -> None:
    assert main(["retire", key, "--directory", str(ca), "--yes"]) == 0


def test_datastore_keys_are_exchanged_and_the_old_ones_open_until_they_are_retired(
    ca: Path,
) -> None:
    def sealer() -> Sealer:
        return Sealer(load_keys(ca / DATASTORE_KEYS))

    before = sealer().seal(b"before", *PLACE)
    rotate(ca, "datastore")
    after = sealer().seal(b"after", *PLACE)
    assert (sealer().open(before, *PLACE), sealer().open(after, *PLACE)) == (b"before", b"after")
    retire(ca, "datastore")
    assert sealer().open(after, *PLACE) == b"after"
    with pytest.raises(StoreError, match="cannot be opened"):
        sealer().open(before, *PLACE)


async def test_the_audit_signer_is_exchanged_and_no_rollback_is_let_through_meanwhile(
    ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = await opened(tmp_path / "fed.db", keys=[bytes(32)])

    def heads() -> AuditHeads:
        signer, *earlier = load_keys(ca / AUDIT_SIGNER)
        return AuditHeads(store, tmp_path / "head", signer=signer, earlier=earlier)

    try:
        await heads().sign()
        first = public_of(ca, capsys)
        rotate(ca, "audit-signer")
        assert public_of(ca, capsys) != first
        started = heads()
        await started.check()  # by the key that signed it
        await started.refresh()  # which every start does: now by the new one
        retire(ca, "audit-signer")
        await heads().check()
        # Retired before a start: nobody can say whether the log was rolled back.
        rotate(ca, "audit-signer")
        retire(ca, "audit-signer")
        with pytest.raises(AuditError, match="no signed head"):
            await heads().check()
        await heads().check(accept_rollback=True)
    finally:
        await store.close()


def public_of(ca: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What auditors are told, by the command of the operator."""
    capsys.readouterr()
    assert fed(["audit", "signer", str(ca / AUDIT_SIGNER)]) == 0
    return capsys.readouterr().out


def test_the_issuing_key_is_exchanged_and_what_it_signed_counts_until_it_is_retired(
    ca: Path,
) -> None:
    first = Authority.open(ca)
    old, served = client_of(first), first.server_certificate(HOSTS, now=NOW)
    rotate(ca, "issuing")
    second = Authority.open(ca)
    assert second.root == first.root and second._issuing != first._issuing
    new = client_of(second)
    for pem in (old, new):
        assert second.parse_peer(pem, now=NOW).id == b"c" * 16
    with pytest.raises(UnauthenticatedError):
        first.parse_peer(new, now=NOW)
    # The server's certificate is of the new key, and both chains end in the root that all know.
    renewed = second.server_certificate(HOSTS, now=NOW)
    assert renewed.chain != served.chain
    for chain in (served.chain, renewed.chain):
        assert handshakes(chain, ca)
    rotate(ca, "issuing")
    third = Authority.open(ca)
    for pem in (old, new):
        assert third.parse_peer(pem, now=NOW).id == b"c" * 16
    retire(ca, "issuing")
    fourth = Authority.open(ca)
    for pem in (old, new):
        with pytest.raises(UnauthenticatedError, match="does not say who"):
            fourth.parse_peer(pem, now=NOW)
    assert fourth.parse_peer(client_of(fourth), now=NOW).id == b"c" * 16


def test_who_would_be_locked_out_is_named_before_an_issuing_key_is_forgotten(
    ca: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_s = time.time()
    for module in ("ca", "ca_keys"):
        clock = SimpleNamespace(time=lambda: at_s)
        monkeypatch.setattr(f"fedserver.commands.{module}.time", clock)

    def issue(name: str, folder: str = "") -> None:
        who = ["--name", name, "--role", "viewer", "--address", "localhost:1"]
        output = str(ca.parent / (folder or name))
        assert main(["issue", *who, "--directory", str(ca), "--output", output]) == 0

    def told(*words: str) -> str:
        capsys.readouterr()
        assert fed(["ca", "retire", "issuing", "--directory", str(ca), *words]) == 0
        said = capsys.readouterr()
        return said.out + said.err

    for name in ("ada", "bob", "eve"):
        issue(name)
    assert "ada" not in told("--dry-run")  # nothing was exchanged
    at_s += 10
    rotate(ca, "issuing")
    issue("bob", "bob-2")
    fingerprint = next(u.fingerprint for u in CertificateLists(ca).users() if "/eve" in u.name)
    revoke = ["revoke", fingerprint.hex(), "--reason", "left", "--directory", str(ca), "--yes"]
    assert main(revoke) == 0
    for words in (["--dry-run"], ["--yes"]):
        said = told(*words)
        assert "/u/ada" in said and "/u/bob" not in said and "/u/eve" not in said
    assert "/u/ada" not in told("--yes")


@pytest.mark.parametrize("knows_who_signed", [True, False])
def test_who_got_a_profile_in_the_second_of_the_exchange_is_named_by_the_key_that_signed_it(
    ca: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    knows_who_signed: bool,
) -> None:
    at_s = float(NOW)
    for module in ("ca", "ca_keys"):
        clock = SimpleNamespace(time=lambda: at_s)
        monkeypatch.setattr(f"fedserver.commands.{module}.time", clock)

    def issue(name: str) -> None:
        who = ["--name", name, "--role", "viewer", "--address", "localhost:1"]
        assert main(["issue", *who, "--directory", str(ca), "--output", f"{ca.parent}/{name}"]) == 0

    issue("ada")
    rotate(ca, "issuing")
    issue("bob")
    at_s += 1
    issue("eve")
    if not knows_who_signed:  # as an older program wrote the list
        text = (ca / "issued.jsonl").read_text()
        (ca / "issued.jsonl").write_text(re.sub(r', "issuer": "\w*"', "", text))
    capsys.readouterr()
    assert main(["retire", "issuing", "--directory", str(ca), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "/u/ada" in said and "/u/eve" not in said
    assert ("/u/bob" in said) != knows_who_signed  # rather one too many than one too few


def test_a_renewed_certificate_of_the_issuing_key_locks_nobody_out(
    ca: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    who = ["--name", "ada", "--role", "viewer", "--address", "localhost:1"]
    rotate(ca, "issuing")
    assert main(["issue", *who, "--directory", str(ca), "--output", f"{ca.parent}/ada"]) == 0
    assert main(["renew", "--directory", str(ca)]) == 0
    capsys.readouterr()
    assert main(["retire", "issuing", "--directory", str(ca), "--dry-run"]) == 0
    assert "/u/ada" not in capsys.readouterr().out


def client_of(authority: Authority) -> bytes:
    issued = authority.issue_client(
        new_key().public_key(), client_id=b"c" * 16, tenant="default", now=NOW
    )
    leaf = x509.load_der_x509_certificate(issued.chain[0])
    return leaf.public_bytes(serialization.Encoding.PEM)


def handshakes(chain: bytes, ca: Path) -> bool:
    """Whether somebody who knows the root alone would take this chain of a server."""
    root = x509.load_pem_x509_certificate((ca / "root.pem").read_bytes())
    leaf, *others = x509.load_pem_x509_certificates(chain)
    verifier = PolicyBuilder().store(Store([root])).build_server_verifier(x509.DNSName(HOSTS[0]))
    return verifier.verify(leaf, others)[-1] == root


def test_an_issuing_key_that_was_lost_is_exchanged_and_its_passphrase_with_it(
    ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = client_of(Authority.open(ca))
    (ca / "issuing.key.pem").unlink()
    monkeypatch.setenv("ISSUING", "another passphrase")
    assert main(["rotate", "issuing", "--directory", str(ca), "--passphrase", "env:ISSUING"]) == 0
    authority = Authority.open(ca, passphrase=b"another passphrase")
    assert authority.parse_peer(old, now=NOW).id == b"c" * 16


def test_the_issuing_key_is_not_exchanged_without_the_root_key(ca: Path) -> None:
    (ca / "root.key.pem").rename(ca.parent / "in-the-vault")
    before = (ca / "issuing.pem").read_bytes()
    with pytest.raises(Exception, match=r"root\.key\.pem"):
        rotate(ca, "issuing")
    assert (ca / "issuing.pem").read_bytes() == before and not (
        ca / "issuing-previous.pem"
    ).exists()
    Authority.open(ca)


def test_the_servers_certificate_and_key_are_made_anew_when_they_are_exchanged(ca: Path) -> None:
    authority = Authority.open(ca)
    first = authority.server_certificate(HOSTS, now=NOW)
    assert authority.server_certificate(HOSTS, now=NOW) == first
    rotate(ca, "server")
    # The same call that a running server makes every hour, and at its start.
    second = authority.server_certificate(HOSTS, now=NOW)
    assert second.key != first.key and second.chain != first.chain


def test_a_participation_key_is_not_exchanged_and_the_right_one_goes_on(tmp_path: Path) -> None:
    task = task_of(secure="", privacy=PARTICIPATION)
    assert task.plan is not None
    keys = [create_key(tmp_path / "keys" / name) for name in ("first", "second")]
    accounts = [Accounts(tmp_path / "ledgers", participation_key=key) for key in keys]
    accounts[0].create("task", task.plan)
    accounts[0].close()
    with pytest.raises(LedgerError, match="participation key"):
        accounts[1].open("task", task.plan, checkpoint=None)
    accounts[0].open("task", task.plan, checkpoint=None)
    accounts[0].close()


PARTICIPATION = """
[privacy]
unit = "client"
epsilon = 50.0
delta = 1e-2
population = 5
clipping_norm = 1.0
noise = "central"
minimum_separation = 1
maximum_participations = 4
"""


@pytest.mark.parametrize("key", ["participation", "registrar", "root", "nonsense"])
def test_what_cannot_be_exchanged_is_not_among_the_kinds(ca: Path, key: str) -> None:
    before = {path: path.read_bytes() for path in ca.iterdir()}
    for verb in ("rotate", "retire"):
        with pytest.raises(ArgumentError, match=re.escape(key)):
            main([verb, key, "--directory", str(ca)])
    assert {path: path.read_bytes() for path in ca.iterdir()} == before


def test_nothing_is_forgotten_unless_somebody_says_so(
    ca: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rotate(ca, "datastore")
    with pytest.raises(ArgumentError, match="--yes"):
        main(["retire", "datastore", "--directory", str(ca)])
    assert main(["retire", "datastore", "--directory", str(ca), "--dry-run"]) == 0
    assert len(load_keys(ca / DATASTORE_KEYS)) == 2
    for number in (1, 0):
        capsys.readouterr()
        assert main(["retire", "datastore", "--directory", str(ca), "--yes", "--format=json"]) == 0
        assert f'"keys": {number}' in capsys.readouterr().out
    assert fed(["ca", "retire", "server", "--directory", str(ca), "--yes"]) == 0
    with pytest.raises(AuthorityError, match="no authority"):
        main(["rotate", "server", "--directory", str(ca.parent)])


def test_an_exchange_of_the_issuing_key_that_was_interrupted_is_done_again(ca: Path) -> None:
    before = (ca / "issuing.pem").read_bytes()
    key = new_key().public_key()
    old = Authority.open(ca).issue_client(key, client_id=b"c" * 16, tenant="default", now=NOW)
    rotate(ca, "issuing")
    (ca / "issuing.pem").unlink()
    (ca / "issuing.pem").write_bytes(before)  # as a power cut leaves it: the new key is there alone
    with pytest.raises(AuthorityError, match="do not belong together") as refused:
        Authority.open(ca)
    assert "fed ca rotate issuing" in refused.value.fix
    rotate(ca, "issuing")
    pem = x509.load_der_x509_certificate(old.chain[0]).public_bytes(serialization.Encoding.PEM)
    assert Authority.open(ca).parse_peer(pem, now=NOW + 1).id == b"c" * 16
