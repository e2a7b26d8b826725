"""Pure but for its types: a session to and from what the journal holds of it."""

from __future__ import annotations

import contextlib

from google.protobuf.message import DecodeError

from orchestrator.checkpoints import Checkpoint
from orchestrator.inventory import Inventory
from orchestrator.journal import Record
from orchestrator.session import Session
from tandem.core.timeline import GapReason
from tandem.wire.gen.tandem.v1 import types_pb2


def to_record(session: Session) -> Record:
    """What to write of a session: its place to start when all services are lost, where the client goes on."""
    place = session.checkpoints.safe(session.timeline.durable_us, is_bytes=session.is_bytes)
    return Record(
        stream_id=session.stream_id,
        name=session.name,
        nonce=session.nonce,
        epoch=session.epoch,
        media_kind=session.media.kind,
        sample_fps=session.media.sample_fps,
        nominal_fps=session.media.nominal_fps,
        safe_position=place.position,
        checkpoint_us=place.time_us,
        watermark_us=session.timeline.watermark_us,
        reasoner=session.reasoner,
        decoder_header=place.decoder_header,
        gaps=tuple(session.timeline.gaps),
        watching=session.watching.SerializeToString(),
        tenant=session.terms.tenant,
        min_fps=session.media.min_fps,
        max_lag_ms=session.media.max_lag_ms,
    )


def media_of(record: Record) -> types_pb2.MediaOptions:
    """What its client asked for."""
    return types_pb2.MediaOptions(
        kind=types_pb2.MediaKind.ValueType(record.media_kind),
        sample_fps=record.sample_fps,
        nominal_fps=record.nominal_fps,
        min_fps=record.min_fps,
        max_lag_ms=record.max_lag_ms,
    )


def hear_again(session: Session, wish: types_pb2.MediaOptions) -> None:
    """A client that comes back says anew what it can do without: from the next placement on it counts.

    The least rate may fall and not rise: the stream was let in with room for the former one, and only that is
    kept for it.
    """
    media = session.media
    least_fps = media.min_fps or media.sample_fps or session.model.native_fps
    if wish.min_fps and least_fps:
        media.min_fps = min(wish.min_fps, least_fps)
    media.max_lag_ms = wish.max_lag_ms
    session.journal_due = True


def place_of(record: Record) -> Checkpoint:
    """Where the client goes on."""
    return Checkpoint(
        position=record.safe_position, time_us=record.checkpoint_us, decoder_header=record.decoder_header
    )


def restore(session: Session, record: Record) -> None:
    """Put a new session where a former orchestrator left the stream. Its media is the client's to send."""
    wish, session.media = session.media, media_of(record)
    hear_again(session, wish)
    with contextlib.suppress(DecodeError):
        session.watching.ParseFromString(record.watching)
    session.nonce, session.name = record.nonce, record.name or record.stream_id
    session.epoch = record.epoch
    session.reasoner = record.reasoner
    session.loss = GapReason.ORCHESTRATOR_LOST
    session.start_at(place_of(record), watermark_us=record.watermark_us, gaps=record.gaps)


def place_at_holder(session: Session, inventory: Inventory) -> bool:
    """What is really held decides, where it is known: the journal may be half a second behind.

    False when nobody is known to hold this life of the stream.
    """
    holding = inventory.find(session.stream_id, session.nonce, session.reasoner)
    if holding is not None:
        session.reasoner, session.epoch = holding.reasoner, max(session.epoch, holding.epoch)
    inventory.forget(session.stream_id)
    return holding is not None
