"""Pure. What an encoder says of its progress, judged."""

from __future__ import annotations

from orchestrator.timeline import MAX_FRAMES, EncoderProgress
from tandem.core.errors import BadTimestamp
from tandem.wire.gen.tandem.v1 import encoder_pb2


def progress_from_proto(message: encoder_pb2.EncodeResponse.Progress) -> EncoderProgress:
    """Raises `BadTimestamp` for times that cannot be."""
    if message.watermark_us < 0 or message.decoded_us < 0:
        raise BadTimestamp(f"the encoder reports times before 0: {message.watermark_us} us")
    return EncoderProgress(
        watermark_us=message.watermark_us,
        decoded_us=message.decoded_us,
        safe_position=message.safe_position,
        consumed_position=message.consumed_position,
        next_block_number=message.next_block_number,
        frames_waiting=message.frames_waiting,
        lag_ms=message.lag_ms,
        frames=tuple((frame.position, frame.time_us) for frame in message.decoded[-MAX_FRAMES:]),
        decoded_position=message.decoded_position if message.HasField("decoded_position") else None,
    )
