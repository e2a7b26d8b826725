"""Pure. Changes a valid message: its bytes, and what they stand for, so that what is changed is still read.

Everything follows from the generator that is given, so that a number says which message it was.
"""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

import msgpack
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.property.foreign.parser import Form, Parser

_WORDS = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xdd\xff\xff\xff\xff"]
_WORDS += [
    b"\xc1",
    b"\x91" * 600,
    b"\xff" * 9 + b"\x01",
    b"\xc7\xff\x01",
    b"\xdb\xff\xff\xff\xff",
    b"[" * 5000,
]
_INTS = [0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62]
_INTS += [2**63 - 1, -(2**31), -(2**63), 2**64 - 1]
_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, 1e38, float("nan"), float("inf"), float("-inf")]
_TEXTS = [
    "",
    "a",
    "gate",
    "..",
    "../x",
    "a/b",
    "x" * 64,
    "x" * 65,
    "x" * 5000,
    "é",
    "\0",
    "☃" * 40,
    " \n",
    "-1",
]
_TEXTS += [
    "encoder",
    "127.0.0.1:1",
    "[::1]:99999",
    "0" * 5000,
    "1e999",
    "nan",
    "float16",
    "\U0001f600",
    "a.notes",
]
_BYTES = [b"", b"\0", b"\xff" * 8, bytes(16), bytes(32), b"x" * 5000, b"\x00\x3c", b"\x00\x7c", b"\x00\x7e"]


MAX_BYTES = 1 << 20


def change(parser: Parser, rng: random.Random, seed: bytes) -> bytes:
    """A message like `seed`, but for a few changes; of `MAX_BYTES` at most."""
    return _changed(parser, rng, seed)[:MAX_BYTES]


def _changed(parser: Parser, rng: random.Random, seed: bytes) -> bytes:
    if parser.form is not Form.BYTES and rng.random() < 0.6:
        changed = parser.wrap(_structured(parser, rng, parser.unwrap(seed)))
        return changed if rng.random() < 0.9 else parser.seal(_bytes(rng, changed))
    changed = _bytes(rng, seed)
    return parser.seal(changed) if rng.random() < 0.7 else changed


def _structured(parser: Parser, rng: random.Random, body: bytes) -> bytes:
    times = rng.choice((1, 1, 1, 2, 3, 6))
    match parser.form:
        case Form.MSGPACK:
            value = msgpack.unpackb(body, strict_map_key=False)
            for _ in range(times):
                value = _tree(rng, value, binary=True)
            return _packed(value)
        case Form.JSON:
            value = json.loads(body)
            for _ in range(times):
                value = _tree(rng, value, binary=False)
            return _nested(rng, json.dumps(value, default=str).encode())
        case Form.TEXT:
            return _text(rng, body)
        case kind:
            assert isinstance(kind, type)
            message = kind.FromString(body)
            for _ in range(times):
                _message(rng, message)
            return (
                _records(rng, message.SerializeToString())
                if rng.random() < 0.3
                else message.SerializeToString()
            )


def _bytes(rng: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randint(0, len(data)), rng.randint(0, 16)
        match rng.randrange(8):
            case 0 | 1:
                if at < len(data):
                    data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.randbytes(length)
            case 4:
                if rng.random() < 0.3:
                    del data[at:]
            case 5:
                word = rng.choice(_WORDS)
                data[at : at + len(word)] = word
            case 6:
                data[at:at] = data[rng.randint(0, len(data)) :][: length * 4]
            case _:
                data[at : at + length] = rng.randbytes(length)
    return bytes(data)


def _scalar(rng: random.Random, *, binary: bool) -> Any:
    pools: list[list[Any]] = [_INTS, _FLOATS, _TEXTS, [None, True, False], [[], {}, [[]], [0] * 3, {"a": 1}]]
    return copy.deepcopy(rng.choice(rng.choice([*pools, _BYTES] if binary else pools)))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    found: list[tuple[Any, Any]] = []
    rest = [value]
    while rest:
        one = rest.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            found.append((one, key))
            rest.append(one[key])
    return found


def _tree(rng: random.Random, value: Any, *, binary: bool) -> Any:
    places = _places(value)
    if not places or rng.random() < 0.02:
        return _scalar(rng, binary=binary)
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1:
            other, name = rng.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = copy.deepcopy(other[name])
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 2:
            holder[rng.choice(_TEXTS)] = _scalar(rng, binary=binary)
        case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] += rng.choice((-1, 1, 0.5, 2**32))
        case 4 if isinstance(holder[key], list) and len(holder[key]) < 200:
            holder[key] *= rng.choice((0, 2, 100))
        case 4 if isinstance(holder[key], str | bytes):
            holder[key] = holder[key][: rng.randint(0, len(holder[key]))]
        case 5:
            for _ in range(rng.choice((1, 3, 200))):
                holder[key] = [holder[key]]
        case _:
            holder[key] = _scalar(rng, binary=binary)
    return value


def _packed(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value)
    except (OverflowError, ValueError):  # a number of more than 64 bits, or deeper than it packs
        return b"\x81\xa1v" + b"\x91" * 2000
    return packed


def _nested(rng: random.Random, data: bytes) -> bytes:
    """Now and then so deep that reading it takes more calls than Python allows."""
    if rng.random() > 0.05:
        return data
    at = data.find(b": ") + 2
    return data[:at] + b"[" * 100_000 + data[at:]


_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?")
_ODD = [
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"-inf",
    b"9" * 5000,
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"[" * 2000,
    b"1979-05-27",
]
_ODD += [
    b"0x7fffffffffffffff",
    b"2.5",
    b"'",
    b'"""',
    b"\\u0000",
    b"\xff\xfe",
    b"[[a]]",
    b"a.b.c = 1\n",
    b" " * 3000,
]


def _text(rng: random.Random, body: bytes) -> bytes:
    data = body
    for _ in range(rng.randint(1, 3)):
        spans = [match.span() for match in _NUMBER.finditer(data)] or [(len(data), len(data))]
        lines = data.split(b"\n")
        match rng.randrange(5):
            case 0 | 1:
                start, end = rng.choice(spans)
                data = data[:start] + rng.choice(_ODD) + data[end:]
            case 2:
                lines.insert(rng.randint(0, len(lines)), rng.choice(lines))
                data = b"\n".join(lines)
            case 3:
                del lines[rng.randrange(len(lines))]
                data = b"\n".join(lines)
            case _:
                at = rng.randint(0, len(data))
                data = data[:at] + rng.choice(_ODD) + data[at:]
    return data


def _message(rng: random.Random, message: Message) -> None:
    """One field of it, or of one inside: set to the edge of its type, taken out, or repeated."""
    set_fields = [field for field, _ in message.ListFields()]
    inner = [f for f in set_fields if f.message_type is not None]
    if inner and rng.random() < 0.6:
        _inside(rng, message, rng.choice(inner))
        return
    field = rng.choice(
        set_fields if set_fields and rng.random() < 0.3 else list(message.DESCRIPTOR.fields) or [None]
    )
    if field is None:
        return
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        _repeat(rng, getattr(message, field.name), field)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
        _message(rng, getattr(message, field.name))
    else:
        setattr(message, field.name, _value(rng, field))


def _inside(rng: random.Random, message: Message, field: Any) -> None:
    value = getattr(message, field.name)
    if not field.is_repeated:
        _message(rng, value)
    elif field.message_type.GetOptions().map_entry or rng.random() < 0.3:
        _repeat(rng, value, field)
    else:
        _message(rng, rng.choice(value))


def _repeat(rng: random.Random, values: Any, field: Any) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        if value.message_type is None:
            for known in [*values][:1] if rng.random() < 0.5 else []:
                values[known] = _value(rng, value)
            values[_value(rng, key)] = _value(rng, value)
        return
    match rng.randrange(3):
        case 0 if len(values):
            del values[rng.randrange(len(values))]
        case 1 if len(values):
            values.extend([values[rng.randrange(len(values))]] * rng.choice((1, 10, 300)))
        case _ if field.message_type is not None:
            _message(rng, values.add())
        case _:
            values.append(_value(rng, field))


def _value(rng: random.Random, field: Any) -> Any:
    kinds: dict[int, Callable[[], Any]] = {
        FieldDescriptor.CPPTYPE_BOOL: lambda: rng.random() < 0.5,
        FieldDescriptor.CPPTYPE_STRING: lambda: rng.choice(_TEXTS),
        FieldDescriptor.CPPTYPE_FLOAT: lambda: rng.choice(_FLOATS),
        FieldDescriptor.CPPTYPE_DOUBLE: lambda: rng.choice(_FLOATS),
        FieldDescriptor.CPPTYPE_ENUM: lambda: rng.choice((0, 1, 2, 3, 4, 99, 2**31 - 1)),
        FieldDescriptor.CPPTYPE_UINT32: lambda: rng.choice(_INTS) % 2**32,
        FieldDescriptor.CPPTYPE_UINT64: lambda: rng.choice(_INTS) % 2**64,
        FieldDescriptor.CPPTYPE_INT32: lambda: (rng.choice(_INTS) + 2**31) % 2**32 - 2**31,
        FieldDescriptor.CPPTYPE_INT64: lambda: (rng.choice(_INTS) + 2**63) % 2**64 - 2**63,
    }
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice(_BYTES)
    return kinds[field.cpp_type]()


def _records(rng: random.Random, data: bytes) -> bytes:
    """Fields that no honest writer makes: twice, unknown, of another type, too long, nested without end."""
    more = [
        data,
        data[: len(data) // 2],
        b"\xfa\x7f" + struct.pack("B", 4) + b"abcd",
        b"\x08" + b"\xff" * 9 + b"\x01",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0b" * 200,
        _deep(rng),
        b"\x0d\0\0\0\0",
        b"\x12\x00" * 500,
    ]
    return b"".join((data, rng.choice(more)) if rng.random() < 0.5 else (rng.choice(more), data))


def _deep(rng: random.Random) -> bytes:
    data, tag = b"", bytes([rng.choice((0x0A, 0x12, 0x1A, 0x22))])
    for _ in range(rng.choice((30, 90, 110))):
        length = len(data)
        head = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
        data = tag + head + data
    return data
