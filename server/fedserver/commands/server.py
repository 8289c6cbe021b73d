"""`fed server`: start a server, ask how it is, drain it, and find out what is wrong with it."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, cast

import typer

from fedcore.console import Console, ExitCode
from fedcore.errors import ServerError, UnreachableError
from fedcore.failpoints import arm
from fedserver import logs
from fedserver.commands.dispatch import dispatch, verbs
from fedserver.config import Config, load
from fedserver.connections import open_more_files
from fedserver.durations import seconds_of
from fedserver.freed import collect_rarely, one_heap
from fedserver.grpc_settings import set_grpc
from fedserver.turns import wait_for_turns

__all__ = ["main"]

_ANSWER_S = 5.0
_PAUSE_S = 0.2

app = verbs("Start a server and look after it.")

Settings = Annotated[
    Path | None, typer.Option("--config", help="the settings, a TOML file; by default none")
]


def main(argv: Sequence[str]) -> int:
    """Runs `fed server` with these arguments and returns its exit code. Raises: FedcoreError."""
    return dispatch(app, argv, command="server")


@app.command()
def start(
    context: typer.Context,
    config: Settings = None,
    test_mode: Annotated[
        bool, typer.Option("--test-mode", help="take the failpoints of FEDCORE_FAILPOINTS")
    ] = False,
    accept_rollback: Annotated[
        bool, typer.Option("--accept-rollback", help="start on a database older than its last use")
    ] = False,
) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends it at once."""
    settings = load(config)
    logs.configure(level=settings.logging.level, form=settings.logging.form)
    arm(os.environ.get("FEDCORE_FAILPOINTS", ""), test_mode=test_mode or settings.test_mode)
    one_heap()
    collect_rarely()
    open_more_files()
    wait_for_turns()
    set_grpc()
    _check_protobuf()
    asyncio.run(_serve(settings, _console(context), accept_rollback=accept_rollback))


@app.command()
def status(
    context: typer.Context,
    config: Settings = None,
    wait: Annotated[
        str | None, typer.Option("--wait", help="until it takes work, for so long at most: 30s")
    ] = None,
    alive: Annotated[
        bool, typer.Option("--alive", help="ends with 0 also if it is alive and takes no work now")
    ] = False,
) -> int:
    """Asks the server on this machine whether it is alive and takes work."""
    patience_s = 0 if wait is None else seconds_of(wait, "length of time")
    found = _readiness(_ops_url(load(config)), patience_s=patience_s)
    reasons = [str(reason) for reason in cast("list[object]", found["reasons"])]
    text = "ready" if found["ready"] else f"not ready: {'; '.join(reasons)}"
    _console(context).show(
        {"ready": bool(found["ready"]), "reasons": reasons, "version": str(found["version"])}, text
    )
    return ExitCode.OK if found["ready"] or alive else ExitCode.FAILED


@app.command()
def drain(
    context: typer.Context,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile",
            help="a folder of `fed ca issue`; by default FEDCORE_PROFILE, else ~/.config/fed",
        ),
    ] = None,
) -> None:
    """Lets a server take no new work; what was begun goes on."""
    from fedcore.v1 import admin_service_pb2
    from fedserver.admin.user import profile_folder
    from fedserver.profiles import Profile, new_request_id

    user = Profile.open(profile or profile_folder())
    with user.channel() as channel:
        payload = admin_service_pb2.Drain(request_id=new_request_id())
        envelope = user.signed(channel, "Drain", payload)
        user.ask(channel, "Drain", admin_service_pb2.DrainRequest(drain=envelope))
    _console(context).show({"draining": True, "address": user.address}, f"{user.address} drains")


@app.command()
def doctor(context: typer.Context, config: Settings = None) -> int:
    """Looks for what could keep a server from running well, and changes nothing."""
    from fedserver.doctor import examine

    found = list(examine(load(config)))
    _console(context).show_each(
        (
            {"check": one.check, "level": one.level, "detail": one.detail, "fix": one.fix},
            f"{one.level:<8} {one.check}: {one.detail}" + (f"\n  Fix: {one.fix}" * bool(one.fix)),
        )
        for one in found
    )
    return ExitCode.FAILED if any(one.level == "error" for one in found) else ExitCode.OK


def _check_protobuf() -> None:
    """The parser in pure Python is slow, and has been brought down by deep messages before."""
    from google.protobuf.internal import api_implementation

    if (found := api_implementation.Type()) != "upb":
        raise ServerError(
            "the server does not start with this parser of protobuf",
            why=f"it is {found!r}, and only upb is safe with what strangers send",
            fix="unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install protobuf as a wheel",
        )


async def _serve(settings: Config, console: Console, *, accept_rollback: bool) -> None:
    from fedserver.app import Server
    from fedserver.opening import opened
    from fedserver.standby import its_turn

    async with (
        its_turn(settings, exit_now=os._exit),
        opened(settings, accept_rollback=accept_rollback) as parts,
    ):
        server = Server(settings, parts)
        with server.heeding_signals():
            found = await server.start()
            identity = await parts.store.server_identity()
            console.show(
                {
                    "service": found.service,
                    "enrolment": found.enrolment,
                    "ops": found.ops,
                    "server_id": identity.server_id.hex(),
                    "pid": os.getpid(),
                },
                f"serving on {found.service}, enrolment on {found.enrolment}, ops on {found.ops}",
            )
            await server.serve_until_stopped()


def _readiness(url: str, *, patience_s: float) -> dict[str, object]:
    """What the server says of itself, as soon as it is ready, or once patience is at its end.

    Raises: UnreachableError if it does not answer then.
    """
    end_s = time.monotonic() + patience_s
    while True:
        last = time.monotonic() >= end_s
        try:
            found = _asked(f"{url}/readyz")
            if last or found["ready"]:
                return found
        except (OSError, HTTPException, ValueError) as error:
            if last:
                waited = f", nor has one for {patience_s:g} s" if patience_s else ""
                raise UnreachableError(
                    f"no server answers on this machine{waited}",
                    why=f"{url}: {getattr(error, 'reason', error)}",
                    fix="start it with `fed server start`, or name its settings with --config",
                ) from None
        time.sleep(_PAUSE_S)


def _asked(url: str) -> dict[str, object]:
    request = urllib.request.Request(url)  # noqa: S310, an http address of this machine
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310
            body = answer.read()
    except urllib.error.HTTPError as error:  # 503: it is alive, and not ready
        body = error.read()
    found = json.loads(body)
    if not isinstance(found, dict) or not {"ready", "reasons", "version"} <= found.keys():
        raise ValueError("what answers is no server of ours")
    return found


def _ops_url(settings: Config) -> str:
    host = settings.server.ops_host
    return (
        f"http://[{host}]:{settings.server.ops_port}"
        if ":" in host
        else (f"http://{host}:{settings.server.ops_port}")
    )


def _console(context: typer.Context) -> Console:
    assert isinstance(context.obj, Console)
    return context.obj
