"""`fed ca`: the operator makes an authority, gives profiles to users, and takes them back.

It works on the authority's directory alone and never speaks to a server. A server on that directory
reads the list of revoked certificates again with the next call after a change: whoever shows one on
it is refused at once, and a client gets no other certificate in its place, though those that it had
before count for the day that they last. That stays a matter of the list: `fed ca revoke` is for
users. A client is revoked with `fed token revoke`, which goes through the server, so that its
database has it too, and which refuses all of its certificates. The server takes into its audit log
what is done here; `recover` alone reads that, to put back what the list has lost.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.console import Json
from fedcore.errors import ArgumentError, JoinStringError, KeyFileError
from fedcore.wire.joining import split_address
from fedserver.authority import Authority
from fedserver.authority_files import (
    ISSUING,
    ROOT,
    SERVER,
)
from fedserver.certificate_lists import CertificateLists, Listed
from fedserver.certificates import der_of, new_key, pem_of_key
from fedserver.commands.ca_keys import renew, retire, rotate
from fedserver.commands.ca_options import (
    Confirmed,
    Directory,
    DryRun,
    Passphrase,
    RootPassphrase,
    ask,
    console_of,
    date_of,
    require_authority,
)
from fedserver.commands.dispatch import dispatch, verbs
from fedserver.config import AUTHORITY, STATE, load
from fedserver.key_files import (
    AUDIT_SIGNER,
    DATASTORE_KEYS,
    PARTICIPATION_KEY,
    create_key,
    secret_from,
    write_public,
    write_secret,
)

__all__ = ["main"]

PROFILE: Final = "profile.toml"

app = verbs("The built-in certificate authority.")


def main(argv: Sequence[str]) -> int:
    """Runs `fed ca` with these arguments and returns its exit code. Raises: FedcoreError."""
    return dispatch(app, argv, command="ca")


@app.command()
def init(
    context: typer.Context,
    trust_domain: Annotated[str, typer.Option(help="stands in every name, like fl.example.org")],
    host: Annotated[list[str], typer.Option(help="under which clients reach the server; repeat")],
    directory: Directory = STATE / AUTHORITY,
    root_passphrase: RootPassphrase = "",
    passphrase: Passphrase = "",
) -> None:
    """Makes an authority, the server's certificate, and the keys that a server needs."""
    if directory.exists() and any(directory.iterdir()):
        raise ArgumentError(
            "there is something in the directory of the new authority",
            why="an authority that is overwritten takes all its clients with it",
            fix="name a directory that is empty or not there yet",
            where=str(directory),
        )
    # All or nothing: a half-made authority could neither be used nor made again.
    draft = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    now = int(time.time())
    try:
        authority = Authority.create(
            draft,
            trust_domain=trust_domain,
            now=now,
            root_passphrase=secret_from(root_passphrase) if root_passphrase else None,
            passphrase=secret_from(passphrase) if passphrase else None,
        )
        served = authority.server_certificate(host, now=now)
        for name in (DATASTORE_KEYS, PARTICIPATION_KEY, AUDIT_SIGNER):
            create_key(draft / name)
        draft.replace(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    with_passphrase = f" --passphrase {passphrase}" if passphrase else ""
    root_key_stays = "" if root_passphrase else "; move root.key.pem to a safe place"
    console_of(context).show(
        {
            "directory": str(directory),
            "trust_domain": trust_domain,
            "authority_sha256": authority.root_digest.hex(),
            "hosts": host,
            "server_certificate_until": date_of(served.not_after),
            "root_key_encrypted": bool(root_passphrase),
        },
        f"authority {authority.root_digest.hex()}\n"
        f"lies in {directory} for {trust_domain}{root_key_stays}\n"
        f"next: fed ca issue --directory {directory} --name NAME --role admin"
        f" --address {host[0]}:7443 --output profile{with_passphrase}",
    )


app.command()(renew)
app.command()(rotate)
app.command()(retire)


@app.command()
def issue(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="of the user, like ada")],
    role: Annotated[str, typer.Option(help="viewer, researcher, operator, auditor or admin")],
    address: Annotated[str, typer.Option(help="host:port of the server's services")],
    output: Annotated[Path, typer.Option(help="the folder of the new profile")],
    tenant: str = "default",
    days: Annotated[int, typer.Option(help="how long it is valid")] = 90,
    server_id: Annotated[str, typer.Option(help="32 hexadecimal digits, if known")] = "",
    directory: Directory = STATE / AUTHORITY,
    passphrase: Passphrase = "",
) -> None:
    """Writes a profile, with which a user's commands reach the server."""
    _check_address(address)
    _check_server_id(server_id)
    if (output / PROFILE).exists():
        raise ArgumentError(
            "there is a profile in this folder already",
            why="its key would be lost",
            fix="name another folder, or move the old one away",
            where=str(output),
        )
    authority = Authority.open(
        directory, passphrase=secret_from(passphrase) if passphrase else None
    )
    key, identity = new_key(), Ed25519PrivateKey.generate()
    issued = authority.issue_user(
        key.public_key(),
        name=name,
        tenant=tenant,
        role=role,
        identity_key=identity.public_key().public_bytes_raw(),
        now=int(time.time()),
        days=days,
    )
    write_secret(output / "key.pem", pem_of_key(key))
    write_secret(output / "identity.key", identity.private_bytes_raw().hex().encode() + b"\n")
    write_public(output / "chain.pem", b"".join(map(_pem, issued.chain[:-1])))
    write_public(output / "authority.pem", authority.root_pem)
    profile = {
        "address": address,
        "server_id": server_id,
        "tenant": tenant,
        "name": name,
        "role": role,
        "authority": "authority.pem",
        "certificate": "chain.pem",
        "key": "key.pem",
        "identity_key": "identity.key",
        "not_after": date_of(issued.not_after),
    }
    # A JSON string of these characters is a TOML string.
    lines = (f"{field} = {json.dumps(value)}\n" for field, value in profile.items())
    write_public(output / PROFILE, "".join(lines).encode())
    console_of(context).show(
        {**profile, "profile": str(output), "fingerprint": issued.fingerprint.hex()},
        f"profile of {name} ({role} in {tenant}) until {date_of(issued.not_after)}: {output}",
    )


@app.command()
def revoke(
    context: typer.Context,
    fingerprint: Annotated[str, typer.Argument(help="SHA-256 of the certificate: `fed ca list`")],
    reason: Annotated[str, typer.Option(help="for the list")],
    directory: Directory = STATE / AUTHORITY,
    yes: Confirmed = False,
    dry_run: DryRun = False,
) -> None:
    """Disowns a user's certificate at once and for good; for clients: `fed token revoke`."""
    digest = _digest(fingerprint)
    require_authority(directory)
    lists = CertificateLists(directory)
    name = lists.names().get(digest, "")
    whose = name or "a certificate that is not on the list of users"
    console = console_of(context)
    if dry_run:
        console.show({"would_revoke": digest.hex(), "name": name}, f"would revoke {whose}")
        return
    if not yes:
        ask(f"Revoke {whose} for good?")
    fresh = lists.revoke(digest, reason=reason, now=int(time.time()), name=name)
    text = f"revoked {whose}" if fresh else "it was revoked before"
    console.show({"revoked": digest.hex(), "name": name, "repeated": not fresh}, text)


@app.command()
def recover(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", help="the server's settings")] = None,
    dry_run: DryRun = False,
) -> None:
    """Revokes again what the server's audit log has, and a lost or older list has not."""
    from fedserver.authority_acts import lost_revocations
    from fedserver.store.opening import require_driver

    settings = load(config)
    require_authority(settings.authority_directory)
    require_driver(settings.database)
    lists = CertificateLists(settings.authority_directory)
    lost = lost_revocations(lists, settings.database)
    if not dry_run:
        lists.put_back(lost)
    count = f"{len(lost)} certificate{'s' * (len(lost) != 1)}"
    shown: Json = [line.fingerprint.hex() for line in lost]
    console_of(context).show(
        {"would_revoke" if dry_run else "revoked": shown},
        "\n".join(
            [
                f"{'would revoke' if dry_run else 'revoked'} {count} again",
                *(f"{line.fingerprint.hex()}  {line.name}".rstrip() for line in lost),
            ]
        ),
    )


@app.command("list")
def list_(context: typer.Context, directory: Directory = STATE / AUTHORITY) -> None:
    """Lists the authority's certificates, the users', and those that were revoked."""
    require_authority(directory)
    lists = CertificateLists(directory)
    revoked = lists.revoked()
    shown: list[tuple[Json, str]] = []
    for kind, file in (("root", ROOT), ("issuing", ISSUING), ("server", SERVER)):
        if (directory / file).exists():
            shown.append(_own(kind, directory / file))
    for user in lists.users():
        state = "revoked" if user.fingerprint in revoked else "user"
        shown.append(_line(state, user))
    users = {user.fingerprint for user in lists.users()}
    shown += [
        _line("revoked", line) for line in lists.revocations() if line.fingerprint not in users
    ]
    console_of(context).show_each(shown)


def _own(kind: str, path: Path) -> tuple[Json, str]:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise KeyFileError(
            f"{path.name} cannot be read",
            why="it is no certificate in PEM",
            fix="restore the authority's directory from its backup",
            where=str(path),
        ) from None
    digest = hashlib.sha256(der_of(found)).hexdigest()
    until = date_of(int(found.not_valid_after_utc.timestamp()))
    return {"kind": kind, "fingerprint": digest, "until": until}, f"{kind:<8} {until}  {digest}"


def _line(kind: str, listed: Listed) -> tuple[Json, str]:
    data = {
        "kind": kind,
        "fingerprint": listed.fingerprint.hex(),
        "name": listed.name,
        "role": listed.role,
        "at": date_of(listed.at),
        "until": date_of(listed.not_after) if listed.not_after else "",
        "reason": listed.reason,
    }
    about = f"{listed.name} {listed.role}{listed.reason}".strip()
    until = data["until"] or data["at"]
    return data, f"{kind:<8} {until}  {listed.fingerprint.hex()}  {about}"


def _check_address(text: str) -> None:
    try:
        split_address(text)
    except JoinStringError:
        raise ArgumentError(
            f"fed ca: {text!r} is no address of a server",
            why="it is host:port, as users reach its services; IPv6 stands in brackets",
            fix="write it like fl.example.org:7443",
        ) from None


def _check_server_id(text: str) -> None:
    if text and re.fullmatch(r"[0-9a-f]{32}", text, re.ASCII) is None:
        raise ArgumentError(
            f"fed ca: {text!r} is no id of a server",
            why="it has 32 hexadecimal digits in lower case",
            fix="copy it from `fed server status`, or leave it out",
        )


def _digest(text: str) -> bytes:
    plain = text.replace(":", "").lower()
    if re.fullmatch(r"[0-9a-f]{64}", plain, re.ASCII) is None:
        raise ArgumentError(
            f"fed ca: {text!r} is no fingerprint",
            why="a SHA-256 has 64 hexadecimal digits",
            fix="copy it from `fed ca list`",
        )
    return bytes.fromhex(plain)


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
