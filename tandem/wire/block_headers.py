"""Pure. Block headers as protobuf and back, and the checks that all messages of a link share."""

from __future__ import annotations

import sys
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, Codec, KVLayout
from tandem.core.errors import Incompatible, InvalidInput
from tandem.core.ids import StreamId, is_valid_id
from tandem.core.timeline import TimeRange
from tandem.wire.convert import range_from_proto, range_to_proto
from tandem.wire.gen.tandem.v1 import transfer_pb2 as pb

MAX_LIST = 4096
"""Longest repeated field that is accepted."""

_Member = TypeVar("_Member", bound=Enum)
_BLOCK = {kind: pb.BlockKind.Value(f"BLOCK_KIND_{kind.name}") for kind in BlockKind}


def header_to_proto(header: BlockHeader) -> pb.BlockHeader:
    """A block header for the wire."""
    geometry, layout = header.geometry, header.layout
    return pb.BlockHeader(
        stream=header.key.stream,
        number=header.key.number,
        kind=_BLOCK[header.kind],
        text_before=geometry.text_before,
        grid_t=geometry.grid_t,
        grid_h=geometry.grid_h,
        grid_w=geometry.grid_w,
        text_after=geometry.text_after,
        layers=layout.layers,
        kv_heads=layout.kv_heads,
        head_dim=layout.head_dim,
        dtype=layout.dtype,
        fingerprint=header.fingerprint,
        time=range_to_proto(header.time),
        layer_checksums=header.layer_checksums,
        embedding=header.embedding,
        embedder=header.embedder,
        codec=header.codec,
    )


def header_from_proto(message: pb.BlockHeader) -> BlockHeader:
    """A block header from the wire; `kv_transfer.header.check_header` judges its values.

    What is the same in all headers of a stream is one object in memory: there may be very many of them.

    Raises InvalidInput for what no header can hold, Incompatible for an unknown codec.
    """
    codec = Codec.named(message.codec or Codec.RAW.value)
    if codec is None:
        raise Incompatible(f"a block in the codec {message.codec[:80]!r} (known: {', '.join(Codec)})")
    return BlockHeader(
        key=BlockKey(StreamId(sys.intern(stream_id(message.stream))), message.number),
        kind=member_of(_BLOCK, message.kind),
        geometry=_geometry(
            message.text_before, message.grid_t, message.grid_h, message.grid_w, message.text_after
        ),
        layout=_layout(message.layers, message.kv_heads, message.head_dim, message.dtype),
        fingerprint=sys.intern(message.fingerprint),
        time=range_from_proto(message.time) if message.HasField("time") else TimeRange(0, 0),
        layer_checksums=short(message.layer_checksums),
        embedding=message.embedding,
        embedder=message.embedder,
        codec=codec,
    )


@lru_cache(maxsize=1024)
def _geometry(text_before: int, grid_t: int, grid_h: int, grid_w: int, text_after: int) -> BlockGeometry:
    return BlockGeometry(
        text_before=text_before, grid_t=grid_t, grid_h=grid_h, grid_w=grid_w, text_after=text_after
    )


@lru_cache(maxsize=64)
def _layout(layers: int, kv_heads: int, head_dim: int, dtype: str) -> KVLayout:
    return KVLayout(layers=layers, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)


def member_of(table: dict[_Member, Any], number: int) -> _Member:
    """The member of an enum that a number on the wire names. Raises InvalidInput for an unknown one."""
    member = next((member for member, value in table.items() if value == number), None)
    if member is not None:
        return member
    raise InvalidInput(f"unknown value {number} of {type(next(iter(table))).__name__}")


def short(values: Any) -> tuple[Any, ...]:
    """A repeated field. Raises InvalidInput when it is longer than `MAX_LIST`."""
    if len(values) > MAX_LIST:
        raise InvalidInput(f"a list of {len(values)} items, at most {MAX_LIST} are accepted")
    return tuple(values)


def stream_id(text: str) -> StreamId:
    """A stream's id. Raises InvalidInput for what cannot be one."""
    if not is_valid_id(text):
        raise InvalidInput(f"not a stream id: {text[:80]!r}")
    return StreamId(text)
