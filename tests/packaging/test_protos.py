"""The generated code is that of the `.proto` files beside it; no compiler need be installed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

BUF = Path(sys.executable).with_name("buf")


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorSet:
    """The files as buf reads them."""
    image = tmp_path_factory.mktemp("protos") / "image.binpb"
    command = [BUF, "build", "protos", "--exclude-source-info", "--as-file-descriptor-set"]
    subprocess.run([*command, "-o", image], cwd=root, check=True, timeout=60)
    return descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())


def without_names_of_json(file: descriptor_pb2.FileDescriptorProto) -> bytes:
    """Which buf writes out and protoc leaves to be derived."""
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        pending.extend(message.nested_type)
        for field in message.field:
            field.ClearField("json_name")
    return file.SerializeToString(deterministic=True)


def test_every_file_is_generated_as_it_stands(built: descriptor_pb2.FileDescriptorSet) -> None:
    assert len(built.file) >= 8
    for file in built.file:
        module = importlib.import_module(
            file.name.removesuffix(".proto").replace("/", ".") + "_pb2"
        )
        generated = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(generated)
        assert without_names_of_json(generated) == without_names_of_json(file), file.name


def test_nothing_is_generated_that_has_no_file(
    root: Path, built: descriptor_pb2.FileDescriptorSet
) -> None:
    stems = {Path(file.name).stem for file in built.file}
    generated = {path.stem for path in (root / "fedcore" / "v1").glob("*_pb2.py")}
    assert generated == {f"{stem}_pb2" for stem in stems}
