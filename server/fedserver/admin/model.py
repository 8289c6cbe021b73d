"""`fed model`: a task's models, each named by the SHA-256 of its file."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fedcore.console import Console, Json
from fedcore.errors import NotFoundError
from fedcore.v1 import admin_service_pb2
from fedserver.admin import showing
from fedserver.admin.comparing import compare, read_arrays
from fedserver.admin.connection import Connection
from fedserver.admin.download import download
from fedserver.admin.running import ProfileFolder, TaskId, console_of, server_of
from fedserver.commands.dispatch import dispatch, verbs

__all__ = ["main"]

app = verbs("The models of a task, each named by the SHA-256 of its file.")


def main(argv: Sequence[str]) -> int:
    """Runs `fed model` with these arguments and returns its exit code."""
    return dispatch(app, argv, command="model")


@app.command("list")
def list_(
    context: typer.Context,
    task: TaskId,
    profile: ProfileFolder = None,
) -> None:
    """Lists a task's models, and from which each was made."""
    with server_of(profile) as server:
        found = server.ask(
            server.admin.ListModels, admin_service_pb2.ListModelsRequest(task_id=task)
        )
    console_of(context).show_each(_entry(model) for model in found.models)


@app.command()
def export(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="its digest, or a task for the newest model of its rounds"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="the safetensors file to write")],
    profile: ProfileFolder = None,
) -> None:
    """Downloads a model, checks it against its digest, and writes its file.

    What was interrupted goes on where it was.
    """
    console = console_of(context)
    with server_of(profile) as server:
        digest = _named(server, model)
        size = download(
            server,
            digest,
            out,
            moved=lambda done, size: console.detail(
                f"{showing.size(done)} of {showing.size(size)}"
            ),
        )
    console.show(
        {"model": digest.hex(), "file": str(out), "bytes": size},
        f"{out}: {showing.size(size)}, SHA-256 {digest.hex()}",
    )


@app.command()
def diff(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="a file, or a digest")],
    second: Annotated[str, typer.Argument(metavar="B", help="a file, or a digest")],
    profile: ProfileFolder = None,
) -> None:
    """Compares two models array by array: max |A - B|, its L2 norm, and the cosine of both."""
    with tempfile.TemporaryDirectory(prefix="fed-model-") as folder:
        paths = _files((first, second), Path(folder), profile, console_of(context))
        arrays = [read_arrays(path) for path in paths]
        found = list(compare(*arrays))
    width = max(len(one.name) for one in found)
    console_of(context).show_each(
        (
            {
                "array": one.name,
                "shape": list(one.shape),
                "largest": one.largest,
                "norm": one.norm,
                "cosine": one.cosine,
            },
            f"{showing.plain(one.name):<{width}}  max {one.largest:.3e}  L2 {one.norm:.3e}  "
            f"cos {'-' if one.cosine is None else f'{one.cosine:.6f}'}",
        )
        for one in found
    )


def _entry(model: admin_service_pb2.ModelEntry) -> tuple[Json, str]:
    data: Json = {
        "model": model.digest.hex(),
        "parent": model.parent.hex() or None,
        "round": model.round,
        "bytes": model.size,
        "created_ms": model.created_ms,
        "newest": model.head,
    }
    newest = "  newest" if model.head else ""
    when, how_large = showing.time(model.created_ms), showing.size(model.size)
    return data, f"{model.digest.hex()}  round {model.round:<4}  {how_large}  {when}{newest}"


def _named(server: Connection, text: str) -> bytes:
    """The digest, or that of the newest model of the task of this name."""
    if re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII):
        return showing.digest_of(text)
    request = admin_service_pb2.ListModelsRequest(task_id=showing.task_of(text))
    for model in server.ask(server.admin.ListModels, request).models:
        if model.head:
            return _trained(text, model)
    raise NotFoundError(
        f"{showing.plain(text)} has no model",
        why="none was published yet",
        fix="`fed model list` shows those that there are",
    )


def _trained(task_id: str, model: admin_service_pb2.ModelEntry) -> bytes:
    """The digest of a model that a round made. Raises: NotFoundError for the one to begin with."""
    if not model.parent:
        raise NotFoundError(
            f"no round of {task_id} has made a model yet",
            why="its newest is the one to begin with, which no client has trained",
            fix=f"`fed task watch {task_id}` follows its rounds; the first model is exported by"
            f" its digest, {model.digest.hex()}",
        )
    return model.digest


def _files(
    names: Sequence[str], folder: Path, profile: Path | None, console: Console
) -> Iterator[Path]:
    """The files of models: those on this machine as they are, others downloaded into `folder`."""
    server: Connection | None = None
    with ExitStack() as stack:
        for name in names:
            if Path(name).is_file():
                yield Path(name)
                continue
            digest = showing.digest_of(name)
            if server is None:
                server = stack.enter_context(server_of(profile))
            console.detail(f"downloading {name}")
            path = folder / f"{name}.safetensors"
            download(server, digest, path)
            yield path
