"""Pure: control messages of `tandem.core.transfer` to and from protobuf, both ways and total.

Only form is judged here (known enums, lengths, ids); whether a message makes sense now is for
`kv_transfer.protocol`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tandem.core import transfer as core
from tandem.core.errors import InvalidInput
from tandem.core.tracing import checked
from tandem.wire.block_headers import header_from_proto, header_to_proto, member_of, short, stream_id
from tandem.wire.gen.tandem.v1 import transfer_pb2 as pb
from tandem.wire.gen.tandem.v1 import types_pb2

MAX_LANES = 16
"""Most lanes of a hello: it is read before its ticket is judged."""
MAX_VALUE_BYTES = 65_536
"""Longest rendezvous value that is accepted."""

_LANE = {kind: pb.LaneKind.Value(f"LANE_KIND_{kind.name}") for kind in core.LaneKind}
_DIRECTION = {way: pb.LaneDirection.Value(f"LANE_DIRECTION_{way.name}") for way in core.Direction}
_CLASS = {size: pb.FrameClass.Value(f"FRAME_CLASS_{size.name}") for size in core.FrameClass}
_NACK = {code: pb.NackCode.Value(f"NACK_CODE_{code.name}") for code in core.NackCode}


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


def _seconds(message: Any) -> float | None:
    return message.retry_after_s if message.HasField("retry_after_s") else None


def _hello(m: core.Hello) -> pb.Hello:
    return pb.Hello(
        major=m.major,
        minor=m.minor,
        newest_major=m.newest_major,
        fingerprint=m.fingerprint,
        boot_id=m.boot_id,
        ticket=m.ticket,
        lanes=[pb.LaneOffer(kind=_LANE[offer.kind], token=offer.token) for offer in m.lanes],
    )


def _hello_back(m: pb.Hello) -> core.Hello:
    # Kinds that this version does not know are left out: a newer peer may offer them.
    if len(m.lanes) > MAX_LANES:
        raise InvalidInput(f"a hello with {len(m.lanes)} lanes, at most {MAX_LANES} are accepted")
    known = set(_LANE.values())
    offers = [
        core.LaneOffer(kind=member_of(_LANE, o.kind), token=o.token) for o in m.lanes if o.kind in known
    ]
    return core.Hello(
        major=m.major,
        minor=m.minor,
        newest_major=m.newest_major,
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
        lanes=tuple(member_of(_LANE, kind) for kind in short(m.lanes)),
        shm_proof=m.shm_proof,
    )


def _store_set_back(m: pb.StoreSet) -> core.StoreSet:
    if len(m.key) > 256 or len(m.value) > MAX_VALUE_BYTES:
        raise InvalidInput(f"a rendezvous key of {len(m.key)} characters or value of {len(m.value)} bytes")
    way = member_of(_DIRECTION, m.direction)
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
        frame_class=member_of(_CLASS, m.frame_class),
        blocks=tuple(core.BlockGrant(index=b.index, layers=short(b.layers)) for b in short(m.blocks)),
        have=short(m.have),
        refused=short(m.refused),
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
            traceparent=m.trace,
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
        code=member_of(_NACK, m.code),
        message=m.message,
        retry_after_s=_seconds(m),
    ),
    "lane_open": lambda m: core.LaneOpen(
        direction=member_of(_DIRECTION, m.direction),
        lane_epoch=m.lane_epoch,
        kind=member_of(_LANE, m.kind),
    ),
    "lane_broken": lambda m: core.LaneBroken(
        direction=member_of(_DIRECTION, m.direction), lane_epoch=m.lane_epoch, reason=m.reason
    ),
    "store_set": _store_set_back,
    "offer": lambda m: core.Offer(
        transfer_id=m.transfer_id,
        headers=tuple(header_from_proto(header) for header in short(m.headers)),
        timeout_s=m.timeout_s,
        request_id=m.request_id,
        trace=checked(m.traceparent),
    ),
    "grant": _grant_back,
    "ack": lambda m: core.Ack(transfer_id=m.transfer_id, published=short(m.published)),
    "cancel": lambda m: core.Cancel(transfer_id=m.transfer_id, reason=m.reason),
    "fetch": lambda m: core.Fetch(
        request_id=m.request_id,
        stream=stream_id(m.stream),
        numbers=short(m.numbers),
        timeout_s=m.timeout_s,
    ),
    "fetch_refused": _refused_back,
    "heartbeat": lambda m: core.Heartbeat(sequence=m.sequence),
    "bye": lambda m: core.Bye(reason=m.reason),
}
