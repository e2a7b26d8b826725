"""Pure. What in a protocol's descriptors may not change from one release to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

FileSet = descriptor_pb2.FileDescriptorSet


def broken(former: FileSet, present: FileSet) -> list[str]:
    """What a peer of `former` would misread, or miss; empty: they work together."""
    found: list[str] = []
    ours = {name: message for file in present.file for name, message in messages(file)}
    for file in former.file:
        for name, message in messages(file):
            if name not in ours:
                found.append(f"message {name} is gone")
            else:
                found += _fields(name, message, ours[name])
        found += _enums(file, present)
        found += _services(file, present)
    return found


def messages(file: Any) -> Iterator[tuple[str, Any]]:
    """Every message of a file, those inside others too, by full name."""
    waiting = [(f"{file.package}.{message.name}", message) for message in file.message_type]
    while waiting:
        name, message = waiting.pop()
        yield name, message
        waiting += [(f"{name}.{inner.name}", inner) for inner in message.nested_type]


def added(former: FileSet, present: FileSet) -> set[str]:
    """Fields of messages that both have which only the present one knows, as ``Message.field``."""
    theirs = {
        f"{name}.{field.name}" for file in former.file for name, m in messages(file) for field in m.field
    }
    known = {name for file in former.file for name, _ in messages(file)}
    return {
        f"{name}.{field.name}"
        for file in present.file
        for name, m in messages(file)
        if name in known
        for field in m.field
    } - theirs


class Reader:
    """Reads messages as a release does that has these descriptors and no others."""

    def __init__(self, protocol: FileSet) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in protocol.file:
            self._pool.Add(file)

    def read(self, name: str, data: bytes) -> Any:
        """The message of that full name."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name)).FromString(data)


def as_json(message: Any) -> Any:
    """All that a reader knows of a message."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _fields(name: str, former: Any, present: Any) -> Iterator[str]:
    by_number = {field.number: field for field in present.field}
    oneofs = {index: one.name for index, one in enumerate(present.oneof_decl)}
    reserved = {number for part in present.reserved_range for number in range(part.start, part.end)}
    for field in former.field:
        what = f"{name}.{field.name} ({field.number})"
        now = by_number.get(field.number)
        if now is None:
            if field.number not in reserved or field.name not in present.reserved_name:
                yield f"{what} is gone without `reserved`"
            continue
        if (now.type, now.type_name, now.label) != (field.type, field.type_name, field.label):
            yield f"{what} has another type"
        if now.name != field.name:
            yield f"{what} is {now.name} now"
        if field.proto3_optional != now.proto3_optional:
            yield f"{what} tells unset from empty no more, or only now"
        was_in = former.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        is_in = oneofs[now.oneof_index] if now.HasField("oneof_index") else ""
        if was_in != is_in:
            yield f"{what} moved from {was_in or 'no oneof'} to {is_in or 'none'}"


def _enums(former: Any, present: FileSet) -> Iterator[str]:
    ours = {enum.name: enum for file in present.file for enum in file.enum_type}
    for enum in former.enum_type:
        if enum.name not in ours:
            yield f"enum {enum.name} is gone"
            continue
        now = {value.number: value.name for value in ours[enum.name].value}
        for value in enum.value:
            if now.get(value.number) != value.name:
                yield f"{enum.name} {value.number} was {value.name}, is {now.get(value.number)}"


def _services(former: Any, present: FileSet) -> Iterator[str]:
    ours = {
        (service.name, method.name): method
        for file in present.file
        for service in file.service
        for method in service.method
    }
    for service in former.service:
        for method in service.method:
            if ours.get((service.name, method.name)) != method:
                yield f"{service.name}.{method.name} is gone, or takes or gives something else"
