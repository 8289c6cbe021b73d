"""A cluster of Ray: one of our own on this machine while it is needed, or one that is there.

All that is known of Ray stands here. What it would leave in this process, it does not: variables,
a handler of signals, words on standard output, files.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeAlias

from fedcore.errors import ArgumentError, InstallError, SimulationError
from fedsim.engine.scratch import Scratch

__all__ = ["Cluster", "LostError", "Reference", "find_ray"]

Reference: TypeAlias = Any
"""What Ray gives for a value that it holds, or that is to come."""

_OURS: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns of what it will do one day
}
_ANSWER_S: Final = 10.0


class LostError(Exception):
    """An actor has ended, or cannot be reached, or what it gave was lost with its machine."""


class Cluster:
    """A connection to Ray, which this process has one of. `close` it in the end.

    `address`: of a cluster that is there, as host:port on one of its machines, or as
    ray://host:port from outside; None: of one that this process is connected to already, else a
    new one of `workers` CPUs. Raises: InstallError without Ray; ArgumentError for an address
    beside another connection; SimulationError for too few CPUs, or if nobody answers.
    """

    def __init__(self, address: str | None, *, workers: int) -> None:
        self._ray = find_ray()
        self._scratch: Scratch | None = None
        self._is_ours = not self._ray.is_initialized()
        if not self._is_ours and address is not None:
            raise ArgumentError(
                f"the cluster at {address!r:.80}",
                why="this process is connected to Ray already",
                fix="leave the address out, or call ray.shutdown() before",
            )
        try:
            if address is not None:
                self._connect(address)
            elif self._is_ours:
                self._start(workers)
            with _failing("the cluster does not answer"):
                cpus = int(self._ray.cluster_resources().get("CPU", 0))
            if cpus < workers:
                raise SimulationError(
                    f"{workers} workers on a cluster of {cpus} CPUs",
                    why="each works on a CPU of its own",
                    fix=f"take {cpus} workers at most, or add machines to the cluster",
                )
        except BaseException:
            self.close()
            raise

    def actor(self, kind: type[Any]) -> Any:
        """An actor of a class, by its import path, on a CPU of its own; it may start later."""
        with _failing("a worker cannot be started"):
            return self._ray.remote(num_cpus=1)(kind).remote()

    def end(self, actor: Any) -> None:
        """Ends an actor at once, if it is there."""
        with suppress(Exception):
            self._ray.kill(actor)

    def put(self, value: object) -> Reference:
        """Gives the cluster a value, which goes once to each machine that asks for it."""
        with _failing("the cluster takes no data"):
            return self._ray.put(value)

    def first(
        self, references: Sequence[Reference], *, timeout_s: float | None
    ) -> Reference | None:
        """One whose value or loss is known; None after `timeout_s` without any."""
        with _failing("the cluster does not answer"):
            known, _ = self._ray.wait(references, num_returns=1, timeout=timeout_s)
        return known[0] if known else None

    def get(self, reference: Reference) -> Any:
        """Its value; arrays in it cannot be written to. Raises: LostError; SimulationError."""
        errors = import_module("ray.exceptions")
        with _failing("the cluster does not answer"):
            try:
                return self._ray.get(reference)
            except (errors.RayActorError, errors.ObjectLostError) as error:
                raise LostError(_words(error)) from error

    def close(self) -> None:
        """Ends what was started for us, or leaves the cluster; a connection of others stays."""
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown(wait_for_processes=True)
        if self._scratch is not None:
            self._scratch.remove()
        self._is_ours, self._scratch = False, None

    def _connect(self, address: str) -> None:
        with _failing(f"no cluster answers at {address!r:.80}"), _undisturbed({}):
            if address != "auto":
                host, _, port = address.removeprefix("ray://").rpartition(":")
                # Ray itself asks for three minutes, and writes meanwhile that it does.
                socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
            self._ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
        self._keep_quiet()

    def _start(self, cpus: int) -> None:
        # In no memory: logs and what Ray spills belong on a disk.
        self._scratch = Scratch.new(room=sys.maxsize)
        with _failing("no cluster starts on this machine"), _undisturbed({**_OURS, **_token()}):
            self._ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                _temp_dir=str(self._scratch.folder),
                _system_config={"enable_metrics_collection": False},
            )
        self._keep_quiet()

    def _keep_quiet(self) -> None:
        """Ends the thread that writes of lost workers to standard output, where results go.

        Ray has no option for it. They are told of by `get`.
        """
        with suppress(AttributeError):  # of a client, or of a later Ray
            worker = self._ray._private.worker.global_worker
            worker.threads_stopped.set()
            worker.gcs_error_subscriber.close()


def find_ray() -> Any:
    """The module of Ray. Raises: InstallError where it is not installed."""
    try:
        with _undisturbed({}):
            return import_module("ray")
    except ImportError as error:
        raise InstallError(
            "workers of the kind 'ray' need Ray",
            why=str(error),
            fix="install the extra 'ray', in a checkout: pip install -e '.[ray]'",
        ) from error


@contextmanager
def _undisturbed(variables: dict[str, str]) -> Iterator[None]:
    """The environment has these variables as well within, and after it is as it was before.

    So is what a signal to end does, where that can be told.
    """
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in {*before, *os.environ}:
            if name not in before:
                del os.environ[name]
            elif os.environ.get(name) != before[name]:
                os.environ[name] = before[name]
        with suppress(ValueError):  # in a thread that is not the first
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _token() -> dict[str, str]:
    """The secret by which a cluster of our own knows us: it would do whatever it is told.

    Where the user has one, that. Otherwise Ray would leave one in the home folder.
    """
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    has = any(name in os.environ for name in names) or (Path.home() / ".ray/auth_token").exists()
    return {} if has else {"RAY_AUTH_TOKEN": _secret()}


@functools.cache
def _secret() -> str:
    """One a process: Ray reads it once."""
    return secrets.token_hex(32)


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Errors of Ray's, of many classes, become one of ours."""
    errors = import_module("ray.exceptions")
    try:
        yield
    except (errors.RayError, OSError, RuntimeError, ValueError) as error:
        raise SimulationError(
            f"Ray: {what}",
            why=f"{type(error).__name__}: {_words(error)}",
            fix="look whether the cluster is well (ray status), and resume the run",
        ) from error


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
