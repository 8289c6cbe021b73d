"""The authority, its certificates, the keys, and who else might read them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from fedserver.authority import Authority
from fedserver.authority_files import ISSUING, ROOT, SERVER
from fedserver.certificate_lists import CertificateLists
from fedserver.config import Config
from fedserver.doctor.finding import SKEW_S, Finding, judged, looked, tried
from fedserver.key_files import (
    AUDIT_SIGNER,
    DATASTORE_KEYS,
    PARTICIPATION_KEY,
    check_directory,
    load_key,
    load_keys,
    secret_from,
)

__all__ = ["secrets"]

_DAY_S = 86_400


def secrets(config: Config, now_s: float) -> Iterator[Finding]:
    """The findings about them."""
    yield tried("state", lambda: _state(config))
    yield looked("keys", lambda: _readers(config))
    yield tried("authority", lambda: _authority(config))
    yield tried("server keys", lambda: _keys(config))
    yield tried("lists", lambda: _lists(config))
    for name, file in (("root", ROOT), ("issuing", ISSUING), ("server", SERVER)):
        yield _certificate(config.authority_directory / file, name, now_s)


def _state(config: Config) -> str:
    folder = check_directory(config.server.state_directory)
    return f"{folder} {'is there' if folder.exists() else 'is made at the first start'}"


def _readers(config: Config) -> Finding:
    """Files that only their owner may read: everything but certificates and lists."""
    folders = [config.authority_directory, config.server.state_directory]
    open_to_others = [
        path
        for folder in folders
        if folder.is_dir()
        for path in [folder, *folder.glob("*key*")]
        if _others_may_read(path)
    ]
    if not config.authority_directory.is_dir():
        return Finding(
            "keys",
            "error",
            f"there is no {config.authority_directory}",
            "make an authority with `fed ca init`, and name it in authority.directory",
        )
    names = ", ".join(str(path) for path in open_to_others)
    return judged(
        "keys",
        not names,
        names or "only their owner may read them",
        f"chmod go= {' '.join(map(str, open_to_others))}",
    )


def _others_may_read(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except FileNotFoundError:  # it went meanwhile, or is an editor's lock, a link to nowhere
        return False


def _authority(config: Config) -> str:
    """Whether the keys open, with the passphrase of the settings, and belong together."""
    source = config.authority.passphrase_file
    passphrase = secret_from(source) if source else None
    found = Authority.open(config.authority_directory, passphrase=passphrase)
    return f"{found.trust_domain}, {found.root_digest.hex()}"


def _keys(config: Config) -> str:
    folder = config.authority_directory
    load_keys(folder / DATASTORE_KEYS)
    load_keys(folder / AUDIT_SIGNER)
    load_key(folder / PARTICIPATION_KEY)
    return "those of the datastore, the audit log and the ledgers are there"


def _lists(config: Config) -> str:
    lists = CertificateLists(config.authority_directory)
    lists.exchanges()
    return f"{len(lists.users())} certificates of users, {len(lists.revocations())} revoked"


def _certificate(path: Path, name: str, now_s: float) -> Finding:
    check = f"{name} certificate"
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        if name == "server":
            return Finding(check, "ok", f"{path.name} is made at the start")
        return Finding(check, "error", f"{path.name} cannot be read", "restore it from its backup")
    if found.not_valid_before_utc.timestamp() > now_s + SKEW_S:
        return Finding(check, "error", "it begins in the future", "set the machine's clock")
    days = (found.not_valid_after_utc.timestamp() - now_s) / _DAY_S
    # The server renews its own certificate by itself, the others need a person and time.
    fits = days > (0 if name == "server" else 30)
    renewal = {"server": "start the server", "issuing": "fed ca renew"}.get(
        name, "make a new authority in good time, and let clients join it"
    )
    return judged(check, fits, f"{days:.0f} days are left", renewal, level="warning")
