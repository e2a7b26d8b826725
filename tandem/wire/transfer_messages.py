"""Pure: control messages of `tandem.core.transfer` to and from protobuf, both ways and total.

Only form is judged here (known enums, lengths, ids); whether a message makes sense now is for
`kv_transfer.protocol`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from tandem.core import transfer as core
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, KVLayout
from tandem.core.errors import InvalidInput
from tandem.core.ids import StreamId, is_valid_id
from tandem.core.timeline import TimeRange
from tandem.wire.convert import range_from_proto, range_to_proto
from tandem.wire.gen.tandem.v1 import transfer_pb2 as pb
from tandem.wire.gen.tandem.v1 import types_pb2

MAX_LIST = 4096
"""Longest repeated field that is accepted."""
MAX_VALUE_BYTES = 65_536
"""Longest rendezvous value that is accepted."""

_Member = TypeVar("_Member", bound=Enum)
_LANE = {kind: pb.LaneKind.Value(f"LANE_KIND_{kind.name}") for kind in core.LaneKind}
_DIRECTION = {way: pb.LaneDirection.Value(f"LANE_DIRECTION_{way.name}") for way in core.Direction}
_CLASS = {size: pb.FrameClass.Value(f"FRAME_CLASS_{size.name}") for size in core.FrameClass}
_NACK = {code: pb.NackCode.Value(f"NACK_CODE_{code.name}") for code in core.NackCode}
_BLOCK = {kind: pb.BlockKind.Value(f"BLOCK_KIND_{kind.name}") for kind in BlockKind}


def message_to_proto(message: core.ControlMessage) -> pb.ControlMessage:
    """A control message for the wire."""
    name, convert = _TO_PROTO[type(message)]
    return pb.ControlMessage(**{name: convert(message)})


def message_from_proto(message: pb.ControlMessage) -> core.ControlMessage:
    """A control message from the wire. Raises `InvalidInput` for one that this version cannot read."""
    name = message.WhichOneof("kind")
    if name is None:
        raise InvalidInput("a control message of an unknown kind")
    try:
        result: core.ControlMessage = _FROM_PROTO[name](getattr(message, name))
    except ValueError as error:
        raise InvalidInput(f"a malformed {name} message: {error}") from error
    return result


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
    )


def header_from_proto(message: pb.BlockHeader) -> BlockHeader:
    """A block header from the wire; `kv_transfer.header.check_header` judges its values."""
    return BlockHeader(
        key=BlockKey(_stream(message.stream), message.number),
        kind=_member(_BLOCK, message.kind),
        geometry=BlockGeometry(
            text_before=message.text_before,
            grid_t=message.grid_t,
            grid_h=message.grid_h,
            grid_w=message.grid_w,
            text_after=message.text_after,
        ),
        layout=KVLayout(
            layers=message.layers,
            kv_heads=message.kv_heads,
            head_dim=message.head_dim,
            dtype=message.dtype,
        ),
        fingerprint=message.fingerprint,
        time=range_from_proto(message.time) if message.HasField("time") else TimeRange(0, 0),
        layer_checksums=_short(message.layer_checksums),
        embedding=message.embedding,
    )


def _member(table: dict[_Member, Any], number: int) -> _Member:
    member = next((member for member, value in table.items() if value == number), None)
    if member is not None:
        return member
    raise InvalidInput(f"unknown value {number} of {type(next(iter(table))).__name__}")


def _short(values: Any) -> tuple[Any, ...]:
    if len(values) > MAX_LIST:
        raise InvalidInput(f"a list of {len(values)} items, at most {MAX_LIST} are accepted")
    return tuple(values)


def _stream(text: str) -> StreamId:
    if not is_valid_id(text):
        raise InvalidInput(f"not a stream id: {text[:80]!r}")
    return StreamId(text)


def _seconds(message: Any) -> float | None:
    return message.retry_after_s if message.HasField("retry_after_s") else None


def _hello(m: core.Hello) -> pb.Hello:
    return pb.Hello(
        major=m.major,
        minor=m.minor,
        fingerprint=m.fingerprint,
        boot_id=m.boot_id,
        ticket=m.ticket,
        lanes=[pb.LaneOffer(kind=_LANE[offer.kind], token=offer.token) for offer in m.lanes],
    )


def _hello_back(m: pb.Hello) -> core.Hello:
    # Kinds that this version does not know are left out: a newer peer may offer them.
    known = set(_LANE.values())
    offers = [core.LaneOffer(kind=_member(_LANE, o.kind), token=o.token) for o in m.lanes if o.kind in known]
    return core.Hello(
        major=m.major,
        minor=m.minor,
        fingerprint=m.fingerprint,
        boot_id=m.boot_id,
        ticket=m.ticket,
        lanes=tuple(offers),
    )


def _hello_ack(m: core.HelloAck) -> pb.HelloAck:
    return pb.HelloAck(
        major=m.major,
        minor=m.minor,
        fingerprint=m.fingerprint,
        boot_id=m.boot_id,
        lanes=[_LANE[kind] for kind in m.lanes],
        shm_proof=m.shm_proof,
    )


def _hello_ack_back(m: pb.HelloAck) -> core.HelloAck:
    return core.HelloAck(
        major=m.major,
        minor=m.minor,
        fingerprint=m.fingerprint,
        boot_id=m.boot_id,
        lanes=tuple(_member(_LANE, kind) for kind in _short(m.lanes)),
        shm_proof=m.shm_proof,
    )


def _store_set_back(m: pb.StoreSet) -> core.StoreSet:
    if len(m.key) > 256 or len(m.value) > MAX_VALUE_BYTES:
        raise InvalidInput(f"a rendezvous key of {len(m.key)} characters or value of {len(m.value)} bytes")
    way = _member(_DIRECTION, m.direction)
    return core.StoreSet(direction=way, lane_epoch=m.lane_epoch, key=m.key, value=m.value)


def _grant(m: core.Grant) -> pb.Grant:
    return pb.Grant(
        transfer_id=m.transfer_id,
        attempt=m.attempt,
        lane_epoch=m.lane_epoch,
        frame_class=_CLASS[m.frame_class],
        blocks=[pb.BlockGrant(index=block.index, layers=block.layers) for block in m.blocks],
        have=m.have,
        refused=m.refused,
        retry_after_s=m.retry_after_s,
    )


def _grant_back(m: pb.Grant) -> core.Grant:
    return core.Grant(
        transfer_id=m.transfer_id,
        attempt=m.attempt,
        lane_epoch=m.lane_epoch,
        frame_class=_member(_CLASS, m.frame_class),
        blocks=tuple(core.BlockGrant(index=b.index, layers=_short(b.layers)) for b in _short(m.blocks)),
        have=_short(m.have),
        refused=_short(m.refused),
        retry_after_s=_seconds(m),
    )


def _refused(m: core.FetchRefused) -> pb.FetchRefused:
    retry_ms = round((m.retry_after_s or 0.0) * 1000)
    error = types_pb2.Error(code=m.code, message=m.message, retry_after_ms=retry_ms)
    return pb.FetchRefused(request_id=m.request_id, error=error)


def _refused_back(m: pb.FetchRefused) -> core.FetchRefused:
    retry_s = m.error.retry_after_ms / 1000 if m.error.retry_after_ms else None
    return core.FetchRefused(
        request_id=m.request_id, code=m.error.code, message=m.error.message, retry_after_s=retry_s
    )


_TO_PROTO: dict[type, tuple[str, Callable[[Any], Any]]] = {
    core.Hello: ("hello", _hello),
    core.HelloAck: ("hello_ack", _hello_ack),
    core.Nack: (
        "nack",
        lambda m: pb.Nack(
            transfer_id=m.transfer_id,
            code=_NACK[m.code],
            message=m.message,
            retry_after_s=m.retry_after_s,
        ),
    ),
    core.LaneOpen: (
        "lane_open",
        lambda m: pb.LaneOpen(direction=_DIRECTION[m.direction], lane_epoch=m.lane_epoch, kind=_LANE[m.kind]),
    ),
    core.LaneBroken: (
        "lane_broken",
        lambda m: pb.LaneBroken(direction=_DIRECTION[m.direction], lane_epoch=m.lane_epoch, reason=m.reason),
    ),
    core.StoreSet: (
        "store_set",
        lambda m: pb.StoreSet(
            direction=_DIRECTION[m.direction], lane_epoch=m.lane_epoch, key=m.key, value=m.value
        ),
    ),
    core.Offer: (
        "offer",
        lambda m: pb.Offer(
            transfer_id=m.transfer_id,
            headers=[header_to_proto(header) for header in m.headers],
            timeout_s=m.timeout_s,
            request_id=m.request_id,
        ),
    ),
    core.Grant: ("grant", _grant),
    core.Ack: ("ack", lambda m: pb.Ack(transfer_id=m.transfer_id, published=m.published)),
    core.Cancel: ("cancel", lambda m: pb.Cancel(transfer_id=m.transfer_id, reason=m.reason)),
    core.Fetch: (
        "fetch",
        lambda m: pb.Fetch(
            request_id=m.request_id, stream=m.stream, numbers=m.numbers, timeout_s=m.timeout_s
        ),
    ),
    core.FetchRefused: ("fetch_refused", _refused),
    core.Heartbeat: ("heartbeat", lambda m: pb.Heartbeat(sequence=m.sequence)),
    core.Bye: ("bye", lambda m: pb.Bye(reason=m.reason)),
}

_FROM_PROTO: dict[str, Callable[[Any], core.ControlMessage]] = {
    "hello": _hello_back,
    "hello_ack": _hello_ack_back,
    "nack": lambda m: core.Nack(
        transfer_id=m.transfer_id,
        code=_member(_NACK, m.code),
        message=m.message,
        retry_after_s=_seconds(m),
    ),
    "lane_open": lambda m: core.LaneOpen(
        direction=_member(_DIRECTION, m.direction),
        lane_epoch=m.lane_epoch,
        kind=_member(_LANE, m.kind),
    ),
    "lane_broken": lambda m: core.LaneBroken(
        direction=_member(_DIRECTION, m.direction), lane_epoch=m.lane_epoch, reason=m.reason
    ),
    "store_set": _store_set_back,
    "offer": lambda m: core.Offer(
        transfer_id=m.transfer_id,
        headers=tuple(header_from_proto(header) for header in _short(m.headers)),
        timeout_s=m.timeout_s,
        request_id=m.request_id,
    ),
    "grant": _grant_back,
    "ack": lambda m: core.Ack(transfer_id=m.transfer_id, published=_short(m.published)),
    "cancel": lambda m: core.Cancel(transfer_id=m.transfer_id, reason=m.reason),
    "fetch": lambda m: core.Fetch(
        request_id=m.request_id,
        stream=_stream(m.stream),
        numbers=_short(m.numbers),
        timeout_s=m.timeout_s,
    ),
    "fetch_refused": _refused_back,
    "heartbeat": lambda m: core.Heartbeat(sequence=m.sequence),
    "bye": lambda m: core.Bye(reason=m.reason),
}
