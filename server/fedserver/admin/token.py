"""`fed token`: let devices in, see who came, and send one away."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer

from fedcore.console import Json
from fedcore.errors import ArgumentError
from fedcore.v1 import admin_service_pb2
from fedserver.admin import showing
from fedserver.admin.connection import Connection
from fedserver.admin.running import (
    Confirmed,
    DryRun,
    ProfileFolder,
    confirm,
    console_of,
    server_of,
)
from fedserver.commands.dispatch import dispatch, verbs
from fedserver.durations import seconds_of

__all__ = ["main"]

_PAGE: Final = 1000

app = verbs("Let devices in, see who came, and send one away.")


def main(argv: Sequence[str]) -> int:
    """Runs `fed token` with these arguments and returns its exit code."""
    return dispatch(app, argv, command="token")


@app.command()
def create(
    context: typer.Context,
    uses: Annotated[int, typer.Option(min=1, help="how many devices it lets in")] = 1,
    lifetime: Annotated[str, typer.Option(help="like 90s, 30m, 24h or 7d")] = "24h",
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", metavar="NAME=VALUE", help="of the devices; repeat"),
    ] = None,
    profile: ProfileFolder = None,
) -> None:
    """Makes a join string, for `fed client join`. It is shown once."""
    life_s = seconds_of(lifetime, "lifetime")
    attributes = dict(_pair(text) for text in attribute or [])
    with server_of(profile) as server:
        payload = admin_service_pb2.TokenGrant(
            request_id=secrets.token_bytes(16),
            uses=uses,
            lifetime_s=life_s,
            attributes=attributes,
        )
        request = admin_service_pb2.CreateTokenRequest(grant=server.signed("CreateToken", payload))
        found = server.order(server.admin.CreateToken, request)
    console = console_of(context)
    until = showing.time(found.expires_ms)
    console.progress(
        f"whoever has this string can join until {until}, {uses} in all; it is shown this once"
    )
    console.show(
        {"join_string": found.join_string, "expires_ms": found.expires_ms, "uses": uses},
        found.join_string,
    )


@app.command()
def clients(context: typer.Context, profile: ProfileFolder = None) -> None:
    """Lists the devices that joined, and when each was last seen."""
    with server_of(profile) as server:
        console_of(context).show_each(_entry(client) for client in _clients(server))


@app.command()
def revoke(
    context: typer.Context,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="its id: `fed token clients`")],
    reason: Annotated[str, typer.Option(help="for the log")],
    yes: Confirmed = False,
    dry_run: DryRun = False,
    profile: ProfileFolder = None,
) -> None:
    """Sends a device away for good; it could only join again as a new one."""
    console, client_id = console_of(context), showing.identifier_of(client)
    if dry_run:
        console.show({"would_revoke": client}, f"{client} would be let in no more")
        return
    with server_of(profile) as server:
        confirm(f"{client} is let in no more, for good. Revoke it?", yes=yes)
        payload = admin_service_pb2.Revocation(
            request_id=secrets.token_bytes(16), client_id=client_id, reason=reason
        )
        request = admin_service_pb2.RevokeClientRequest(
            revocation=server.signed("RevokeClient", payload)
        )
        server.order(server.admin.RevokeClient, request)
    console.show({"revoked": client}, f"revoked {client}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ArgumentError(
            f"--attribute {showing.plain(text)!r}",
            why="an attribute has a name and a value",
            fix="write it like site=berlin",
        )
    return name, value


def _clients(server: Connection) -> Iterator[admin_service_pb2.ClientEntry]:
    after = b""
    while True:
        request = admin_service_pb2.ListClientsRequest(after=after, limit=_PAGE)
        found = server.ask(server.admin.ListClients, request).clients
        yield from found
        if not found:
            return
        after = found[-1].client_id


def _entry(client: admin_service_pb2.ClientEntry) -> tuple[Json, str]:
    data: Json = {
        "client_id": client.client_id.hex(),
        "state": client.state,
        "sdk_version": client.sdk_version,
        "attributes": dict(sorted(client.attributes.items())),
        "last_seen_ms": client.last_seen_ms,
        "certificate_expires_ms": client.certificate_expires_ms,
    }
    said = " ".join(f"{name}={client.attributes[name]}" for name in sorted(client.attributes))
    return data, (
        f"{client.client_id.hex()}  {client.state:<8}  seen {showing.time(client.last_seen_ms)}  "
        f"{showing.plain(said)}".rstrip()
    )
