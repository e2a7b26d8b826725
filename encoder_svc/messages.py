"""Pure. The encoder's protobuf messages to and from its own types, total and typed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from encoder_svc.decode.make import MediaKind
from encoder_svc.decode.pictures import PictureFormat, RawPicture
from encoder_svc.decode.source import DecodedFrame, Item, RawChunk, Refusal
from encoder_svc.links import Target
from tandem.core.errors import InvalidInput
from tandem.core.ids import Epoch, StreamId, is_valid_id
from tandem.core.timeline import Gap
from tandem.core.tracing import checked
from tandem.wire.convert import gap_from_proto, gap_to_proto
from tandem.wire.gen.tandem.v1 import encoder_pb2, types_pb2
from tandem.wire.status import error_to_proto

_KINDS = {
    types_pb2.MEDIA_KIND_PICTURES: MediaKind.PICTURES,
    types_pb2.MEDIA_KIND_H264_ANNEX_B: MediaKind.H264_ANNEX_B,
    types_pb2.MEDIA_KIND_H265_ANNEX_B: MediaKind.H265_ANNEX_B,
    types_pb2.MEDIA_KIND_FRAGMENTED_MP4: MediaKind.FRAGMENTED_MP4,
    types_pb2.MEDIA_KIND_MPEG_TS: MediaKind.MPEG_TS,
}
_FORMATS = {
    types_pb2.PICTURE_FORMAT_JPEG: PictureFormat.JPEG,
    types_pb2.PICTURE_FORMAT_PNG: PictureFormat.PNG,
    types_pb2.PICTURE_FORMAT_RGB24: PictureFormat.RGB24,
}
MAX_BLOCK_NUMBER = 1 << 24
"""Longest stream: half a year at one block a second."""
MAX_FPS = 1000.0
MIN_FPS = 0.001
MAX_TENANT_CHARS = 64
MAX_WEIGHT = 1e6


@dataclass(frozen=True, slots=True)
class End:
    """No more media."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """Where to go on."""

    next_block_number: int
    from_us: int
    decoder_header: bytes
    position: int
    begins_us: int = 0
    """Stream time of the first frame where no header says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A stream that is to be encoded here."""

    stream: StreamId
    epoch: Epoch
    kind: MediaKind
    sample_fps: float
    """0: the model's own."""
    nominal_fps: float
    """0: 25."""
    reasoner: Target
    ticket: bytes
    resume: ResumeRequest | None
    incarnation: str = ""
    """Which of the streams that had this id."""
    min_fps: float = 0.0
    """The least that the client accepts under load; 0: `sample_fps`."""
    max_lag_s: float = 0.0
    """Frames that would be watched later than this past their time are left out; 0: never."""
    tenant: str = ""
    weight: float = 1.0
    """Of the tenant."""
    start_fps: float = 0.0
    """What to begin with; 0: `sample_fps`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How far a stream has come."""

    watermark_us: int
    decoded_us: int
    safe_position: int
    decoder_header: bytes | None
    """None when it did not change."""
    next_block_number: int
    gaps: tuple[Gap, ...]
    lag_ms: float
    consumed_position: int
    frames_waiting: int
    sample_fps: float = 0.0
    """What is watched now; 0: not told."""
    rate_reason: str = ""
    """Why that is less than was asked for."""
    decoded: tuple[DecodedFrame, ...] = ()
    """Of an encoded stream: the frames since the last report."""
    decoded_position: int | None = None
    """Of an encoded stream: every frame that begins before it has been decoded, or never will be."""


def opening_from_proto(request: encoder_pb2.EncodeRequest) -> Opening:
    """The first message of a call. Raises InvalidInput when it is not one that can be used."""
    if request.WhichOneof("event") != "open":
        raise InvalidInput(f"the first message must be open, not {request.WhichOneof('event')}")
    message = request.open
    if not is_valid_id(message.stream_id):
        raise InvalidInput(f"stream_id {message.stream_id[:80]!r} is not 1 to 64 of [A-Za-z0-9._-]")
    if not is_valid_id(message.reasoner_name):
        raise InvalidInput(f"reasoner_name {message.reasoner_name[:80]!r} is not a valid id")
    kind = _KINDS.get(message.media.kind)
    if kind is None:
        raise InvalidInput(f"media.kind {message.media.kind} is not one of {sorted(_KINDS)}")
    return Opening(
        stream=StreamId(message.stream_id),
        epoch=Epoch(message.epoch),
        kind=kind,
        sample_fps=_fps("sample_fps", message.media.sample_fps),
        nominal_fps=_fps("nominal_fps", message.media.nominal_fps),
        reasoner=Target(message.reasoner_name, message.reasoner_address),
        ticket=message.ticket,
        resume=_resume(message.resume) if message.HasField("resume") else None,
        incarnation=message.incarnation,
        min_fps=_fps("min_fps", message.media.min_fps),
        max_lag_s=message.media.max_lag_ms / 1000,
        tenant=message.tenant[:MAX_TENANT_CHARS],
        weight=_weight(message.weight),
        start_fps=_fps("start_fps", message.start_fps),
    )


def item_from_proto(request: encoder_pb2.EncodeRequest) -> Item | End | Refusal:
    """Any later message. Raises InvalidInput when the call cannot go on after it."""
    match request.WhichOneof("event"):
        case "picture":
            try:
                return _picture(request.picture, checked(request.traceparent))
            except InvalidInput as error:
                return Refusal(error, request.picture.sequence)
        case "chunk":
            return RawChunk(request.chunk.offset, request.chunk.data, checked(request.traceparent))
        case "gap":
            return gap_from_proto(request.gap)
        case "end":
            return End()
        case other:
            raise InvalidInput(f"message {other} cannot come now")


def progress_to_proto(report: Report) -> encoder_pb2.EncodeResponse.Progress:
    """A report for the wire."""
    return encoder_pb2.EncodeResponse.Progress(
        watermark_us=report.watermark_us,
        decoded_us=report.decoded_us,
        safe_position=report.safe_position,
        decoder_header=report.decoder_header,
        next_block_number=report.next_block_number,
        gaps=[gap_to_proto(gap) for gap in report.gaps],
        lag_ms=report.lag_ms,
        consumed_position=report.consumed_position,
        frames_waiting=report.frames_waiting,
        sample_fps=report.sample_fps,
        rate_reason=report.rate_reason,
        decoded=[
            encoder_pb2.EncodeResponse.DecodedFrame(position=frame.position, time_us=frame.time_us)
            for frame in report.decoded
        ],
        decoded_position=report.decoded_position,
    )


def refused_to_proto(refusal: Refusal) -> encoder_pb2.EncodeResponse.Refused:
    """A refusal for the wire."""
    return encoder_pb2.EncodeResponse.Refused(error=error_to_proto(refusal.error), position=refusal.position)


def _picture(message: types_pb2.Picture, trace: str) -> RawPicture:
    known = _FORMATS.get(message.format)
    if known is None:
        raise InvalidInput(f"picture {message.sequence} has format {message.format}, not JPEG, PNG or RGB24")
    return RawPicture(
        sequence=message.sequence,
        pts_us=message.pts_us,
        format=known,
        data=message.data,
        width=message.width,
        height=message.height,
        trace=trace,
    )


def _resume(message: encoder_pb2.EncodeRequest.Resume) -> ResumeRequest:
    if message.next_block_number > MAX_BLOCK_NUMBER:
        raise InvalidInput(f"resume.next_block_number is out of range: {message.next_block_number}")
    if message.from_us < 0:
        raise InvalidInput(f"resume.from_us is negative: {message.from_us}")
    if not 0 <= message.begins_us <= message.from_us:
        raise InvalidInput(f"resume.begins_us is {message.begins_us}, not between 0 and from_us")
    return ResumeRequest(
        next_block_number=message.next_block_number,
        from_us=message.from_us,
        decoder_header=message.decoder_header,
        position=message.position,
        begins_us=message.begins_us,
    )


def _fps(name: str, value: float) -> float:
    if value == 0:
        return 0.0
    if not math.isfinite(value) or not MIN_FPS <= value <= MAX_FPS:
        raise InvalidInput(f"media.{name} is {value}, not between {MIN_FPS} and {MAX_FPS}")
    return value


def _weight(value: float) -> float:
    if value == 0:
        return 1.0
    if not math.isfinite(value) or not 1 / MAX_WEIGHT <= value <= MAX_WEIGHT:
        raise InvalidInput(f"weight is {value}, not between {1 / MAX_WEIGHT:g} and {MAX_WEIGHT:g}")
    return value
