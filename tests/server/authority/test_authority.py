"""The authority makes chains that TLS accepts, finds itself again, and disowns for good."""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, strategies as st

from fedcore.errors import AuthorityError, KeyFileError, UnauthenticatedError
from fedcore.v1 import enrolment_service_pb2 as messages, enrolment_service_pb2_grpc as rpcs
from fedserver.authority import Authority, due
from fedserver.certificates import Issued, is_key_of, new_key, pem_of_key

ROLE_AND_KEY = {"role": "operator", "identity_key": b"k" * 32}


def pem_of(issued: Issued) -> bytes:
    """The chain without its root, as TLS sends it."""
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        for der in issued.chain[:-1]
    )


def test_it_is_found_again_without_its_root_key(authority: Authority, now: int) -> None:
    (authority.directory / "root.key.pem").unlink()
    found = Authority.open(authority.directory)
    assert (found.root, found.trust_domain) == (authority.root, "example.org")
    assert found.registrar.public_key == authority.registrar.public_key
    issued = found.issue_client(
        new_key().public_key(), client_id=b"c" * 16, tenant="default", now=now
    )
    assert authority.parse_peer(pem_of(issued), now=now).id == b"c" * 16


def test_keys_are_encrypted_under_their_own_passphrases(tmp_path: Path, now: int) -> None:
    Authority.create(
        tmp_path / "ca",
        trust_domain="example.org",
        now=now,
        root_passphrase=b"for the vault",
        passphrase=b"for the server",
    )
    for name, passphrase in (("root", b"for the vault"), ("issuing", b"for the server")):
        pem = (tmp_path / "ca" / f"{name}.key.pem").read_bytes()
        assert b"ENCRYPTED" in pem
        serialization.load_pem_private_key(pem, passphrase)
    Authority.open(tmp_path / "ca", passphrase=b"for the server")
    for wrong in (None, b"", b"for the vault"):
        with pytest.raises(KeyFileError) as refused:
            Authority.open(tmp_path / "ca", passphrase=wrong)
        assert "vault" not in str(refused.value)


def test_no_secret_can_be_read_by_others(authority: Authority, now: int) -> None:
    authority.server_certificate(["localhost"], now=now)
    assert stat.S_IMODE(authority.directory.stat().st_mode) == 0o700
    secrets = [path for path in authority.directory.iterdir() if ".key" in path.name]
    assert len(secrets) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o400}


def test_a_key_that_others_can_read_opens_nothing(authority: Authority) -> None:
    (authority.directory / "issuing.key.pem").chmod(0o440)
    with pytest.raises(KeyFileError, match="open to others"):
        Authority.open(authority.directory)


def test_an_authority_is_never_overwritten(authority: Authority, now: int) -> None:
    with pytest.raises(KeyFileError):
        Authority.create(authority.directory, trust_domain="example.org", now=now)
    assert Authority.open(authority.directory).root == authority.root


@pytest.mark.parametrize("name", ["root.pem", "issuing.pem", "issuing.key.pem"])
def test_files_of_two_authorities_do_not_open(
    authority: Authority, tmp_path: Path, now: int, name: str
) -> None:
    other = Authority.create(tmp_path / "other", trust_domain="example.org", now=now)
    (other.directory / name).replace(authority.directory / name)
    with pytest.raises(AuthorityError, match="belong together"):
        Authority.open(authority.directory)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_missing_or_damaged_file_says_which(authority: Authority, damage: bytes | None) -> None:
    path = authority.directory / "root.pem"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(KeyFileError, match=r"root\.pem"):
        Authority.open(authority.directory)


def test_a_client_is_named_for_a_day_and_a_server_for_a_week(
    authority: Authority, now: int
) -> None:
    issued = authority.issue_client(
        new_key().public_key(), client_id=bytes(16), tenant="default", now=now
    )
    assert issued.not_after == now + 86_400
    served = authority.server_certificate(["localhost"], now=now)
    assert served.not_after == now + 7 * 86_400
    assert b"PRIVATE" not in repr(served).encode()


def test_serials_are_long_and_all_different(authority: Authority, now: int) -> None:
    key = new_key().public_key()
    serials = {
        authority.issue_client(key, client_id=bytes(16), tenant="t", now=now).serial
        for _ in range(20)
    }
    assert len(serials) == 20 and {len(serial) for serial in serials} == {16}


def test_a_server_certificate_is_kept_until_it_is_due(authority: Authority, now: int) -> None:
    hosts = ["localhost", "127.0.0.1"]
    first = authority.server_certificate(hosts, now=now)
    assert authority.server_certificate(hosts, now=now + 4 * 86_400) == first
    assert Authority.open(authority.directory).server_certificate(hosts, now=now) == first
    renewed = authority.server_certificate(hosts, now=now + 5 * 86_400)
    assert renewed.not_after == now + 12 * 86_400 and renewed.key != first.key
    assert authority.server_certificate(["localhost"], now=now + 5 * 86_400) != renewed


def test_a_key_of_another_certificate_is_not_served(authority: Authority, now: int) -> None:
    """As two servers leave them that renew a certificate in one folder at once."""
    first = authority.server_certificate(["localhost"], now=now)
    path = authority.directory / "server.key.pem"
    path.unlink()
    path.write_bytes(authority.peer_certificate(now=now).key)
    path.chmod(0o400)
    second = authority.server_certificate(["localhost"], now=now)
    assert second.chain != first.chain
    leaf = x509.load_pem_x509_certificate(second.chain)
    assert is_key_of(second.key, leaf) and not is_key_of(first.key, leaf)


def test_a_server_is_known_by_a_certificate_that_lies_in_no_file(
    authority: Authority, now: int
) -> None:
    mine = authority.peer_certificate(now=now)
    found = authority.parse_peer(mine.chain, now=now)
    assert (found.kind, found.id, found.name, found.tenant) == ("server", b"", "", "")
    assert not [p for p in authority.directory.iterdir() if mine.chain in p.read_bytes()]
    with pytest.raises(UnauthenticatedError):
        authority.parse_peer(mine.chain, now=mine.not_after)


@given(st.integers(0, 2**33), st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_certificate_is_due_after_two_thirds_of_its_life(start: int, life: int, age: int) -> None:
    assert due(start, start + 3 * life, now=start + age) == (age >= 2 * life)


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "client"},
        {"role": "root"},
        {"identity_key": b"short"},
        {"days": 0},
        {"days": 1000},
        {"name": "a/b"},
        {"name": ""},
        {"tenant": "a%2fb"},
    ],
    ids=str,
)
def test_a_user_is_not_named_in_any_other_way(
    authority: Authority, now: int, wrong: dict[str, object]
) -> None:
    arguments = {"name": "ada", "tenant": "default", **ROLE_AND_KEY, **wrong}
    with pytest.raises(AuthorityError):
        authority.issue_user(new_key().public_key(), now=now, **arguments)  # type: ignore[arg-type]
    assert authority.lists.users() == []


def test_nothing_outlives_the_authority(authority: Authority) -> None:
    late = authority.issuing_not_after - 3600
    with pytest.raises(AuthorityError, match="expires too soon"):
        authority.issue_client(new_key().public_key(), client_id=bytes(16), tenant="t", now=late)


def test_a_revoked_certificate_is_refused_by_a_server_that_runs(
    authority: Authority, now: int
) -> None:
    issued = authority.issue_user(
        new_key().public_key(), name="ada", tenant="t", now=now, **ROLE_AND_KEY
    )
    running, operator = Authority.open(authority.directory), Authority.open(authority.directory)
    assert running.parse_peer(pem_of(issued), now=now).fingerprint == issued.fingerprint
    assert operator.lists.revoke(issued.fingerprint, reason="left", now=now)
    assert not operator.lists.revoke(issued.fingerprint, reason="left", now=now)
    with pytest.raises(UnauthenticatedError, match="revoked"):
        running.parse_peer(pem_of(issued), now=now)
    assert [line.reason for line in running.lists.revocations()] == ["left"]
    other = authority.issue_client(new_key().public_key(), client_id=bytes(16), tenant="t", now=now)
    assert running.parse_peer(pem_of(other), now=now).id == bytes(16)
    operator.lists.revoke(other.fingerprint, reason="stolen", now=now)  # a list that was read once
    with pytest.raises(UnauthenticatedError, match="revoked"):
        running.parse_peer(pem_of(other), now=now)


def test_a_damaged_list_lets_nobody_in(authority: Authority, now: int) -> None:
    issued = authority.issue_client(
        new_key().public_key(), client_id=bytes(16), tenant="t", now=now
    )
    authority.lists.revoke(b"f" * 32, reason="x", now=now)
    with (authority.directory / "revoked.jsonl").open("a") as file:
        file.write('{"fingerprint": "0')
    with pytest.raises(AuthorityError, match="damaged"):
        authority.parse_peer(pem_of(issued), now=now)


def test_a_fingerprint_has_its_length(authority: Authority, now: int) -> None:
    with pytest.raises(AuthorityError, match="fingerprint"):
        authority.lists.revoke(b"short", reason="x", now=now)


@pytest.mark.parametrize("domain", ["", "Example.org", "a b", "x/y", "a:1"])
def test_a_trust_domain_is_written_like_a_host(tmp_path: Path, now: int, domain: str) -> None:
    with pytest.raises(AuthorityError, match="trust domain"):
        Authority.create(tmp_path / "ca", trust_domain=domain, now=now)
    assert not (tmp_path / "ca").exists()


class Peers(rpcs.EnrolmentServiceServicer):
    """Answers with the certificate that the connection showed."""

    def Anchors(
        self, request: messages.AnchorsRequest, context: grpc.ServicerContext
    ) -> messages.AnchorsResponse:
        (pem,) = context.auth_context()["x509_pem_cert"]
        return messages.AnchorsResponse(authority=pem)


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., bytes]:
    """Calls, over mTLS as gRPC does it, a server of one authority with a chain of another."""

    def call(serving: Authority, naming: Authority, *, now: int) -> bytes:
        served = serving.server_certificate(["localhost", "127.0.0.1"], now=now)
        key = new_key()
        issued = naming.issue_client(
            key.public_key(), client_id=b"c" * 16, tenant="default", now=now
        )
        server = grpc.server(ThreadPoolExecutor(1))
        rpcs.add_EnrolmentServiceServicer_to_server(Peers(), server)
        credentials = grpc.ssl_server_credentials(
            [(served.key, served.chain)], serving.root_pem, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        own = grpc.ssl_channel_credentials(serving.root_pem, pem_of_key(key), pem_of(issued))
        try:
            with grpc.secure_channel(f"127.0.0.1:{port}", own) as channel:
                stub = rpcs.EnrolmentServiceStub(channel)
                return stub.Anchors(messages.AnchorsRequest(), timeout=20).authority
        finally:
            server.stop(None).wait()

    return call


def machine_now() -> int:
    return int(time.time())


def test_grpc_accepts_both_chains_and_shows_who_called(
    tmp_path: Path, ask: Callable[..., bytes]
) -> None:
    now = machine_now()  # TLS looks at the machine's own clock
    authority = Authority.create(tmp_path / "ca", trust_domain="example.org", now=now)
    pem = ask(authority, authority, now=now)
    assert authority.parse_peer(pem, now=now).id == b"c" * 16


@pytest.mark.parametrize("age_s", [0, 3 * 86_400], ids=["another authority", "expired"])
def test_grpc_refuses_a_chain_of_another_authority_or_time(
    tmp_path: Path, ask: Callable[..., bytes], age_s: int
) -> None:
    now = machine_now()
    authority = Authority.create(tmp_path / "a", trust_domain="example.org", now=now - age_s)
    other = authority
    if not age_s:
        other = Authority.create(tmp_path / "b", trust_domain="example.org", now=now)
    with pytest.raises(grpc.RpcError) as refused:
        ask(authority, other, now=now - age_s)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_openssl_verifies_the_server_by_name_and_address(
    tmp_path: Path, authority: Authority
) -> None:
    now = machine_now()
    authority = Authority.create(tmp_path / "now", trust_domain="example.org", now=now)
    served = authority.server_certificate(["fl.example.org", "127.0.0.1"], now=now)
    (tmp_path / "chain.pem").write_bytes(served.chain)
    (tmp_path / "key.pem").write_bytes(served.key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    trusting = ssl.create_default_context(cadata=authority.root_pem.decode())
    for host in ("fl.example.org", "127.0.0.1"):
        _shake_hands(serving, trusting, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(serving, trusting, "evil.example.org")


def _shake_hands(serving: ssl.SSLContext, trusting: ssl.SSLContext, host: str) -> None:
    """A TLS handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up, server_hostname=host)
    server = serving.wrap_bio(up, down, server_side=True)
    waiting = {client, server}
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.discard(side)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
