"""The verbs of `fed ca` that exchange its keys: `renew`, `rotate` and `retire`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.console import Json
from fedserver.authority import Authority
from fedserver.authority_files import (
    ISSUING,
    SERVER,
    certificate_at,
    forget_previous,
    previous_in,
)
from fedserver.certificate_lists import CertificateLists, Exchange
from fedserver.certificates import EARLY_S, key_digest
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
from fedserver.config import AUTHORITY, STATE
from fedserver.issuing_keys import rotate_issuing
from fedserver.key_files import (
    AUDIT_SIGNER,
    DATASTORE_KEYS,
    keep_first_key,
    prepend_key,
    secret_from,
)

__all__ = ["renew", "retire", "rotate"]


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
    _note(directory, "renew", Key.ISSUING)
    console_of(context).show(
        {"directory": str(directory), "issuing_certificate_until": date_of(until)},
        f"the issuing certificate is good until {date_of(until)}; start the server again",
    )


def rotate(
    context: typer.Context,
    key: Annotated[Key, typer.Argument(help="which one")],
    directory: Directory = STATE / AUTHORITY,
    root_passphrase: RootPassphrase = "",
    passphrase: Passphrase = "",
) -> None:
    """Puts a new key in the place of one; what the old one did still counts, until `retire`."""
    require_authority(directory)
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
        text = f"a new key issues until {date_of(until)}; start the server again"
    else:
        alone = len(prepend_key(directory / _KEYS_IN[key])) == 1
        text = "a new key is in use from the next start of the server on"
        text += f"; there was none before, so {_WITHOUT[key]}" if alone else ""
    _note(directory, "rotate", key)
    console_of(context).show({"directory": str(directory), "rotated": key.value}, text)


def retire(
    context: typer.Context,
    key: Annotated[Key, typer.Argument(help="which one; the server's has none")],
    directory: Directory = STATE / AUTHORITY,
    yes: Confirmed = False,
    dry_run: DryRun = False,
) -> None:
    """Forgets the keys that `rotate` replaced, once the server was started with the new one."""
    require_authority(directory)
    console = console_of(context)
    who = _locked_out(directory) if key is Key.ISSUING else []
    count = f"{len(who)} user{'s need' if len(who) != 1 else ' needs'} a new profile first: "
    warning = count + ", ".join(who) if who else ""
    if dry_run:
        would = f"would forget all {key.value} keys but the one"
        data: Json = {"would_retire": key.value, "locked_out": list(who)}
        console.show(data, f"{would}; {warning}" if who else would)
        return
    if not yes:
        ask(f"{warning}. " * bool(who) + f"Forget all {key.value} keys but the one in use?")
    elif who:
        console.progress(f"locked out from the next start on: {', '.join(who)}")
    if key in _KEYS_IN:
        number = keep_first_key(directory / _KEYS_IN[key])
    elif key is Key.ISSUING:
        number = forget_previous(directory)
    else:
        number = 0
    if number:
        _note(directory, "retire", key)
    text = (
        f"{number} keys are forgotten; start the server again" if number else "there is one alone"
    )
    console.show({"retired": key.value, "keys": number}, text)


def _locked_out(directory: Path) -> list[str]:
    """Users who have good certificates, and none of the issuing key that is in use."""
    if not previous_in(directory):
        return []
    issuing = certificate_at(directory / ISSUING)
    own = issuing.public_key()
    assert isinstance(own, ec.EllipticCurvePublicKey), "the authority makes no other keys"
    issuer, since = key_digest(own), issuing.not_valid_before_utc.timestamp() + EARLY_S
    lists, now = CertificateLists(directory), time.time()
    revoked = lists.revoked()
    good = [u for u in lists.users() if u.fingerprint not in revoked and u.not_after > now]
    # Of an older program's lines nobody knows who signed in the second of the exchange: rather
    # too many are named than one too few.
    kept = {u.name for u in good if (u.issuer == issuer if u.issuer else u.at > since)}
    return sorted({u.name for u in good} - kept)


def _note(directory: Path, act: str, key: Key) -> None:
    """For the audit log, into which the server takes it."""
    CertificateLists(directory).exchanged(Exchange(act, key.value, int(time.time())))
