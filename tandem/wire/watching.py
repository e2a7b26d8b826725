"""Pure: how a stream is watched, to and from its message."""

from __future__ import annotations

from tandem.core.errors import InvalidInput
from tandem.core.watching import TextPositions, Watching, WatchMode
from tandem.wire.gen.tandem.v1 import types_pb2

_TO_PROTO = {
    WatchMode.OFF: types_pb2.WATCH_MODE_OFF,
    WatchMode.SEGMENT_NOTES: types_pb2.WATCH_MODE_SEGMENT_NOTES,
    WatchMode.CLIP_THINKING: types_pb2.WATCH_MODE_CLIP_THINKING,
    WatchMode.INTERLEAVED: types_pb2.WATCH_MODE_INTERLEAVED,
    WatchMode.CONCURRENT: types_pb2.WATCH_MODE_CONCURRENT,
}
_FROM_PROTO = {value: mode for mode, value in _TO_PROTO.items()}
_POSITIONS_TO_PROTO = {
    TextPositions.ONE_LINE: types_pb2.TEXT_POSITIONS_ONE_LINE,
    TextPositions.TWO_COUNTERS: types_pb2.TEXT_POSITIONS_TWO_COUNTERS,
}
_POSITIONS_FROM_PROTO = {value: positions for positions, value in _POSITIONS_TO_PROTO.items()}


def mode_from_proto(mode: int) -> WatchMode:
    """The mode; OFF for one that this version does not know."""
    return _FROM_PROTO.get(types_pb2.WatchMode.ValueType(mode), WatchMode.OFF)


def watching_to_proto(watching: Watching) -> types_pb2.Watching:
    """The options for the wire."""
    return types_pb2.Watching(
        mode=_TO_PROTO[watching.mode],
        segment_units=watching.segment_units,
        note_tokens=watching.note_tokens,
        prompt=watching.prompt,
        positions=_POSITIONS_TO_PROTO[watching.positions],
    )


def watching_from_proto(message: types_pb2.Watching) -> Watching:
    """The options. Raises InvalidInput that names what is out of range."""
    mode = _FROM_PROTO.get(message.mode)
    if mode is None:
        raise InvalidInput(f"watch mode {message.mode} is not known; set one of WatchMode")
    positions = _POSITIONS_FROM_PROTO.get(message.positions)
    if positions is None:
        raise InvalidInput(f"text positions {message.positions} are not known; set one of TextPositions")
    return Watching(
        mode=mode,
        segment_units=message.segment_units,
        note_tokens=message.note_tokens,
        prompt=message.prompt,
        positions=positions,
    )
