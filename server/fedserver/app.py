"""The server put together: the parts, the two ports before them, and the order to stop.

`Server` takes its parts ready made, because whoever opens them knows how to close them, and tests
have others. What it adds is the network: gates, services, ports, health, and the tasks that keep
them fresh. Nothing acknowledged depends on a clean end; a clean end only saves others the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from fedcore.errors import AuthorityError, FedcoreError, StoreError
from fedcore.wire.channels import ENROLMENT_RECEIVES_BYTES, SERVER_RECEIVES_BYTES
from fedcore.wire.versions import installed_version
from fedserver.admission import Admission, LoopLag
from fedserver.authentication import Authenticator
from fedserver.authorisation import Caller
from fedserver.authority import ServerCertificate, due
from fedserver.calls import Context, peer_address
from fedserver.config import Config
from fedserver.connections import Connections
from fedserver.disk import FreeShare
from fedserver.enrolment import Enrolment
from fedserver.enrolment_limits import EnrolmentLimits
from fedserver.freed import Collection
from fedserver.health import Health
from fedserver.health_rpcs import health_methods
from fedserver.memory_limit import MemoryLimit
from fedserver.notify import notify
from fedserver.ops import Ops, application
from fedserver.parts import Parts
from fedserver.passing import Note, Passing
from fedserver.ports import Credentials, Port
from fedserver.services.admin import AdminService, Invitation
from fedserver.services.assignment import RoundService, SecAggService
from fedserver.services.client import ClientService
from fedserver.services.enrolment import EnrolmentService
from fedserver.services.overview import About
from fedserver.services.transfer import ModelService, ModelUploadService, UploadService
from fedserver.serving import SERVICES, Gate, Service, methods_of

__all__ = ["Addresses", "Server", "now_ms"]

_ENROLMENT = "EnrolmentService"
_CALLS_TO_ENROL = 2  # the authority, and the enrolment itself
_RENEW_EVERY_S = 3600.0
_SIGN_EVERY_S = 10.0  # if there is anything new
_TAKE_UP_EVERY_S = 5.0
_HEARTBEAT_EVERY_S = 10.0
_PRUNE_EVERY_S = 3600.0
_WORK_EVERY_S = 1.0
_COLLECT_EVERY_S = 10.0
_REPEATS_MS = 7 * 24 * 3600 * 1000  # for so long a repeated request gets its first answer


def now_ms() -> int:
    """Unix milliseconds of this machine's clock."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a started server answers: host:port, and of the ops port its number."""

    service: str
    enrolment: str
    ops: int


class Server:
    """One server process, in the event loop that calls `start`.

    `lag`: of that loop. `exit_now`: ends the process at a second signal.
    """

    def __init__(
        self, config: Config, parts: Parts, *, exit_now: Callable[[int], object] = os._exit
    ) -> None:
        self._config, self._parts, self.exit_now = config, parts, exit_now
        self._draining = self._database_fails = False
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._ports: list[Port] = []
        self._ops: Ops | None = None
        self._passing: Passing | None = None
        self._worked_s = time.thread_time()
        self.lag = LoopLag(threshold_s=config.limits.loop_lag_s)
        self._admission = _admission(
            config,
            self.lag,
            burst=config.limits.calls_at_once,
            waiting=config.limits.waiting_rpcs,
        )
        # Room of their own, so that strangers cannot take that of those who are known; and a ward
        # full of devices behind one address enrols at once.
        calls = _CALLS_TO_ENROL * config.limits.enrolments_per_minute
        self._for_strangers = _admission(
            config, self.lag, burst=calls, waiting=0, reading_each=calls
        )
        self._authenticator = Authenticator(parts.store, parts.authority, now_ms=now_ms)
        self._health = Health(
            [SERVICES[name].full_name for name in SERVICES if name != _ENROLMENT],
            checks=(
                self._refuses_work,
                self._lacks_room,
                self._is_late,
                self._cannot_write,
                self._knows_not_who_is_revoked,
                MemoryLimit(config.limits.memory_bytes),
            ),
            metrics=parts.metrics,
        )
        self._log = structlog.get_logger("fedserver")

    async def start(self) -> Addresses:
        """Opens the ports and answers. Raises: ServerError for a port in use; AuthorityError."""
        try:
            return await self._start()
        except BaseException:
            await self._close()
            raise

    async def _start(self) -> Addresses:
        settings, parts = self._config.server, self._parts
        identity = await parts.store.server_identity()
        certificate = await asyncio.to_thread(self._server_certificate)
        self._credentials = (
            Credentials(certificate, root_pem=parts.authority.root_pem),
            Credentials(certificate, root_pem=None),
        )
        if settings.peer_address:
            self._passing = Passing(
                await asyncio.to_thread(self._peer_certificate),
                root_pem=parts.authority.root_pem,
                host=settings.hosts[0],
            )
        most = Connections.within(self._config.limits.connections)
        for port, credentials, admission, connections, receives_bytes in zip(
            (settings.port, settings.enrolment_port),
            self._credentials,
            (self._admission, self._for_strangers),
            (most.members, most.strangers),
            (SERVER_RECEIVES_BYTES, ENROLMENT_RECEIVES_BYTES),
            strict=True,
        ):
            made = Port(
                settings.host,
                port,
                credentials,
                rpcs=admission.rpcs,
                connections=connections,
                receives_bytes=receives_bytes,
            )
            self._ports.append(made)
        service, enrolment = self._ports
        self._ops = Ops(
            application(parts.metrics, reasons=self.reasons, version=installed_version()),
            host=settings.ops_host,
            port=settings.ops_port,
        )
        found = Addresses(
            settings.address or _address(settings.hosts[0], service.number),
            settings.enrolment_address or _address(settings.hosts[0], enrolment.number),
            await self._ops.start(),
        )
        self._serve(identity.server_id, found)
        await self._authenticator.refresh()
        self._watch()
        await asyncio.gather(service.start(), enrolment.start())
        await self._health.started()
        notify("READY=1")
        self._log.info("serving", address=found.service, enrolment=found.enrolment, ops=found.ops)
        return found

    @contextlib.contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT order the server to stop; a second one ends the process at once."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.order_stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def serve_until_stopped(self) -> None:
        """Waits for the order to stop, and carries it out."""
        await self._stop.wait()
        await self.stop()

    def reasons(self) -> list[str]:
        """Why no new work is taken; empty: it is."""
        return self._health.reasons()

    def order_stop(self) -> None:
        """Ends `serve_until_stopped`; the second time the process, without another word."""
        if self._stop.is_set():
            self.exit_now(1)
        self._stop.set()

    async def drain(self) -> None:
        """Takes no new work from now on; what was begun goes on."""
        if not self._draining:
            self._draining = True
            self._log.info("draining")
            await self._parts.federation.drain()
            await self._health.tell()

    async def stop(self) -> None:
        """Stops in order: told to all, no new work, what was begun, leases, database."""
        settings = self._config.server
        self._log.info("stopping", drain_s=settings.drain_s)
        notify("STOPPING=1")
        await self._health.stopping()
        await self.drain()
        await asyncio.sleep(settings.notice_s)
        await asyncio.gather(*(port.stop(grace_s=settings.drain_s) for port in self._ports))
        await self._parts.federation.stop()
        await self._close()
        with contextlib.suppress(StoreError):  # what was acknowledged is durable without it
            await self._parts.store.checkpoint()
        self._log.info("stopped")

    async def _close(self) -> None:
        await asyncio.gather(*(port.stop(grace_s=0) for port in self._ports))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ops is not None:
            await self._ops.stop()
        if self._passing is not None:
            await self._passing.close()

    def _serve(self, server_id: bytes, found: Addresses) -> None:
        parts, version = self._parts, installed_version()
        enrolment = Enrolment(
            parts.store,
            parts.authority,
            registrar=parts.authority.registrar,
            address=found.service,
            server_id=server_id,
            version=version,
            limits=EnrolmentLimits(
                now_ms,
                per_minute=self._config.limits.enrolments_per_minute,
                failures=self._config.limits.failed_enrolments,
            ),
        )
        admin = AdminService(
            parts.store,
            parts.federation,
            self._authenticator,
            about=About(server_id, version, now_ms(), parts.database),
            invitation=Invitation(found.enrolment, parts.authority.root_digest),
            now_ms=now_ms,
            draining=lambda: self._draining,
            drain=self.drain,
            audit=parts.audit,
        )
        federation = parts.federation
        services: dict[str, Service] = {
            "AdminService": admin,
            "ClientService": ClientService(federation, enrolment, version=version, now_ms=now_ms),
            "RoundService": RoundService(federation, now_ms=now_ms),
            "SecAggService": SecAggService(federation),
            "UploadService": UploadService(federation),
            "ModelUploadService": ModelUploadService(federation),
            "ModelService": ModelService(federation),
        }
        service_port, enrolment_port = self._ports
        gate = self._gate(self._admission, self._identify, passing=self._passing)
        service_port.serve(
            {
                HEALTH: health_methods(self._health.servicer, admission=self._admission),
                **{
                    SERVICES[name].full_name: methods_of(service, name, gate=gate)
                    for name, service in services.items()
                },
            },
            reflected=[*services] if self._config.server.reflection else [],
        )
        anonymous = self._gate(self._for_strangers, _anonymous)
        enrolling = methods_of(EnrolmentService(enrolment), _ENROLMENT, gate=anonymous)
        enrolment_port.serve({SERVICES[_ENROLMENT].full_name: enrolling})

    def _gate(
        self,
        admission: Admission,
        identify: Callable[[Context], Awaitable[Caller]],
        *,
        passing: Passing | None = None,
    ) -> Gate:
        return Gate.of(
            admission=admission,
            identify=identify,
            audit=self._parts.store.append_audit,
            metrics=self._parts.metrics,
            passing=passing,
        )

    async def _identify(self, context: Context) -> Caller:
        certificates = context.auth_context().get("x509_pem_cert", ())
        return await self._authenticator.caller(
            next(iter(certificates), None),
            address=peer_address(context),
            note=Note.of(context.invocation_metadata() or ()),
        )

    def _watch(self) -> None:
        """Begins what is done again and again while the server runs."""
        metrics, loop = self._parts.metrics, asyncio.get_running_loop()
        metrics.watch_lag(lambda: self.lag.lag_s)
        metrics.watch_queue(lambda: self._admission.queued + self._for_strangers.queued)
        metrics.watch_coroutines(lambda: len(asyncio.all_tasks(loop)))
        for work in (
            self.lag.watch(now_s=time.monotonic),
            self._authenticator.watch(),
            self._health.watch(),
            self._again(self.renew, every_s=_RENEW_EVERY_S),
            self._again(self._parts.acts.refresh, every_s=_TAKE_UP_EVERY_S),
            self._again(self._parts.audit.refresh, every_s=_SIGN_EVERY_S),
            self._again(self.show_life, every_s=_HEARTBEAT_EVERY_S),
            self._again(self.show_work, every_s=_WORK_EVERY_S),
            self._again(self.prune, every_s=_PRUNE_EVERY_S),
            self._again(Collection(), every_s=_COLLECT_EVERY_S),
        ):
            self._tasks.append(asyncio.create_task(work))

    async def _again(
        self, work: Callable[[], Coroutine[Any, Any, None]], *, every_s: float
    ) -> None:
        while True:
            try:
                await work()
            except FedcoreError as error:
                self._log.error("housekeeping failed", code=error.code, what=error.what)
            except Exception as error:  # a disk's, or a mistake: the next time it may do
                self._log.error("housekeeping failed", what=repr(error), exc_info=error)
            await asyncio.sleep(every_s)

    async def renew(self) -> None:
        """Exchanges the server's certificate if it is due, for the handshakes to come."""
        certificate = await asyncio.to_thread(self._server_certificate)
        for credentials in self._credentials:
            credentials.swap(certificate)
        if self._passing is not None and due(*self._passing.validity, now=now_ms() // 1000):
            await self._passing.renew(await asyncio.to_thread(self._peer_certificate))

    async def show_work(self) -> None:
        """Counts what the event loop has worked since the last time."""
        worked_s = time.thread_time()
        self._parts.metrics.loop_seconds.inc(worked_s - self._worked_s)
        self._worked_s = worked_s

    async def show_life(self) -> None:
        """Says in the database that this process runs, which shows as well that it takes writes."""
        metrics = self._parts.metrics
        start_s = time.perf_counter()
        try:
            await self._parts.store.node_heartbeat(
                f"{os.uname().nodename}:{os.getpid()}",
                version=installed_version(),
                draining=self._draining,
            )
        except StoreError:
            self._database_fails = True
            raise
        self._database_fails = False
        metrics.commit_seconds.observe(time.perf_counter() - start_s)
        size = await self._parts.store.size()
        metrics.database_bytes.set(size.database_bytes)
        metrics.wal_bytes.set(size.wal_bytes)

    async def prune(self) -> None:
        """Forgets answers that nobody will ask for again, and files that nothing refers to."""
        disowned = self._parts.authority.lists.revoked()
        await self._parts.store.prune(now_ms() - _REPEATS_MS, disowned=disowned)
        await self._parts.federation.collect()

    def _server_certificate(self) -> ServerCertificate:
        return self._parts.authority.server_certificate(
            self._config.server.hosts, now=now_ms() // 1000
        )

    def _peer_certificate(self) -> ServerCertificate:
        return self._parts.authority.peer_certificate(now=now_ms() // 1000)

    def _refuses_work(self) -> str:
        return "the server is draining" if self._draining else ""

    def _lacks_room(self) -> str:
        return "" if self._admission.has_room() else "the disk is nearly full"

    def _cannot_write(self) -> str:
        return "the database takes no writes" if self._database_fails else ""

    def _knows_not_who_is_revoked(self) -> str:
        lists = self._parts.authority.lists
        try:
            lists.revoked()
        except AuthorityError as error:
            return f"{error.what}: {error.why}"
        return "the list revoked.jsonl lacks what was on it" if lists.lost else ""

    def _is_late(self) -> str:
        return "the event loop is late" if self.lag.overloaded else ""


def _admission(config: Config, lag: LoopLag, **own: int) -> Admission:
    """Bounds that the settings name; `own`: those in which the ports differ."""
    limits = config.limits
    return Admission(
        now_s=time.monotonic,
        lag=lag,
        disk_free=FreeShare(config.server.state_directory),
        concurrent=limits.concurrent_rpcs,
        queue=limits.queue,
        queue_wait_s=limits.queue_wait_s,
        bulk_bytes=limits.upload_bytes,
        rate=limits.calls_per_second,
        least_free=limits.disk_free,
        **own,
    )


async def _anonymous(context: Context) -> Caller:
    return Caller("anonymous", address=peer_address(context))


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
