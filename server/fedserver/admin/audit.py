"""`fed audit`: who did what on a server, and whether the log is whole."""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedcore.console import Json
from fedcore.errors import ArgumentError, FedcoreError
from fedserver.admin import showing
from fedserver.admin.audit_entries import Log, entry_of, lines_of
from fedserver.admin.running import ProfileFolder, console_of, server_of
from fedserver.commands.dispatch import dispatch, verbs
from fedserver.key_files import load_keys
from fedserver.store.audit import check_head, read_head, verify
from fedserver.store.records import AuditHead, AuditRecord

__all__ = ["main"]

app = verbs("Who did what on a server, and whether the log of it is whole.")


def main(argv: Sequence[str]) -> int:
    """Runs `fed audit` with these arguments and returns its exit code."""
    return dispatch(app, argv, command="audit")


@app.command()
def tail(
    context: typer.Context,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="how many entries")] = 20,
    profile: ProfileFolder = None,
) -> None:
    """Shows the newest entries."""
    with server_of(profile) as server:
        newest = deque(Log(server), maxlen=number)
    console_of(context).show_each(_shown(entry_of(line)) for line in newest)


@app.command()
def export(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", help="a new file; by default standard output")
    ] = None,
    profile: ProfileFolder = None,
) -> None:
    """Writes the whole log as lines of JSON, which `verify --file` checks without a server."""
    console = console_of(context)
    with server_of(profile) as server:
        log = Log(server)
        if out is None:
            console.show_each((_data(entry_of(line)), line.decode()) for line in log)
            return
        head = _written(log, out)
    console.show(
        {"file": str(out), "entries": head.sequence, "hash": head.hash.hex()},
        f"{out}: {head.sequence} entries, the last with hash {head.hash.hex()}",
    )


@app.command("verify")
def verify_(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", help="an export, instead of a server's log")
    ] = None,
    signer: Annotated[
        str, typer.Option("--signer", help="the key of `fed audit signer`: checks the signed head")
    ] = "",
    profile: ProfileFolder = None,
) -> None:
    """Checks that no entry was changed, taken out or put in, and none cut off behind a head."""
    console = console_of(context)
    if file is not None:
        if signer:
            raise ArgumentError(
                "--file and --signer do not go together",
                why="an export holds no signed head",
                fix="verify the server's own log with --signer",
            )
        head = verify(entry_of(line) for line in lines_of(file))
        console.show(_verdict(head, "none"), _verdict_words(head, "an export has no signed head"))
        return
    key = _key_of(signer) if signer else None
    with server_of(profile) as server:
        log = Log(server)
        records = _Remembering(log, key, server.server_id)
        head = verify(records)
    if key is None:
        state, words = "unchecked", "its signed head was not checked: name the key with --signer"
    elif records.signed is None:
        state, words = "none", "no head was signed yet"
    else:
        check_head(records.signed, head, records.at_signed)
        state, words = "signed", f"a head at entry {records.signed.sequence} is signed, and holds"
    console.show(_verdict(head, state), _verdict_words(head, words))


@app.command()
def signer(
    context: typer.Context,
    key: Annotated[Path, typer.Argument(metavar="FILE", help="audit-signer.key of `fed ca init`")],
) -> None:
    """Shows the public key of the server's signer, on the operator's machine."""
    # The first of a list is the one in use.
    found = Ed25519PrivateKey.from_private_bytes(load_keys(key)[0]).public_key().public_bytes_raw()
    console_of(context).show({"signer": found.hex()}, found.hex())


class _Remembering:
    """The entries of a log, of which the one is kept that the signed head names."""

    def __init__(self, log: Log, key: Ed25519PublicKey | None, server_id: bytes) -> None:
        self._log, self._key, self._server_id = log, key, server_id
        self.signed: AuditHead | None = None
        self.at_signed: AuditRecord | None = None

    def __iter__(self) -> Iterator[AuditRecord]:
        for line in self._log:
            self._read_head()
            record = entry_of(line)
            if self.signed is not None and record.sequence == self.signed.sequence:
                self.at_signed = record
            yield record
        self._read_head()  # of a log without entries, too

    def _read_head(self) -> None:
        if self.signed is None and self._key is not None and self._log.head:
            self.signed = read_head(self._log.head, self._server_id, self._key)


def _written(lines: Iterable[bytes], out: Path) -> AuditHead:
    """The head of the lines, which are in the new file once all of them hold together.

    Raises: ArgumentError; what verification does. Then there is no file.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if out.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with part.open("xb") as file:
            head = verify(_told(lines, file))
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except FedcoreError:  # some of which are an OSError, too
        raise
    except OSError as error:
        raise ArgumentError(
            f"{out.name} cannot be written",
            why=(error.strerror or str(error)).lower(),
            fix="name a file that is not there yet, in a folder with room",
            where=str(out),
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return head


def _told(lines: Iterable[bytes], file: IO[bytes]) -> Iterator[AuditRecord]:
    for line in lines:
        file.write(line + b"\n")
        yield entry_of(line)


def _key_of(text: str) -> Ed25519PublicKey:
    if re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII) is None:
        raise ArgumentError(
            "--signer is no key",
            why="a key has 64 hexadecimal digits in lower case",
            fix="copy what `fed audit signer` shows on the operator's machine",
        )
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def _verdict(head: AuditHead, signed: str) -> dict[str, Json]:
    return {"entries": head.sequence, "hash": head.hash.hex(), "whole": True, "head": signed}


def _verdict_words(head: AuditHead, words: str) -> str:
    return f"{head.sequence} entries in one chain, the last {head.hash.hex()}; {words}"


def _data(record: AuditRecord) -> dict[str, Json]:
    return {
        "sequence": record.sequence,
        "at_ms": record.at_ms,
        "actor": record.entry.actor,
        "action": record.entry.action,
        "object": record.entry.object,
        "decision": record.entry.decision,
        "request_id": record.entry.request_id.hex(),
        "prev_hash": record.prev_hash.hex(),
        "hash": record.hash.hex(),
    }


def _shown(record: AuditRecord) -> tuple[Json, str]:
    entry = record.entry
    text = f"{record.sequence:>6}  {showing.time(record.at_ms)}  {entry.actor}  {entry.action}"
    return _data(record), showing.plain(f"{text}  {entry.object}  {entry.decision}".rstrip())
