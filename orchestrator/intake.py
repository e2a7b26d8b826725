"""Shell without waiting: what a client sends as media, judged and put into its session.

Positions that came before are ignored, so that a client may repeat itself after a resume. A position that is
refused is used up: the client does not send it again.
"""

from __future__ import annotations

from orchestrator.limits import check_data, check_pts, check_rates, check_raw_picture
from orchestrator.session import Session
from tandem.core.errors import InvalidInput, WrongState
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.wire.gen.tandem.v1 import types_pb2

MAX_OFFSET = 1 << 62
_KINDS = frozenset(types_pb2.MediaKind.values()) - {types_pb2.MEDIA_KIND_UNSPECIFIED}
_FILES = frozenset({types_pb2.PICTURE_FORMAT_JPEG, types_pb2.PICTURE_FORMAT_PNG})


def receive_picture(session: Session, picture: types_pb2.Picture) -> None:
    """Take a picture in. Raises what the client is told."""
    if session.is_bytes:
        raise InvalidInput("a picture in a stream of bytes")
    if picture.sequence < session.next_position:
        return
    _check_not_ended(session)
    if picture.sequence >= MAX_OFFSET:
        raise InvalidInput(f"picture sequence {picture.sequence} is out of range")
    was_skipped = picture.sequence > session.next_position
    session.next_position = picture.sequence + 1
    _check_picture(session, picture)
    _declare_what_never_came(session, picture.pts_us, was_skipped=was_skipped)
    session.last_pts_us = picture.pts_us
    data, picture.data = picture.data, b""
    session.append(picture.sequence, 1, picture.pts_us, data, picture)
    session.timeline.receive(picture.pts_us + 1)


def receive_chunk(session: Session, chunk: types_pb2.Chunk) -> None:
    """Take bytes in, without the part that came before. Raises what the client is told."""
    if not session.is_bytes:
        raise InvalidInput("a chunk of bytes in a stream of pictures")
    check_data(session.settings.limits, len(chunk.data))
    if chunk.offset + len(chunk.data) > MAX_OFFSET:
        raise InvalidInput(f"chunk offset {chunk.offset} is out of range")
    known = session.next_position - chunk.offset
    if known >= len(chunk.data):
        return
    _check_not_ended(session)
    data = chunk.data[known:] if known > 0 else chunk.data
    position = max(chunk.offset, session.next_position)
    session.append(position, len(data), session.timeline.decoded_us, data, None)
    session.next_position = position + len(data)


def _check_not_ended(session: Session) -> None:
    if session.media_ended:
        raise WrongState("media after End; open a new stream")


def _check_picture(session: Session, picture: types_pb2.Picture) -> None:
    limits = session.settings.limits
    check_pts(picture.pts_us, session.last_pts_us)
    check_data(limits, len(picture.data))
    if picture.format == types_pb2.PICTURE_FORMAT_RGB24:
        check_raw_picture(limits, picture.width, picture.height, len(picture.data))
    elif picture.format not in _FILES:
        raise InvalidInput(f"picture {picture.sequence} has no known format ({picture.format})")


def _declare_what_never_came(session: Session, pts_us: int, *, was_skipped: bool) -> None:
    received_us = session.timeline.received_us
    if session.lost_start and pts_us > received_us:
        session.timeline.declare(Gap(TimeRange(received_us, pts_us), GapReason.ORCHESTRATOR_LOST))
    session.lost_start = False
    if was_skipped and pts_us > received_us:
        session.timeline.declare(Gap(TimeRange(received_us, pts_us), GapReason.SOURCE))


def check_media(media: types_pb2.MediaOptions) -> None:
    """Raises `InvalidInput` for a kind this version does not know, or absurd rates."""
    if media.kind not in _KINDS:
        raise InvalidInput(f"media kind {media.kind} is not known; set one of MediaKind")
    check_rates(media.sample_fps, media.nominal_fps, media.min_fps)
