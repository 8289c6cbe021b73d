"""Today's protocol is one that grew from the recorded one; what would break a peer is found."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet

from tests.compat.breaking import breaking_changes
from tests.compat.descriptors import recorded_files, todays_files

RECORD = "python -m tests.compat.recording"


def message(files: FileDescriptorSet, name: str) -> DescriptorProto:
    [found] = [one for file in files.file for one in file.message_type if one.name == name]
    return found


def field(files: FileDescriptorSet, name: str) -> FieldDescriptorProto:
    owner, _, wanted = name.partition(".")
    [found] = [one for one in message(files, owner).field if one.name == wanted]
    return found


def service_of(files: FileDescriptorSet, name: str) -> int:
    [found] = [i for i, file in enumerate(files.file) if [s.name for s in file.service] == [name]]
    return found


def test_who_knows_the_recorded_protocol_understands_todays() -> None:
    assert breaking_changes(recorded_files(), todays_files()) == []


def test_the_whole_protocol_is_recorded() -> None:
    assert len(recorded_files().file) >= 8
    services = [service for file in recorded_files().file for service in file.service]
    assert len(services) == 8 and sum(len(service.method) for service in services) > 30


def gone(files: FileDescriptorSet) -> None:
    del message(files, "Train").field[0]


def renumbered(files: FileDescriptorSet) -> None:
    field(files, "Train.model_bytes").number = 9


def reused(files: FileDescriptorSet) -> None:
    one = field(files, "Train.evaluate")
    one.name, one.type = "seconds", FieldDescriptorProto.TYPE_DOUBLE


def renamed(files: FileDescriptorSet) -> None:
    field(files, "Train.evaluate").name = "measure"


def retyped(files: FileDescriptorSet) -> None:
    field(files, "Train.model_bytes").type = FieldDescriptorProto.TYPE_SINT64


def repeated(files: FileDescriptorSet) -> None:
    field(files, "Train.model_digest").label = FieldDescriptorProto.LABEL_REPEATED


def of_another_message(files: FileDescriptorSet) -> None:
    field(files, "NextResponse.train").type_name = ".fedcore.v1.Wait"


def out_of_its_oneof(files: FileDescriptorSet) -> None:
    field(files, "NextResponse.train").ClearField("oneof_index")


def message_renamed(files: FileDescriptorSet) -> None:
    message(files, "UploadSeal").name = "Seal"


def value_gone(files: FileDescriptorSet) -> None:
    del message(files, "Finished").enum_type[0].value[2]


def value_renumbered(files: FileDescriptorSet) -> None:
    message(files, "Finished").enum_type[0].value[2].number = 7


def rpc_gone(files: FileDescriptorSet) -> None:
    del files.file[service_of(files, "RoundService")].service[0].method[0]


def rpc_streams(files: FileDescriptorSet) -> None:
    method = files.file[service_of(files, "RoundService")].service[0].method[0]
    method.server_streaming = True


def service_gone(files: FileDescriptorSet) -> None:
    del files.file[service_of(files, "RoundService")].service[0]


def package_renamed(files: FileDescriptorSet) -> None:
    files.file[service_of(files, "RoundService")].package = "fedcore.v2"


BREAKS = [
    *(gone, renumbered, reused, renamed, retyped, repeated, of_another_message, out_of_its_oneof),
    *(message_renamed, value_gone, value_renumbered, rpc_gone, rpc_streams, service_gone),
    package_renamed,
]


@pytest.mark.parametrize("change", BREAKS)
def test_what_would_break_a_peer_is_found(change: Callable[[FileDescriptorSet], None]) -> None:
    files = deepcopy(recorded_files())
    change(files)
    assert breaking_changes(recorded_files(), files)


def test_a_number_that_was_given_up_is_given_to_no_other() -> None:
    before, after = recorded_files(), recorded_files()
    message(before, "Wait").reserved_range.add(start=3, end=5)
    assert len(breaking_changes(before, after)) == 2


def test_what_is_new_breaks_nobody() -> None:
    files = deepcopy(recorded_files())
    message(files, "Train").field.add(
        name="hint", number=99, type=FieldDescriptorProto.TYPE_STRING,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
    )  # fmt: skip
    files.file[service_of(files, "RoundService")].message_type.add(name="Later")
    message(files, "Finished").enum_type[0].value.add(name="OUTCOME_PAUSED", number=9)
    method = files.file[service_of(files, "RoundService")].service[0].method.add(name="Pause")
    method.input_type = method.output_type = ".fedcore.v1.Wait"
    assert breaking_changes(recorded_files(), files) == []
