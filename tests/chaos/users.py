"""A user of the federation who gives commands through the services, as `fed` itself does.

What is ordered is sent again with the same name until it is answered: a server that is killed on
the way makes no difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from fedcore.errors import ConnectError, OverloadedError
from fedcore.federated.task import Task
from fedcore.v1 import admin_service_pb2, common_pb2
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedserver.profiles import Profile, new_request_id
from tests.chaos.programs import until

__all__ = ["User"]

_OVER = ("COMPLETED", "FAILED", "CANCELLED")


class User:
    """Whoever holds the profile in `folder`. A connection is opened for every call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._profile = Profile.open(folder)

    def ask(self, method: str, request: Message) -> Any:
        """The answer, as soon as there is a server to give it."""
        return self._patiently(lambda channel: self._profile.ask(channel, method, request))

    def order(self, method: str, field: str, payload: Message) -> Any:
        """A mutation: `field` of the request holds the signed `payload`."""
        request = getattr(admin_service_pb2, f"{method}Request")

        def sent(channel: grpc.Channel) -> Any:
            envelope = self._profile.signed(channel, method, payload)
            return self._profile.ask(channel, method, request(**{field: envelope}))

        return self._patiently(sent)

    def token(self, *, uses: int = 1, lifetime_s: int = 3600) -> str:
        """A join string."""
        grant = admin_service_pb2.TokenGrant(
            request_id=new_request_id(), uses=uses, lifetime_s=lifetime_s
        )
        string: str = self.order("CreateToken", "grant", grant).join_string
        return string

    def submit(self, task: Task, *, model: bytes = b"") -> str:
        """The id of a resolved task that now runs."""
        canonical = task.canonical
        signature = self._profile.identity.sign(signed_bytes(canonical, method=TASK, place=Place()))
        payload = admin_service_pb2.Submission(
            request_id=new_request_id(), task=canonical, signature=signature, model=model
        )
        task_id: str = self.order("SubmitTask", "submission", payload).task_id
        return task_id

    def task(self, task_id: str) -> admin_service_pb2.TaskEntry:
        request = admin_service_pb2.ShowTaskRequest(task_id=task_id)
        found: admin_service_pb2.TaskEntry = self.ask("ShowTask", request).task
        return found

    def wait(self, task_id: str, *, timeout_s: float = 200.0) -> admin_service_pb2.TaskEntry:
        """The task once it is over."""
        found: list[admin_service_pb2.TaskEntry] = []

        def over() -> bool:
            found[:] = [self.task(task_id)]
            return found[0].state in _OVER

        until(over, f"{task_id} ends", timeout_s=timeout_s, every_s=0.1)
        return found[0]

    def rounds(self, task_id: str) -> list[admin_service_pb2.RoundEntry]:
        """Every attempt at every round."""
        request = admin_service_pb2.ListRoundsRequest(task_id=task_id, limit=1000)
        return list(self.ask("ListRounds", request).rounds)

    def round(self, ref: common_pb2.RoundRef) -> admin_service_pb2.ShowRoundResponse:
        request = admin_service_pb2.ShowRoundRequest(round=ref)
        found: admin_service_pb2.ShowRoundResponse = self.ask("ShowRound", request)
        return found

    def models(self, task_id: str) -> list[admin_service_pb2.ModelEntry]:
        """The line of models, in the order of their rounds."""
        request = admin_service_pb2.ListModelsRequest(task_id=task_id)
        return sorted(self.ask("ListModels", request).models, key=lambda model: model.round)

    def certificate(self, task_id: str) -> dict[str, Any]:
        """What the task has cost of its privacy budget."""
        request = admin_service_pb2.ShowPrivacyRequest(task_id=task_id)
        found: dict[str, Any] = json.loads(self.ask("ShowPrivacy", request).certificate)
        return found

    def audit(self) -> list[dict[str, Any]]:
        """The audit log from its beginning."""
        entries: list[dict[str, Any]] = []
        while True:
            after = int(entries[-1]["sequence"]) if entries else 0
            request = admin_service_pb2.ExportAuditRequest(after=after, limit=1000)
            page = self.ask("ExportAudit", request).entries
            if not page:
                return entries
            entries += map(json.loads, page)

    def _patiently(self, call: Callable[[grpc.Channel], Any]) -> Any:
        found: list[Any] = []

        def tried() -> bool:
            try:
                with self._profile.channel() as channel:
                    found[:] = [call(channel)]
            except (ConnectError, OverloadedError):
                return False
            return True

        until(tried, "the server answers", every_s=0.1)
        return found[0]
