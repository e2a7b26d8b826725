"""Pure. The block header as bytes: on disk and wherever a block travels alone.

Knows nothing of payloads. The format is in `docs/kv-format.md`::

    b"TKVB" | u16 version | u16 zero | u32 length of the map | msgpack map | u64 xxh3-64 of all before

Numbers are little-endian. Decoding trusts nothing: sizes, exact keys, types, ranges, and the checksum.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import xxhash

from tandem.core.block_fields import header_fields
from tandem.core.blocks import (
    DTYPE_BYTES,
    EMBEDDER_DIGITS,
    EMBEDDING_NUMBER_BYTES,
    MAX_EMBEDDING_NUMBERS,
    BlockGeometry,
    BlockHeader,
    BlockKey,
    BlockKind,
    Codec,
    KVLayout,
)
from tandem.core.errors import DataLost, Incompatible, InvalidInput
from tandem.core.ids import StreamId, is_valid_id
from tandem.core.timeline import TimeRange
from tandem.core.versions import Spoken, unread

MAGIC = b"TKVB"
VERSION = 3
"""What is written."""
READ = Spoken(1, VERSION)
"""What is read: version 1 has no embedding, 2 does not say by whom (it is left out)."""
MAX_HEADER_BYTES = 65_536
"""Longest encoded header; longer input is refused unread."""
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_DIM = 4096
MAX_TOKENS = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 32
"""Largest payload of one block: 4 GiB."""
MAX_EMBEDDING_BYTES = EMBEDDING_NUMBER_BYTES * MAX_EMBEDDING_NUMBERS
LENGTH_TOLERANCE = 0.01
"""How far an embedding's length may lie from 1; rounding to float16 moves it by 0.0005 at most."""
_MAX_TIME_US = 1 << 62

_PREFIX = struct.Struct("<4sHHI")
_CHECKSUM = struct.Struct("<Q")
_KEYS_1 = frozenset(
    (
        *("stream", "number", "kind", "text_before", "grid", "text_after", "layers", "kv_heads", "head_dim"),
        *("dtype", "fingerprint", "start_us", "end_us", "tokens", "payload_bytes", "codec", "layer_xxh3"),
    )
)
_KEYS_OF = {1: _KEYS_1, 2: _KEYS_1 | {"embedding"}, 3: _KEYS_1 | {"embedding", "embedder"}}


class HeaderCorrupt(DataLost):
    """The bytes are not a whole, undamaged block header."""


class HeaderUnsupported(Incompatible):
    """A header of a version or codec that this program does not know."""


class HeaderInvalid(InvalidInput):
    """A well-formed header that describes an impossible block."""


def encode_header(header: BlockHeader) -> bytes:
    """The header as bytes. Raises HeaderInvalid when a field is out of range."""
    check_header(header)
    checksums = struct.pack(f"<{header.layout.layers}Q", *header.layer_checksums)
    body: bytes = msgpack.packb(
        header_fields(header, checksums),
        use_bin_type=True,
    )
    data = _PREFIX.pack(MAGIC, VERSION, 0, len(body)) + body
    return data + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(data))


def decode_header(data: bytes | bytearray | memoryview) -> tuple[BlockHeader, int]:
    """The header at the start of `data`, and how many bytes it took.

    Raises HeaderCorrupt (damaged or cut off), HeaderUnsupported (version, codec), HeaderInvalid (values).
    """
    view = memoryview(data)[:MAX_HEADER_BYTES]
    if len(view) < _PREFIX.size + _CHECKSUM.size:
        raise HeaderCorrupt(f"a block header cannot have {len(view)} bytes")
    magic, version, zero, length = _PREFIX.unpack_from(view)
    if magic != MAGIC or zero != 0:
        raise HeaderCorrupt(f"not a block header: it begins with {bytes(view[:8]).hex()}")
    if version not in READ:
        raise HeaderUnsupported(unread("a block header", version, READ))
    end = _PREFIX.size + length
    if end + _CHECKSUM.size > len(view):
        raise HeaderCorrupt(f"the block header ends early: {len(view)} of {end + _CHECKSUM.size} bytes")
    if _CHECKSUM.unpack_from(view, end)[0] != xxhash.xxh3_64_intdigest(view[:end]):
        raise HeaderCorrupt("the block header's checksum does not match")
    return _from_map(_unpack(bytes(view[_PREFIX.size : end]), _KEYS_OF[version])), end + _CHECKSUM.size


def check_header(header: BlockHeader) -> None:
    """Raise HeaderInvalid unless every field is in range and they agree with each other."""
    geometry, layout, time = header.geometry, header.layout, header.time
    grid = (geometry.grid_t, geometry.grid_h, geometry.grid_w)
    _require(is_valid_id(header.key.stream), f"stream id {header.key.stream!r}")
    _require(0 <= header.key.number < 1 << 63, f"block number {header.key.number}")
    _require(min(geometry.text_before, geometry.text_after, *grid) >= 0, f"negative geometry {geometry}")
    _require(all(grid) or not any(grid), f"grid {grid} is neither empty nor full")
    _require(0 < header.tokens <= MAX_TOKENS, f"{header.tokens} tokens")
    _require(0 < layout.layers <= MAX_LAYERS, f"{layout.layers} layers")
    _require(0 < layout.kv_heads <= MAX_HEADS, f"{layout.kv_heads} KV heads")
    _require(0 < layout.head_dim <= MAX_HEAD_DIM, f"head dimension {layout.head_dim}")
    _require(layout.dtype in DTYPE_BYTES, f"dtype {layout.dtype!r}")
    _require(header.payload_bytes <= MAX_PAYLOAD_BYTES, f"payload of {header.payload_bytes} bytes")
    _require(_is_hex(header.fingerprint, 32), f"fingerprint {header.fingerprint!r}")
    _require(-_MAX_TIME_US <= time.start_us <= time.end_us < _MAX_TIME_US, f"time {time}")
    _require(len(header.layer_checksums) == layout.layers, f"{len(header.layer_checksums)} checksums")
    _require(all(0 <= value < 1 << 64 for value in header.layer_checksums), "a checksum over 64 bits")
    _check_embedding(header.embedding)
    digits = EMBEDDER_DIGITS if header.embedding else 0
    _require(_is_hex(header.embedder, digits), f"embedder {header.embedder!r}")


def _check_embedding(embedding: bytes) -> None:
    if not embedding:
        return
    size_bytes = len(embedding)
    _require(size_bytes % EMBEDDING_NUMBER_BYTES == 0, "an embedding that is not float16 numbers")
    _require(size_bytes <= MAX_EMBEDDING_BYTES, f"an embedding of {size_bytes} bytes")
    length = math.hypot(*struct.unpack(f"<{size_bytes // EMBEDDING_NUMBER_BYTES}e", embedding))
    # Written so that NaN, which compares with nothing, is refused.
    _require(abs(length - 1) <= LENGTH_TOLERANCE, f"an embedding of length {length}, not 1")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise HeaderInvalid(f"impossible block header: {what}")


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and all(c in "0123456789abcdef" for c in text)


def _unpack(body: bytes, keys: frozenset[str]) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_str_len=256,
            max_bin_len=max(8 * MAX_LAYERS, MAX_EMBEDDING_BYTES),
            max_array_len=3,
            max_map_len=len(keys),
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise HeaderCorrupt(f"the block header is not msgpack: {error}") from error
    if not isinstance(value, dict) or value.keys() != keys:
        raise HeaderCorrupt("the block header does not have exactly the known fields")
    return value


def _from_map(fields: dict[str, Any]) -> BlockHeader:
    codec = Codec.named(fields["codec"])
    if codec is None:
        raise HeaderUnsupported(f"unknown payload codec {fields['codec']!r}")
    grid, sums = fields["grid"], fields["layer_xxh3"]
    embedding, embedder = (
        (fields["embedding"], _string(fields["embedder"])) if "embedder" in fields else (b"", "")
    )
    _require(isinstance(grid, list) and len(grid) == 3, "a grid that is not three numbers")
    _require(isinstance(sums, bytes) and len(sums) % 8 == 0, "checksums that are not 64-bit words")
    _require(isinstance(embedding, bytes), "an embedding that is not bytes")
    start_us, end_us = _integer(fields["start_us"]), _integer(fields["end_us"])
    _require(start_us <= end_us, "a time that ends before it starts")
    _require(_integer(fields["kind"]) in BlockKind.__members__.values(), f"kind {fields['kind']}")
    header = BlockHeader(
        key=BlockKey(StreamId(_string(fields["stream"])), _integer(fields["number"])),
        kind=BlockKind(fields["kind"]),
        geometry=BlockGeometry(
            text_before=_integer(fields["text_before"]),
            grid_t=_integer(grid[0]),
            grid_h=_integer(grid[1]),
            grid_w=_integer(grid[2]),
            text_after=_integer(fields["text_after"]),
        ),
        layout=KVLayout(
            layers=_integer(fields["layers"]),
            kv_heads=_integer(fields["kv_heads"]),
            head_dim=_integer(fields["head_dim"]),
            dtype=_string(fields["dtype"]),
        ),
        fingerprint=_string(fields["fingerprint"]),
        time=TimeRange(start_us, end_us),
        layer_checksums=struct.unpack(f"<{len(sums) // 8}Q", sums),
        embedding=embedding,
        embedder=embedder,
        codec=codec,
    )
    check_header(header)
    _require(fields["tokens"] == header.tokens, "a token count that differs from the geometry")
    _require(fields["payload_bytes"] == header.payload_bytes, "a payload length that differs from the shape")
    return header


def _integer(value: object) -> int:
    if type(value) is not int:
        raise HeaderInvalid(f"impossible block header: {value!r} where a number belongs")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise HeaderInvalid(f"impossible block header: {value!r} where text belongs")
    return value
