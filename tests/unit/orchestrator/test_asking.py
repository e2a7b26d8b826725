"""What time a question is about, and how long it waits for something to answer from."""

import math

import pytest

from orchestrator.asking import _FIRST_BLOCK_S, Asked, _is_published, ask
from orchestrator.backlog import Bounds
from orchestrator.intake import receive_chunk
from orchestrator.limits import Limits
from orchestrator.session import Session
from orchestrator.settings import SessionSettings
from tandem.core.clock import ManualClock
from tandem.core.ids import StreamId
from tandem.wire.gen.tandem.v1 import encoder_pb2, types_pb2


@pytest.mark.parametrize(
    ("budget_ms", "ready_s", "until_s"),
    [
        (0, 101.0, math.inf),
        (2000, None, math.inf),
        (2000, 102.0, 102.0 + _FIRST_BLOCK_S),
        (2000, 103.0, 103.0 + _FIRST_BLOCK_S),
        # Asked before the first frame was sent: nothing is waited for, and the budget is not used yet.
        (2000, 100.0, 102.0 + _FIRST_BLOCK_S),
    ],
)
def test_a_first_block_is_waited_for_as_long_as_the_budget_says(
    budget_ms: int, ready_s: float | None, until_s: float
) -> None:
    question = types_pb2.Question(question_id="q", text="what?", latency_budget_ms=budget_ms)
    assert Asked(question, 100.0, 0, 0, ready_s=ready_s).patience_s == until_s


def test_a_question_about_bytes_is_about_what_had_been_sent_and_no_more() -> None:
    clock = ManualClock()
    media = types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_H264_ANNEX_B)
    session = Session(StreamId("cam"), media, SessionSettings(limits=Limits(), bounds=Bounds()), clock)
    receive_chunk(session, types_pb2.Chunk(offset=0, data=bytes(1000)))
    asked = ask(session, types_pb2.Question(question_id="q", text="what?"), clock)
    receive_chunk(session, types_pb2.Chunk(offset=1000, data=bytes(4000)))
    frame = encoder_pb2.EncodeResponse.DecodedFrame
    progress = encoder_pb2.EncodeResponse.Progress(
        watermark_us=1_000_000,
        decoded_us=4_500_000,
        consumed_position=5000,
        frames_waiting=3,
        decoded=[frame(position=number * 500, time_us=number * 500_000) for number in range(10)],
        decoded_position=5000,
    )
    session.progress(progress)
    assert _is_published(asked, session, clock())
    assert asked.asked_us == 500_000
