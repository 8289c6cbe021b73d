"""The protocol as it was recorded, and as it is: descriptors, and messages made of them alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import fedcore.v1

__all__ = ["RECORDED", "Protocol", "recorded_files", "todays_files"]

RECORDED = Path(__file__).with_name("recorded")


def recorded_files() -> FileDescriptorSet:
    """What `python -m tests.compat.recording` wrote last."""
    return FileDescriptorSet.FromString((RECORDED / "v1.binpb").read_bytes())


def todays_files() -> FileDescriptorSet:
    """Those of the generated code."""
    files = FileDescriptorSet()
    for path in sorted(Path(fedcore.v1.__file__).parent.glob("*_pb2.py")):
        module: Any = importlib.import_module(f"fedcore.v1.{path.stem}")
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.file.append(file)
    return files


class Protocol:
    """Messages and calls of a set of descriptors, and nothing of the generated code."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        by_name = {file.name: file for file in files.file}
        added: set[str] = set()

        def add(name: str) -> None:
            if name not in added:
                added.add(name)
                for needed in by_name[name].dependency:
                    add(needed)
                self._pool.Add(by_name[name])

        for name in by_name:
            add(name)

    def message(self, name: str) -> Any:
        """The class of `fedcore.v1.<name>`."""
        found = self._pool.FindMessageTypeByName(f"fedcore.v1.{name}")
        return message_factory.GetMessageClass(found)

    def request(self, call: str) -> Any:
        """The class of the request of a call like "RoundService.Next"."""
        return message_factory.GetMessageClass(self._method(call).input_type)

    def response(self, call: str) -> Any:
        """The class of its answer."""
        return message_factory.GetMessageClass(self._method(call).output_type)

    def ask(self, channel: grpc.Channel, call: str, request: Any, *, timeout_s: float = 60) -> Any:
        """The answer to a call. Raises: grpc.RpcError."""
        service, _, method = call.partition(".")
        ask = channel.unary_unary(
            f"/fedcore.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self.response(call).FromString,
        )
        return ask(request, timeout=timeout_s)

    def _method(self, call: str) -> Any:
        service, _, method = call.partition(".")
        return self._pool.FindServiceByName(f"fedcore.v1.{service}").methods_by_name[method]
