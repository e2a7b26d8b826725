"""Pure: messages to and from the types of `tandem.core`, both ways and total."""

from __future__ import annotations

from collections.abc import Iterable

from tandem.core.errors import InvalidInput
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.wire.gen.tandem.v1 import types_pb2

_REASON_TO_PROTO = {
    GapReason.UNDECODABLE: types_pb2.GAP_REASON_UNDECODABLE,
    GapReason.BACKLOG_FULL: types_pb2.GAP_REASON_BACKLOG_FULL,
    GapReason.OVERLOAD: types_pb2.GAP_REASON_OVERLOAD,
    GapReason.REASONER_LOST: types_pb2.GAP_REASON_REASONER_LOST,
    GapReason.ORCHESTRATOR_LOST: types_pb2.GAP_REASON_ORCHESTRATOR_LOST,
    GapReason.EVICTED: types_pb2.GAP_REASON_EVICTED,
    GapReason.SOURCE: types_pb2.GAP_REASON_SOURCE,
}
_REASON_FROM_PROTO = {number: reason for reason, number in _REASON_TO_PROTO.items()}


def range_to_proto(value: TimeRange) -> types_pb2.TimeRange:
    """A time range for the wire."""
    return types_pb2.TimeRange(start_us=value.start_us, end_us=value.end_us)


def range_from_proto(message: types_pb2.TimeRange) -> TimeRange:
    """A time range from the wire. Raises `InvalidInput` when it ends before it starts."""
    if message.end_us < message.start_us:
        raise InvalidInput(f"time range ends before it starts: [{message.start_us}, {message.end_us}) us")
    return TimeRange(message.start_us, message.end_us)


def ranges_to_proto(values: Iterable[TimeRange]) -> list[types_pb2.TimeRange]:
    """Time ranges for the wire."""
    return [range_to_proto(value) for value in values]


def gap_to_proto(gap: Gap) -> types_pb2.Gap:
    """A gap for the wire."""
    return types_pb2.Gap(range=range_to_proto(gap.range), reason=_REASON_TO_PROTO[gap.reason])


def gap_from_proto(message: types_pb2.Gap) -> Gap:
    """A gap from the wire. Raises `InvalidInput` for a reason this version does not know."""
    reason = _REASON_FROM_PROTO.get(message.reason)
    if reason is None:
        raise InvalidInput(f"unknown gap reason {message.reason}")
    return Gap(range_from_proto(message.range), reason)
