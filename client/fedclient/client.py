"""The client of a federation, in ten lines: join once, open ever after, run."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from fedclient.assignment import OpenAssignment
from fedclient.connection import Connection, Faults, delay_s, is_passing, no_faults
from fedclient.energy import battery_level
from fedclient.files import make_folder
from fedclient.identity import DeviceIdentity, Membership, authority_pem, now_utc
from fedclient.offer import Offer, held_back
from fedclient.policy import Policy
from fedclient.privacy_budget import TaskCost
from fedclient.progress import Outcome, Progress, Stage, Summary
from fedclient.state import DAY_MS, Charge, State
from fedclient.stopping import Stop
from fedcore.errors import (
    CancelledError,
    ConflictError,
    ConnectError,
    DevicePolicyError,
    FedcoreError,
    RefusedError,
    UnauthenticatedError,
)
from fedcore.failpoints import failpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedclient.attempt import Tasks
    from fedclient.participation import Device
    from fedcore.data import Dataset
    from fedcore.federated.programs import Program

__all__ = ["Client"]

_NOT_ALLOWED_NOW_S: Final = 60.0
_CHECK_IN_PATIENCE_S: Final = 5.0  # then the cause is looked for, and if it may pass, waited for
_AFTER_FAILURE_S: Final = (1.0, 300.0)
_LONGEST_RETRY_MS: Final = DAY_MS
_LARGEST_NUMBER: Final = 2**31  # of a round or an attempt
_NO_WORK: Final = "the server has no work yet"


def _say_nothing(progress: Progress) -> None:
    """Progress that nobody follows."""


class Client:
    """One device's membership in a federation, kept in a folder of its own.

    Made by `join` or `open`; one process at a time. Close it, or use it as a context manager.
    """

    def __init__(
        self, directory: str | Path, *, stop: Stop | None = None, faults: Faults = no_faults
    ) -> None:
        folder = Path(directory)
        self._folder = folder
        self._identity = DeviceIdentity(folder / "identity")
        self._state = State(folder, key=self._identity.device_key)
        self._stop, self._faults = stop or Stop(), faults
        self._connection = self._connected()
        self._outages = self._refusals = 0
        self._disowned: UnauthenticatedError | None = None  # by what the server refused its word
        self._asked_anew = False  # for another certificate, since the server last took this one
        self._idle = _NO_WORK

    @classmethod
    def join(
        cls,
        join_string: str,
        *,
        directory: str | Path,
        name: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> Self:
        """Enrols this device with the token of a join string, and opens the folder.

        `name`: what the owner calls the device, at most 64 characters. The operator sees it, as
        the attribute "name"; and it names the streams of random numbers of its training, so that a
        simulation can repeat them. `attributes`: what else the operator sees of the device.
        Raises: ArgumentError for a name that cannot be shown; JoinStringError, ConnectError,
        TokenError, ClientStateError (a member already).
        """
        from fedclient.join import check_name, enrol
        from fedcore.wire.joining import JoinString

        check_name(name)
        invitation, folder = JoinString.parse(join_string), Path(directory)
        make_folder(folder)
        stop = Stop()
        enrol(
            invitation,
            folder=folder / "identity",
            name=name,
            attributes=attributes or {},
            stop=stop,
        )
        return cls(folder, stop=stop)

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """The member whose folder this is. Raises: ClientStateError if it is none, or in use."""
        return cls(directory)

    @property
    def membership(self) -> Membership:
        """What this device is called where, and whom it trusts."""
        return self._identity.membership

    @property
    def certificate_expires(self) -> datetime:
        """When the device's certificate ends, unless it is renewed."""
        return datetime.fromtimestamp(self._identity.tls.ends, UTC)

    @property
    def assignment(self) -> OpenAssignment | None:
        """What it works on, or will go on with."""
        return self._state.assignment

    def charges(self, *, limit: int = 100) -> list[Charge]:
        """What rounds have cost this device, the newest first."""
        return self._state.charges(limit=limit)

    def privacy_costs(self) -> list[TaskCost]:
        """What each task that this device gave an update to may have told of it, since ever."""
        return self._state.privacy_costs()

    def run(
        self,
        *,
        datasets: Mapping[str, Dataset],
        programs: Mapping[str, Program] | None = None,
        policy: Policy | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        rounds: int | None = None,
        battery: Callable[[], float | None] = battery_level,
        own_process: bool = False,
    ) -> list[Summary]:
        """Takes part until `rounds` assignments have ended, or until `stop`; for ever by default.

        `datasets`: by the names under which tasks ask for them. `policy`: what the owner allows,
        by default `Policy()`. `battery`: its charge, 0 to 1, or None. `own_process`: nobody else
        computes in this process, so that `fedcore.tensor.blas.prepare` may be called before the
        first work; who does not say so calls it first to find a simulation's bits on any processor.
        Without a server it waits and tries again. Returns how the last 1,000 assignments ended.
        Raises: what does not pass by itself: ClientCertificateError, UntrustedServerError and the
        like, a RefusedError of the server for good, ClientStateError.
        """
        rules, tell = policy or Policy(), on_progress or _say_nothing
        tasks: Tasks | None = None
        device: Device | None = None
        ended: list[Summary] = []
        key = self._identity.device_key
        offer = Offer.of(key, policy=rules, datasets=datasets, programs=programs or {})
        self._state.take_up(offer.terms)
        try:
            while rounds is None or len(ended) < rounds:
                try:
                    if self._renewed():
                        device = None
                    assignment = self._state.assignment
                    if assignment is None:
                        assignment = self._check_in(rules, offer, tell, battery)
                    if assignment is None:
                        continue
                    # Loaded for the first assignment: a device that waits needs little memory.
                    from fedclient.attempt import Tasks, take_part

                    if own_process and tasks is None:
                        from fedcore.tensor import blas

                        blas.prepare()
                    tasks = tasks or Tasks(programs or {})
                    device = device or self._device(rules, tell, offer.terms)
                    summary = take_part(device, assignment, tasks=tasks, datasets=datasets)
                    ended = [*ended[-999:], summary] if rounds is None else [*ended, summary]
                    self._pause_after(summary)
                except (ConnectError, RefusedError) as error:
                    self._endure(error, tell)
        except CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            self._stop.clear()
            if tasks is not None:
                tasks.worker.close()
        return ended

    def model(
        self,
        task: str,
        path: str | Path,
        *,
        policy: Policy | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """The newest model of a task of the federation, also of one that is over, by array names.

        `task`: its id, as in `charges`. `path`: where the model is left as a safetensors file; what
        of it had come before a break is not fetched again. Nothing is charged to the day, since no
        assignment asked for it. Raises: NotFoundError for a task that there is not, or of which no
        round has ended; DevicePolicyError for a model larger than `policy` allows; ProgramError for
        one that is not installed here; as `run`, ConnectError.
        """
        from fedclient.model import arrays_of, download_model

        self._renewed()
        rules, tell = policy or Policy(), on_progress or _say_nothing
        found = download_model(
            self._connection, task, Path(path), policy=rules, stop=self._stop, tell=tell
        )
        return arrays_of(found)

    def stop(self) -> None:
        """Lets `run` return soon; for another thread. Training stops before its next step.

        An open assignment is gone on with by the next `run`.
        """
        self._stop.set("the client's owner stopped it")

    def close(self) -> None:
        """Closes the folder and the connection."""
        self._stop.set("the client was closed")
        self._connection.close()
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _connected(self) -> Connection:
        membership = self._identity.membership
        return Connection(
            membership.address,
            root=authority_pem(membership.authority),
            tls=self._identity.tls,
            faults=self._faults,
        )

    def _device(self, policy: Policy, tell: Callable[[Progress], None], terms: bytes) -> Device:
        from fedclient.aggregation import Aggregation
        from fedclient.participation import Device
        from fedcore.federated.training import stream_of

        membership, signing = self._identity.membership, self._identity.signing
        session_policy = policy.session_policy(membership.registrars)
        return Device(
            connection=self._connection,
            state=self._state,
            identity=signing,
            aggregation=Aggregation(signing, session_policy, state=self._state),
            policy=policy,
            models=self._folder / "models",
            stream=stream_of(membership.name),
            stop=self._stop,
            tell=tell,
            terms=terms,
        )

    def _renewed(self) -> bool:
        """Renews certificates that are old, between two assignments; whether it did.

        Ones that have expired, or that the server takes no more, also under an assignment, because
        without them it cannot go on.
        """
        self._stop.check()
        if self._disowned is not None:
            self._reissue(self._disowned)
            return True
        tls = self._identity.tls
        expired = tls.expired(now_utc())
        if not expired and (self._state.assignment is not None or not tls.renewal_due(now_utc())):
            return False
        from fedclient.join import renew

        try:
            renew(self._identity, self._connection, stop=self._stop)
        except FedcoreError as error:
            if expired or not is_passing(error):
                raise
            return False
        self._reconnect()
        return True

    def _reissue(self, refusal: UnauthenticatedError) -> None:
        """Gets another certificate by the key with which it enrolled, as after an expiry.

        So a device goes on where the key that signed the old one was retired; one that was revoked
        gets none. Raises: `refusal` then; ConnectError, or a RefusedError that passes.
        """
        from fedclient.join import reissue

        try:
            reissue(self._identity, stop=self._stop)
        except RefusedError as error:
            if is_passing(error):
                raise
            self._disowned, self._asked_anew = None, True
            raise refusal from error
        self._disowned, self._asked_anew = None, True
        self._reconnect()

    def _reconnect(self) -> None:
        self._connection.close()
        self._connection = self._connected()

    def _check_in(
        self,
        policy: Policy,
        offer: Offer,
        tell: Callable[[Progress], None],
        battery: Callable[[], float | None],
    ) -> OpenAssignment | None:
        """Asks for work once: an assignment, or None after a wait."""
        from fedcore.v1.client_service_pb2 import CheckInRequest
        from fedcore.wire.versions import installed_version

        left_s = min(self._state.retry_at_ms - _now_ms(), _LONGEST_RETRY_MS) / 1000
        if left_s > 0:
            self._wait(left_s, tell, self._idle)
        try:
            spent = self._state.spent(since_ms=_now_ms() - DAY_MS)
            now = datetime.now().astimezone()
            policy.check_now(now=now, spent=spent, battery=battery())
        except DevicePolicyError as error:
            self._wait(_NOT_ALLOWED_NOW_S, tell, error.why)
            return None
        request = CheckInRequest(
            request_id=self._state.request_id(),
            sdk_version=installed_version(),
            programs=offer.programs,
            datasets=offer.datasets,
            models=offer.models,
            terms=offer.terms,
        )
        try:
            answer = self._connection.call(
                self._connection.clients.CheckIn,
                request,
                stop=self._stop,
                patience_s=_CHECK_IN_PATIENCE_S,
            )
        except ConflictError:  # what is installed has changed since it asked: it asks anew
            self._state.answered()
            return None
        self._outages, self._asked_anew = 0, False
        if answer.WhichOneof("answer") != "assignment":
            window = answer.retry
            delay_ms = 1000 * delay_s((window.delay_min_ms, window.delay_max_ms))
            retry_at_ms = _now_ms() + round(min(delay_ms, _LONGEST_RETRY_MS))
            self._state.answered(retry_at_ms=retry_at_ms)
            self._idle = held_back(answer.held) if answer.HasField("held") else _NO_WORK
            return None
        found = answer.assignment
        if max(found.round.round, found.round.attempt) > _LARGEST_NUMBER:
            self._state.answered(retry_at_ms=_now_ms() + round(1000 * _AFTER_FAILURE_S[1]))
            tell(Progress(Stage.WAITING, detail="the server assigned a round that is none"))
            return None
        assignment = OpenAssignment(
            assignment_id=found.assignment_id,
            task_id=found.round.task_id,
            round=found.round.round,
            attempt=found.round.attempt,
            task_digest=found.task_digest,
            nonce=found.nonce,
            heartbeat_ms=found.heartbeat_ms,
            deadline_ms=found.deadline_ms,
        )
        self._state.answered(assignment=assignment, at_ms=_now_ms())
        failpoint("client.after_checkin")
        tell(Progress(Stage.ASSIGNED, assignment.task_id, assignment.round, assignment.attempt))
        return assignment

    def _pause_after(self, summary: Summary) -> None:
        """Waits longer after each failure in a row, so that what cannot go well costs little."""
        if summary.outcome not in (Outcome.REFUSED, Outcome.FAILED):
            self._refusals = 0
            return
        self._refusals += 1
        delay_ms = 1000 * _backoff_s(self._refusals)
        self._state.answered(retry_at_ms=_now_ms() + round(delay_ms))
        self._idle = f"the last part in {summary.task} was {summary.outcome}"

    def _endure(self, error: ConnectError | RefusedError, tell: Callable[[Progress], None]) -> None:
        """Waits for a server that cannot be reached, or not now. Raises: what does not pass."""
        from fedclient.doctor import diagnose

        if self._may_ask_anew(error):
            return
        if not is_passing(error):
            raise error
        if isinstance(error, RefusedError):
            return self._wait(delay_s(error.retry), tell, error.what)
        found = diagnose(self._identity, stop=self._stop)
        passes = found is None or is_passing(found) or self._may_ask_anew(found.__cause__)
        if found is not None and not passes:
            raise found from error
        self._outages += 1
        self._wait(_backoff_s(self._outages), tell, error.what)

    def _may_ask_anew(self, error: BaseException | None) -> bool:
        """Whether the server takes its certificate no more, and was not asked for another yet."""
        if not isinstance(error, UnauthenticatedError) or self._asked_anew:
            return False
        self._disowned = error
        return True

    def _wait(self, seconds: float, tell: Callable[[Progress], None], why: str) -> None:
        tell(Progress(Stage.WAITING, detail=f"{seconds:.1f} s, {why}"))
        self._stop.wait(seconds)
        self._stop.check()


def _backoff_s(failures: int) -> float:
    """A delay with full jitter, from a range that doubles with every failure in a row."""
    least, most = _AFTER_FAILURE_S
    return random.uniform(least / 2, min(most, least * 2.0 ** min(failures, 16)))  # noqa: S311


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
