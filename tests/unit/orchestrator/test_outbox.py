"""What waits for a client: joined, coalesced, bounded."""

import asyncio

import pytest

from orchestrator.outbox import PROGRESS_PERIOD_S, RECEIVED_S, SAFE_S, Outbox, pump
from tandem.core.clock import ManualClock, monotonic_clock
from tandem.core.errors import NotFound, SlowReader
from tandem.wire.gen.tandem.v1 import client_pb2

Response = client_pb2.WatchResponse


def progress() -> Response:
    return Response(progress=Response.Progress(blocks=7))


def delta(question: str, text: str) -> Response:
    return Response(answer_delta=client_pb2.AnswerDelta(question_id=question, text=text))


def answer(question: str) -> Response:
    return Response(answer=client_pb2.Answer(question_id=question))


def thought(question: str, number: int, text: str, time_us: int = 0) -> Response:
    made = Response.Thought(question_id=question, number=number, text=text, time_us=time_us)
    return Response(thought=made)


async def drain(outbox: Outbox) -> list[Response]:
    outbox.close(None)
    messages = []
    while (message := await outbox.next()) is not None:
        messages.append(message)
    return messages


async def test_text_of_one_question_is_joined_and_order_kept() -> None:
    outbox = Outbox(progress, ManualClock())
    for message in (delta("a", "1"), delta("b", "x"), delta("a", "2"), answer("a"), delta("b", "y")):
        outbox.put(message)
    got = await drain(outbox)
    assert [(m.answer_delta.question_id, m.answer_delta.text) for m in got[:2]] == [("a", "12"), ("b", "xy")]
    assert got[2].answer.question_id == "a"
    assert len(got) == 3
    assert outbox.bytes == 0


async def test_text_after_the_final_record_of_a_reused_id_is_not_joined_to_what_was_before() -> None:
    outbox = Outbox(progress, ManualClock())
    for message in (delta("a", "1"), answer("a"), delta("a", "2")):
        outbox.put(message)
    assert [m.WhichOneof("event") for m in await drain(outbox)] == ["answer_delta", "answer", "answer_delta"]


async def test_progress_is_told_at_most_ten_times_a_second() -> None:
    outbox = Outbox(progress, monotonic_clock)
    began_s = monotonic_clock()
    for _ in range(4):
        for _ in range(50):
            outbox.mark_progress()
        assert (await outbox.next()) == progress()
    assert monotonic_clock() - began_s >= 3 * PROGRESS_PERIOD_S - 0.02


async def test_news_that_can_wait_go_with_the_next_that_cannot() -> None:
    clock = ManualClock()
    outbox = Outbox(progress, clock)
    outbox.mark_progress(RECEIVED_S)
    outbox.mark_progress(SAFE_S)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(outbox.next(), 0.05)
    outbox.mark_progress()
    assert (await outbox.next()) == progress()
    clock.advance(SAFE_S + PROGRESS_PERIOD_S)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(outbox.next(), 0.05)
    outbox.mark_progress(RECEIVED_S)
    clock.advance(RECEIVED_S)
    assert (await outbox.next()) == progress()


async def test_too_much_ends_it_and_frees_what_waits() -> None:
    outbox = Outbox(progress, ManualClock(), max_bytes=1000)
    for index in range(100):
        outbox.put(answer(f"question-{index}-{'x' * 50}"))
    assert outbox.is_closed
    assert outbox.bytes == 0
    with pytest.raises(SlowReader):
        await outbox.next()


async def test_an_error_comes_after_what_waits_unless_now() -> None:
    outbox = Outbox(progress, ManualClock())
    outbox.put(answer("a"))
    outbox.close(NotFound("gone"))
    assert (await outbox.next()) == answer("a")
    with pytest.raises(NotFound):
        await outbox.next()


async def test_a_write_that_takes_too_long_is_a_slow_reader() -> None:
    outbox = Outbox(progress, ManualClock())
    outbox.put(answer("a"))

    async def never(message: Response) -> None:
        await asyncio.Event().wait()

    with pytest.raises(SlowReader, match=r"0\.05 s"):
        await pump(outbox, never, 0.05)


async def test_thoughts_that_wait_are_joined_by_worker() -> None:
    outbox = Outbox(progress, ManualClock())
    for message in (
        thought("a", 0, "1", 5),
        thought("a", 1, "x"),
        thought("b", 0, "-"),
        thought("a", 0, "2", 9),
        delta("a", "so"),
        answer("a"),
        thought("a", 0, "again"),
    ):
        outbox.put(message)
    got = await drain(outbox)
    told = [(m.thought.question_id, m.thought.number, m.thought.text, m.thought.time_us) for m in got[:3]]
    assert told == [("a", 0, "12", 9), ("a", 1, "x", 0), ("b", 0, "-", 0)]
    assert got[-1].thought.text == "again"
    assert outbox.bytes == 0
