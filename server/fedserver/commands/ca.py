"""`fed ca`: the operator makes an authority, gives profiles to users, and takes them back.

It works on the authority's directory alone and never speaks to a server. A server on that directory
reads the list of revoked certificates again with the next call after a change: a user or client on
it is refused at once, and a client gets no other certificate in its place. That stays a matter of
the list: `fed ca revoke` is for users. A client is revoked with `fed token revoke`, which goes
through the server, so that its database and its audit log have it too.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.console import Console, Json
from fedcore.errors import ArgumentError, AuthorityError, JoinStringError, KeyFileError
from fedcore.wire.joining import split_address
from fedserver.authority import Authority, rotate_issuing
from fedserver.authority_files import (
    ISSUING,
    ROOT,
    SERVER,
    certificate_at,
    forget_previous,
    previous_in,
)
from fedserver.certificate_lists import CertificateLists, Listed
from fedserver.certificates import EARLY_S, der_of, new_key, pem_of_key
from fedserver.commands.dispatch import dispatch, verbs
from fedserver.config import AUTHORITY, STATE
from fedserver.key_files import (
    AUDIT_SIGNER,
    DATASTORE_KEYS,
    PARTICIPATION_KEY,
    create_key,
    keep_first_key,
    prepend_key,
    secret_from,
    write_public,
    write_secret,
)

__all__ = ["main"]

PROFILE: Final = "profile.toml"

app = verbs("The built-in certificate authority.")

Directory = Annotated[Path, typer.Option("--directory", help="the authority's directory")]
Passphrase = Annotated[
    str, typer.Option("--passphrase", help="of the issuing key: a file of mode 0400, or env:NAME")
]
RootPassphrase = Annotated[
    str, typer.Option(help="of the root key, which may lie elsewhere: a file, or env:NAME")
]
Confirmed = Annotated[bool, typer.Option("--yes", help="do it without asking")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would happen, and do nothing")]


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
    _console(context).show(
        {
            "directory": str(directory),
            "trust_domain": trust_domain,
            "authority_sha256": authority.root_digest.hex(),
            "hosts": host,
            "server_certificate_until": _date(served.not_after),
            "root_key_encrypted": bool(root_passphrase),
        },
        f"authority {authority.root_digest.hex()}\n"
        f"lies in {directory} for {trust_domain}{root_key_stays}\n"
        f"next: fed ca issue --directory {directory} --name NAME --role admin"
        f" --address {host[0]}:7443 --output profile{with_passphrase}",
    )


@app.command()
def renew(
    context: typer.Context,
    directory: Directory = STATE / AUTHORITY,
    root_passphrase: RootPassphrase = "",
    passphrase: Passphrase = "",
) -> None:
    """Renews the issuing certificate with the root key; a server takes it when it starts again."""
    authority = Authority.open(
        directory, passphrase=secret_from(passphrase) if passphrase else None
    )
    until = authority.renew_issuing(
        root_passphrase=secret_from(root_passphrase) if root_passphrase else None,
        now=int(time.time()),
    )
    _console(context).show(
        {"directory": str(directory), "issuing_certificate_until": _date(until)},
        f"the issuing certificate is good until {_date(until)}; start the server again",
    )


class Key(StrEnum):
    """What is exchanged while the federation goes on."""

    AUDIT_SIGNER = "audit-signer"
    DATASTORE = "datastore"
    ISSUING = "issuing"
    SERVER = "server"


_KEYS_IN: Final = {Key.AUDIT_SIGNER: AUDIT_SIGNER, Key.DATASTORE: DATASTORE_KEYS}
_WITHOUT: Final = {
    Key.AUDIT_SIGNER: "start it with --accept-rollback once",
    Key.DATASTORE: "give up with `fed db epoch` what a lost one has sealed",
}


@app.command()
def rotate(
    context: typer.Context,
    key: Annotated[Key, typer.Argument(help="which one")],
    directory: Directory = STATE / AUTHORITY,
    root_passphrase: RootPassphrase = "",
    passphrase: Passphrase = "",
) -> None:
    """Puts a new key in the place of one; what the old one did still counts, until `retire`."""
    _check_directory(directory)
    if key is Key.SERVER:
        # Without its certificate the key is of no use: the server makes both anew.
        (directory / SERVER).unlink(missing_ok=True)
        text = "the server makes another certificate when it starts, or within the hour"
    elif key is Key.ISSUING:
        until = rotate_issuing(
            directory,
            root_passphrase=secret_from(root_passphrase) if root_passphrase else None,
            passphrase=secret_from(passphrase) if passphrase else None,
            now=int(time.time()),
        )
        text = f"a new key issues until {_date(until)}; start the server again"
    else:
        alone = len(prepend_key(directory / _KEYS_IN[key])) == 1
        text = "a new key is in use from the next start of the server on"
        text += f"; there was none before, so {_WITHOUT[key]}" if alone else ""
    _console(context).show({"directory": str(directory), "rotated": key.value}, text)


@app.command()
def retire(
    context: typer.Context,
    key: Annotated[Key, typer.Argument(help="which one; the server's has none")],
    directory: Directory = STATE / AUTHORITY,
    yes: Confirmed = False,
    dry_run: DryRun = False,
) -> None:
    """Forgets the keys that `rotate` replaced, once the server was started with the new one."""
    _check_directory(directory)
    console = _console(context)
    who = _locked_out(directory) if key is Key.ISSUING else []
    count = f"{len(who)} user{'s need' if len(who) != 1 else ' needs'} a new profile first: "
    warning = count + ", ".join(who) if who else ""
    if dry_run:
        would = f"would forget all {key.value} keys but the one"
        data: Json = {"would_retire": key.value, "locked_out": list(who)}
        console.show(data, f"{would}; {warning}" if who else would)
        return
    if not yes:
        _ask(f"{warning}. " * bool(who) + f"Forget all {key.value} keys but the one in use?")
    elif who:
        console.progress(f"locked out from the next start on: {', '.join(who)}")
    if key in _KEYS_IN:
        number = keep_first_key(directory / _KEYS_IN[key])
    elif key is Key.ISSUING:
        number = forget_previous(directory)
    else:
        number = 0
    text = (
        f"{number} keys are forgotten; start the server again" if number else "there is one alone"
    )
    console.show({"retired": key.value, "keys": number}, text)


def _locked_out(directory: Path) -> list[str]:
    """Users who have good certificates, and none of the issuing key that is in use."""
    if not previous_in(directory):
        return []
    since = certificate_at(directory / ISSUING).not_valid_before_utc.timestamp() + EARLY_S
    lists, now = CertificateLists(directory), time.time()
    revoked = lists.revoked()
    good = [u for u in lists.users() if u.fingerprint not in revoked and u.not_after > now]
    return sorted({u.name for u in good} - {u.name for u in good if u.at >= since})


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
        "not_after": _date(issued.not_after),
    }
    # A JSON string of these characters is a TOML string.
    lines = (f"{field} = {json.dumps(value)}\n" for field, value in profile.items())
    write_public(output / PROFILE, "".join(lines).encode())
    _console(context).show(
        {**profile, "profile": str(output), "fingerprint": issued.fingerprint.hex()},
        f"profile of {name} ({role} in {tenant}) until {_date(issued.not_after)}: {output}",
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
    _check_directory(directory)
    lists = CertificateLists(directory)
    known = {line.fingerprint: line.name for line in lists.users()}
    name = known.get(digest, "")
    whose = name or "a certificate that is not on the list of users"
    console = _console(context)
    if dry_run:
        console.show({"would_revoke": digest.hex(), "name": name}, f"would revoke {whose}")
        return
    if not yes:
        _ask(f"Revoke {whose} for good?")
    fresh = lists.revoke(digest, reason=reason, now=int(time.time()), name=name)
    text = f"revoked {whose}" if fresh else "it was revoked before"
    console.show({"revoked": digest.hex(), "name": name, "repeated": not fresh}, text)


@app.command("list")
def list_(context: typer.Context, directory: Directory = STATE / AUTHORITY) -> None:
    """Lists the authority's certificates, the users', and those that were revoked."""
    _check_directory(directory)
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
    _console(context).show_each(shown)


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
    until = _date(int(found.not_valid_after_utc.timestamp()))
    return {"kind": kind, "fingerprint": digest, "until": until}, f"{kind:<8} {until}  {digest}"


def _line(kind: str, listed: Listed) -> tuple[Json, str]:
    data = {
        "kind": kind,
        "fingerprint": listed.fingerprint.hex(),
        "name": listed.name,
        "role": listed.role,
        "at": _date(listed.at),
        "until": _date(listed.not_after) if listed.not_after else "",
        "reason": listed.reason,
    }
    about = f"{listed.name} {listed.role}{listed.reason}".strip()
    until = data["until"] or data["at"]
    return data, f"{kind:<8} {until}  {listed.fingerprint.hex()}  {about}"


def _console(context: typer.Context) -> Console:
    assert isinstance(context.obj, Console)
    return context.obj


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise ArgumentError(
            "fed ca: this cannot be undone, and nobody is there to be asked",
            why="standard input is no terminal",
            fix="pass --yes, or --dry-run to see what would happen",
        )
    if not typer.confirm(question, err=True):
        raise ArgumentError("fed ca: nothing was done", why="the answer was no")


def _check_directory(directory: Path) -> None:
    if not (directory / ROOT).is_file():
        raise AuthorityError(
            "there is no authority in this directory",
            why=f"it has no {ROOT}",
            fix="name the directory that `fed ca init` made with --directory",
            where=str(directory),
        )


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


def _date(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
