"""Pure. The bytes of a data file: its head, and the head of every record. Knows no files.

`docs/storage.md` has the picture. A file begins with a head of fixed length; then come records::

    prefix (64 bytes) | block header (TKVB) | representatives | zeros to 64 | payload | zeros to 64

Numbers are little-endian. Decoding trusts nothing: magic, version, checksum, limits, and that fields agree.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
import xxhash

from kv_transfer.header import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    HeaderCorrupt,
    HeaderUnsupported,
    encode_header,
)
from reasoner_svc.store.disk.slots import Identity
from tandem.core.blocks import BlockHeader, KVLayout
from tandem.core.ids import StreamId
from tandem.core.versions import Spoken, unread

FILE_MAGIC = b"TKVF"
RECORD_MAGIC = b"TKVR"
VERSION = 1
"""Of files and records together, as written."""
READ = Spoken(1, VERSION)
"""What is read; a file of another version is set aside."""
FILE_HEAD_BYTES = 512
ALIGN_BYTES = 64
PREFIX_BYTES = 64
MAX_REPS_BYTES = 1 << 30

_FILE_PREFIX = struct.Struct("<4sHHI")
_CHECKSUM = struct.Struct("<Q")
_RECORD = struct.Struct("<4sHHIIQQqQ8x")
_KEYS = frozenset(("stream", "number", "fingerprint", "layers", "kv_heads", "head_dim", "dtype", "sink"))


@dataclass(frozen=True, slots=True)
class FileHead:
    """What a data file says of itself."""

    identity: Identity
    number: int
    sink: bool
    """It holds block 0 and nothing else."""


class RecordHead(NamedTuple):
    """The prefix of a record."""

    header_bytes: int
    reps_bytes: int
    number: int
    payload_bytes: int
    written_us: int
    reps_xxh3: int

    @property
    def payload_at(self) -> int:
        """Where the payload begins, from the start of the record."""
        return aligned(PREFIX_BYTES + self.header_bytes + self.reps_bytes)

    @property
    def length(self) -> int:
        """Bytes of the whole record."""
        return self.payload_at + aligned(self.payload_bytes)


def aligned(length: int) -> int:
    """`length` rounded up to whole alignment units."""
    return -(-length // ALIGN_BYTES) * ALIGN_BYTES


def encode_file_head(head: FileHead) -> bytes:
    """`FILE_HEAD_BYTES` bytes."""
    layout = head.identity.layout
    body: bytes = msgpack.packb(
        {
            "stream": head.identity.stream,
            "number": head.number,
            "fingerprint": head.identity.fingerprint,
            "layers": layout.layers,
            "kv_heads": layout.kv_heads,
            "head_dim": layout.head_dim,
            "dtype": layout.dtype,
            "sink": head.sink,
        }
    )
    data = _FILE_PREFIX.pack(FILE_MAGIC, VERSION, 0, len(body)) + body
    data += _CHECKSUM.pack(xxhash.xxh3_64_intdigest(data))
    assert len(data) <= FILE_HEAD_BYTES, f"a file head of {len(data)} bytes"
    return data.ljust(FILE_HEAD_BYTES, b"\0")


def decode_file_head(data: bytes) -> FileHead:
    """The head at the start of a file. Raises HeaderCorrupt or HeaderUnsupported (another version)."""
    if len(data) < FILE_HEAD_BYTES:
        raise HeaderCorrupt(f"the file has {len(data)} bytes, less than its head")
    magic, version, zero, length = _FILE_PREFIX.unpack_from(data)
    if magic != FILE_MAGIC or zero != 0:
        raise HeaderCorrupt(f"not a data file: it begins with {data[:8].hex()}")
    if version not in READ:
        raise HeaderUnsupported(unread("a data file", version, READ))
    end = _FILE_PREFIX.size + length
    if end + _CHECKSUM.size > FILE_HEAD_BYTES:
        raise HeaderCorrupt("the file's head is longer than its place")
    if _CHECKSUM.unpack_from(data, end)[0] != xxhash.xxh3_64_intdigest(data[:end]):
        raise HeaderCorrupt("the checksum of the file's head does not match")
    return _file_head(data[_FILE_PREFIX.size : end])


def _file_head(body: bytes) -> FileHead:
    try:
        fields: Any = msgpack.unpackb(body, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise HeaderCorrupt(f"the file's head is not msgpack: {error}") from error
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        raise HeaderCorrupt("the file's head does not have exactly the known fields")
    texts = [fields[key] for key in ("stream", "fingerprint", "dtype")]
    numbers = [fields[key] for key in ("number", "layers", "kv_heads", "head_dim")]
    if not all(type(text) is str for text in texts) or not all(type(value) is int for value in numbers):
        raise HeaderCorrupt("a field of the file's head has another type")
    layout = KVLayout(
        layers=fields["layers"],
        kv_heads=fields["kv_heads"],
        head_dim=fields["head_dim"],
        dtype=fields["dtype"],
    )
    identity = Identity(StreamId(fields["stream"]), fields["fingerprint"], layout)
    return FileHead(identity, fields["number"], fields["sink"] is True)


def encode_record(header: BlockHeader, reps: bytes, written_us: int) -> tuple[RecordHead, bytes]:
    """The record's head as fields, and all bytes that come before the payload."""
    encoded = encode_header(header)
    head = RecordHead(
        header_bytes=len(encoded),
        reps_bytes=len(reps),
        number=header.key.number,
        payload_bytes=header.payload_bytes,
        written_us=written_us,
        reps_xxh3=xxhash.xxh3_64_intdigest(reps),
    )
    prefix = _RECORD.pack(RECORD_MAGIC, VERSION, 0, *head)
    prefix += _CHECKSUM.pack(xxhash.xxh3_64_intdigest(prefix))
    return head, b"".join((prefix, encoded, reps)).ljust(head.payload_at, b"\0")


def decode_record_head(data: bytes) -> RecordHead:
    """The prefix at the start of `data`. Raises HeaderCorrupt or HeaderUnsupported."""
    if len(data) < PREFIX_BYTES:
        raise HeaderCorrupt("the record ends inside its prefix")
    magic, version, zero, *fields = _RECORD.unpack_from(data)
    if magic != RECORD_MAGIC or zero != 0:
        raise HeaderCorrupt(f"not a record: it begins with {data[:8].hex()}")
    if _CHECKSUM.unpack_from(data, _RECORD.size)[0] != xxhash.xxh3_64_intdigest(data[: _RECORD.size]):
        raise HeaderCorrupt("the checksum of the record's prefix does not match")
    if version not in READ:
        raise HeaderUnsupported(unread("a record", version, READ))
    head = RecordHead(*fields)
    if (
        head.header_bytes > MAX_HEADER_BYTES
        or head.reps_bytes > MAX_REPS_BYTES
        or head.payload_bytes > MAX_PAYLOAD_BYTES
    ):
        raise HeaderCorrupt("the record's prefix is out of range")
    return head
