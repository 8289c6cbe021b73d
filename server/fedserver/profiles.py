"""A user's profile: the folder by which the commands of operators and researchers reach a server.

`fed ca issue` writes it. Mutations are signed with its identity key, for that one server.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from fedcore.errors import KeyFileError
from fedcore.toml import parse, text_of
from fedcore.v1 import admin_service_pb2, common_pb2
from fedcore.v1.admin_service_pb2_grpc import AdminServiceStub
from fedcore.wire.channels import client_options
from fedcore.wire.envelope import Place, seal
from fedcore.wire.failures import error_from
from fedserver.key_files import load_key, read_secret

__all__ = ["PROFILE", "Profile", "new_request_id"]

PROFILE = "profile.toml"
_TIMEOUT_S = 30.0


def new_request_id() -> bytes:
    """16 random bytes by which a repeated mutation is known again."""
    return secrets.token_bytes(16)


@dataclass(frozen=True, slots=True)
class Profile:
    """`address`: host:port of the services. Certificates and key are PEM."""

    address: str
    authority: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    identity: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Profile:
        """The profile of a folder. Raises: TaskError, KeyFileError."""
        values = parse(text_of(folder / PROFILE), PROFILE)
        files = {
            name: str(values.get(name, ""))
            for name in ("address", "authority", "certificate", "key", "identity_key")
        }
        if missing := [name for name, value in files.items() if not value]:
            raise KeyFileError(
                "the profile is not whole",
                why=f"{PROFILE} does not say {', '.join(missing)}",
                fix="make a new one with `fed ca issue`",
                where=str(folder),
            )
        try:
            authority = (folder / files["authority"]).read_bytes()
            certificate = (folder / files["certificate"]).read_bytes()
        except OSError as error:
            raise KeyFileError(
                "the profile is not whole",
                why=(error.strerror or str(error)).lower(),
                fix="make a new one with `fed ca issue`",
                where=str(folder),
            ) from None
        return cls(
            files["address"],
            authority,
            certificate,
            read_secret(folder / files["key"]),
            Ed25519PrivateKey.from_private_bytes(load_key(folder / files["identity_key"])),
        )

    def channel(self) -> grpc.Channel:
        """A connection to the server, to be closed by the caller."""
        credentials = grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)
        return grpc.secure_channel(self.address, credentials, options=client_options())

    def ask(self, channel: grpc.Channel, method: str, request: Message) -> Any:
        """The answer of an RPC of `AdminService`. Raises: the server's error, or ConnectError."""
        try:
            return getattr(AdminServiceStub(channel), method)(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from(error) from None

    def signed(self, channel: grpc.Channel, method: str, payload: Message) -> common_pb2.Envelope:
        """The payload of a mutation, signed for the server at the other end of `channel`."""
        found = self.ask(channel, "GetStatus", admin_service_pb2.GetStatusRequest())
        return seal(
            payload.SerializeToString(),
            method=f"AdminService.{method}",
            place=Place(nonce=found.server_id),
            sign=self.identity.sign,
            key=self.identity.public_key().public_bytes_raw(),
        )
