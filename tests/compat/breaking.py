"""What of a protocol may not change: whatever a peer of the recorded version relies on.

As `buf breaking` with its rules WIRE_JSON has it, on descriptors: no service, RPC, message, field
or enum value goes, or gets another name, number, type or cardinality. What is new is no change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

__all__ = ["breaking_changes"]


def breaking_changes(old: FileDescriptorSet, new: FileDescriptorSet) -> list[str]:
    """Each in a few words, sorted; none: whoever knows `old` understands `new`."""
    return sorted(
        [
            *_of_messages(_messages(old), _messages(new)),
            *_of_enums(_enums(old), _enums(new)),
            *_of_services(_services(old), _services(new)),
        ]
    )


def _messages(files: FileDescriptorSet) -> dict[str, DescriptorProto]:
    found = {}
    pending = [(file.package, message) for file in files.file for message in file.message_type]
    while pending:
        parent, message = pending.pop()
        name = f"{parent}.{message.name}"
        found[name] = message
        pending += [(name, nested) for nested in message.nested_type]
    return found


def _enums(files: FileDescriptorSet) -> dict[str, EnumDescriptorProto]:
    found = {f"{file.package}.{enum.name}": enum for file in files.file for enum in file.enum_type}
    for name, message in _messages(files).items():
        found |= {f"{name}.{enum.name}": enum for enum in message.enum_type}
    return found


def _services(files: FileDescriptorSet) -> dict[str, ServiceDescriptorProto]:
    return {f"{file.package}.{service.name}": service for file in files.file
            for service in file.service}  # fmt: skip


def _of_messages(old: dict[str, DescriptorProto], new: dict[str, DescriptorProto]) -> Iterator[str]:
    for name, before in old.items():
        if name not in new:
            yield f"message {name} is gone"
            continue
        after = new[name]
        fields = {field.number: field for field in after.field}
        for field in before.field:
            if field.number not in fields:
                yield f"field {name}.{field.name} is gone"
                continue
            found = fields[field.number]
            was, now = _said(before, field), _said(after, found)
            if was != now:
                yield f"field {name}.{field.name} was {was} and is {now}"
        yield from _of_reserved(name, before, after)


def _said(message: DescriptorProto, field: FieldDescriptorProto) -> tuple[object, ...]:
    """What of a field a peer relies on. A oneof's name is not on the wire; its members are."""
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    return (
        *(field.name, FieldDescriptorProto.Type.Name(field.type), field.type_name),
        *(FieldDescriptorProto.Label.Name(field.label), oneof, field.proto3_optional),
    )


def _of_reserved(name: str, before: DescriptorProto, after: DescriptorProto) -> Iterator[str]:
    """A number that was given up once is given to no other field."""
    for reserved in before.reserved_range:
        for number in range(reserved.start, min(reserved.end, reserved.start + 10_000)):
            if not any(kept.start <= number < kept.end for kept in after.reserved_range):
                yield f"number {number} of {name} is reserved no more"


def _of_enums(
    old: dict[str, EnumDescriptorProto], new: dict[str, EnumDescriptorProto]
) -> Iterator[str]:
    for name, before in old.items():
        if name not in new:
            yield f"enum {name} is gone"
            continue
        values = {(value.name, value.number) for value in new[name].value}
        for value in before.value:
            if (value.name, value.number) not in values:
                yield f"value {name}.{value.name} = {value.number} is gone"


def _of_services(
    old: dict[str, ServiceDescriptorProto], new: dict[str, ServiceDescriptorProto]
) -> Iterable[str]:
    for name, before in old.items():
        if name not in new:
            yield f"service {name} is gone"
            continue
        methods = {method.name: method for method in new[name].method}
        for method in before.method:
            if method.name not in methods:
                yield f"RPC {name}.{method.name} is gone"
            elif methods[method.name].SerializeToString() != method.SerializeToString():
                yield f"RPC {name}.{method.name} takes or gives something else"
