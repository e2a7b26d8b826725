"""The small parts of the client: text after a loss, gaps, events, waiting, errors."""

from __future__ import annotations

import gc
import random
import re

import grpc
import pytest

from tandem.client.convert import workers_to_proto
from tandem.client.events import EventHub, EventReader, new_gaps
from tandem.client.failures import NobodyThere, is_worth_another_try, typed_error
from tandem.client.questions import QuestionBook, check_question, unseen_part
from tandem.client.retrieving import retrieval_to_proto
from tandem.client.settings import ClientSettings, backoff_s
from tandem.client.types import (
    Answer,
    AnswerDelta,
    ConnectionLost,
    Event,
    FinishReason,
    GapNoticed,
    Limits,
    Progress,
    Refusal,
    Retrieval,
    Sampling,
    Thought,
)
from tandem.client.workers import WorkerLayout, Workers
from tandem.core.errors import (
    AlreadyExists,
    BadQuestion,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    LimitExceeded,
    SlowReader,
    Unavailable,
)
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.wire.gen.tandem.v1 import types_pb2


def gap(start: int, end: int, reason: GapReason = GapReason.OVERLOAD) -> Gap:
    return Gap(TimeRange(start, end), reason)


@pytest.mark.parametrize(
    ("before", "after", "fresh"),
    [
        ([], [gap(0, 5)], [gap(0, 5)]),
        ([gap(0, 5)], [gap(0, 5)], []),
        ([gap(0, 5)], [gap(0, 9)], [gap(5, 9)]),
        ([gap(2, 4), gap(6, 8)], [gap(0, 10)], [gap(0, 2), gap(4, 6), gap(8, 10)]),
        ([gap(0, 5)], [gap(0, 5, GapReason.EVICTED)], [gap(0, 5, GapReason.EVICTED)]),
    ],
)
def test_only_what_is_new_of_a_gap_is_told(before: list[Gap], after: list[Gap], fresh: list[Gap]) -> None:
    assert new_gaps(tuple(before), tuple(after)) == fresh


@pytest.mark.parametrize(
    ("delivered", "repeated", "piece", "fresh"),
    [
        ("red squ", "red", "red", ""),
        ("red squ", "red square", "are", "are"),
        ("red squ", "red square now", "square now", "are now"),
        ("red squ", "are", "are", "are"),
    ],
)
def test_text_is_not_delivered_twice(delivered: str, repeated: str, piece: str, fresh: str) -> None:
    assert unseen_part(delivered, repeated, piece) == fresh


def answer(question_id: str, text: str) -> Answer:
    return Answer(
        question_id=question_id, text=text, finish_reason=FinishReason.END, asked_us=0, watermark_us=0
    )


async def text_of(book: QuestionBook, events: list[Event]) -> str:
    question = book.open("q")
    for event in events:
        book.take(event)
    return "".join([piece async for piece in question.pieces()])


@pytest.mark.parametrize(
    "events",
    [
        ["a red ", "square"],
        ["a red ", None, "a red ", "square"],
        ["a red ", None, "a ", None, "a red squ", "are"],
        ["a red ", None, "square"],
        [],
        ["a red squ", None],
    ],
)
async def test_an_answer_reads_the_same_whatever_broke(events: list[str | None]) -> None:
    lost = ConnectionLost(error=Unavailable("lost"), retry_in_s=0.1)
    script: list[Event] = [
        lost if text is None else AnswerDelta(question_id="q", text=text) for text in events
    ]
    assert await text_of(QuestionBook(), [*script, answer("q", "a red square")]) == "a red square"


async def test_an_echo_of_a_repeated_question_is_no_refusal() -> None:
    book = QuestionBook()
    fresh, repeated = book.open("fresh"), book.open("repeated")
    echo = Refusal(error=AlreadyExists("still at it"), question_id="fresh")
    assert book.take(echo) == "fresh"
    with pytest.raises(AlreadyExists):
        await fresh.answer
    book.take(ConnectionLost(error=Unavailable("lost"), retry_in_s=0.1))
    assert book.take(Refusal(error=AlreadyExists("still at it"), question_id="repeated")) is None
    assert not repeated.answer.done()
    with pytest.raises(AlreadyExists, match="still open"):
        book.open("repeated")
    assert {book.open(None).question_id for _ in range(3)} == {"q1", "q2", "q3"}
    book.fail_all(Unavailable("gone"))
    assert len(book) == 0
    with pytest.raises(Unavailable):
        await repeated.answer


def test_workers_are_checked_before_they_are_sent() -> None:
    check_question("what?", None, Limits(), None, Workers(count=4, sampling=(Sampling(seed=3),)))
    for wish, says in (
        (Workers(count=0), "Workers.count is 0"),
        (Workers(count=1 << 32), "Workers.count"),
        (Workers(count=2, max_tokens=-1), "Workers.max_tokens is -1"),
        (Workers(count=2, self_check_tokens=-5), "Workers.self_check_tokens is -5"),
        (Workers(count=3, sampling=(Sampling(),) * 2), "2 entries for 3 workers"),
    ):
        with pytest.raises(BadQuestion, match=re.escape(says)):
            check_question("what?", None, Limits(), None, wish)


async def test_thoughts_that_were_not_read_are_joined_by_worker() -> None:
    reader = EventReader(limit=4)
    for number in range(50):
        reader.put(Thought(worker="w", time_us=number, text="x", question_id="q", number=number % 2))
    reader.put(Thought(worker="w", time_us=1, text="note"))
    reader.put(Thought(worker="w", time_us=2, text="note"))
    reader.end(None)
    told = [(event.number, event.time_us, event.text) async for event in reader if isinstance(event, Thought)]
    assert told == [(0, 48, "x" * 25), (1, 49, "x" * 25), (0, 1, "note"), (0, 2, "note")]


def test_workers_for_the_wire() -> None:
    message = workers_to_proto(Workers(count=2, layout=WorkerLayout.CONTIGUOUS, step_tokens=0))
    assert message.HasField("step_tokens")
    assert not message.HasField("self_check_tokens")
    assert message.over == types_pb2.WORKERS_OVER_FIRST


def test_questions_are_checked_before_they_are_sent() -> None:
    check_question("what?", "q-1", Limits(max_question_chars=5))
    for text, question_id in ((" ", None), ("too long", None), ("what?", "-"), ("what?", "a b")):
        with pytest.raises(BadQuestion):
            check_question(text, question_id, Limits(max_question_chars=5))
    check_question("what?", None, Limits(), Retrieval(strategy="any", blocks=3, load_budget_s=0.1))
    for wish, words in (
        (Retrieval(blocks=-1), "Retrieval.blocks is -1; give 0"),
        (Retrieval(blocks=1 << 32), "Retrieval.blocks"),
        (Retrieval(load_budget_s=-0.5), "Retrieval.load_budget_s is -0.5"),
        (Retrieval(chunk=-1), "Retrieval.chunk is -1"),
        (Retrieval(tokens=1 << 40), "Retrieval.tokens is"),
        (Retrieval(mass=1.5), "Retrieval.mass is 1.5"),
        (Retrieval(mass=float("nan")), "Retrieval.mass is nan"),
        (Retrieval(load_budget_s=float("nan")), "Retrieval.load_budget_s"),
    ):
        with pytest.raises(BadQuestion, match=words):
            check_question("what?", None, Limits(), wish)
    assert retrieval_to_proto(Retrieval(load_budget_s=0.0001)).load_budget_ms == 1, "not: no limit"


async def test_progress_that_nobody_read_is_replaced() -> None:
    reader = EventReader(limit=3)
    for number in range(100):
        reader.put(Progress(watermark_us=number))
    reader.put(Thought(worker="w", time_us=1, text="x"))
    reader.end(None)
    seen = [event async for event in reader]
    assert seen == [Progress(watermark_us=99), Thought(worker="w", time_us=1, text="x")]


async def test_a_reader_that_does_not_read_is_told_and_nobody_else() -> None:
    hub = EventHub(limit=3)
    slow, fast = hub.reader(), hub.reader()
    for number in range(5):
        hub.publish(Thought(worker="w", time_us=number, text="x"))
        assert await anext(fast) == Thought(worker="w", time_us=number, text="x")
    for _ in range(3):
        await anext(slow)
    with pytest.raises(SlowReader):
        await anext(slow)
    hub.publish(Progress(gaps=(gap(0, 5),)))
    assert [await anext(fast), await anext(fast)] == [Progress(gaps=(gap(0, 5),)), GapNoticed(gap=gap(0, 5))]
    hub.end(Unavailable("gone"))
    with pytest.raises(Unavailable):
        await anext(fast)
    with pytest.raises(Unavailable):
        await anext(hub.reader())


def test_waits_double_up_to_a_cap_and_scatter() -> None:
    settings = ClientSettings(backoff_first_s=0.1, backoff_cap_s=2.0)
    chance = random.Random(1)
    for attempt, full in ((1, 0.1), (2, 0.2), (5, 1.6), (6, 2.0), (100, 2.0)):
        waits = [backoff_s(attempt, settings, chance) for _ in range(50)]
        assert all(full / 2 <= wait <= full for wait in waits)
        assert len(set(waits)) > 40
    with pytest.raises(ValueError, match="count from 1"):
        backoff_s(0, settings, chance)


def rpc_error(code: grpc.StatusCode, details: str, *trailing: tuple[str, str]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details, "")


@pytest.mark.parametrize(
    ("error", "cls", "words"),
    [
        (rpc_error(grpc.StatusCode.UNAVAILABLE, "failed to connect to all"), NobodyThere, "tandem up"),
        (rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed"), Unavailable, "broke"),
        (rpc_error(grpc.StatusCode.INTERNAL, "Internal error from Core"), Unavailable, "broke"),
        (rpc_error(grpc.StatusCode.INTERNAL, "oh", ("tandem-code", "internal")), Internal, "oh"),
        (rpc_error(grpc.StatusCode.UNAVAILABLE, "full", ("tandem-code", "unavailable")), Unavailable, "full"),
        (TimeoutError(), DeadlineExceeded, "no reply from here:1"),
        (BadQuestion("as it is"), BadQuestion, "as it is"),
        (grpc.aio.UsageError("cancelled"), Unavailable, "broke"),
    ],
)
def test_what_grpc_raises_is_typed(error: Exception, cls: type[Exception], words: str) -> None:
    typed = typed_error(error, address="here:1", doing="trying")
    assert type(typed) is cls
    assert words in typed.message


def test_what_is_tried_again() -> None:
    assert is_worth_another_try(Unavailable("x"), was_open=False)
    assert is_worth_another_try(DeadlineExceeded("x"), was_open=False)
    assert is_worth_another_try(SlowReader("x"), was_open=True)
    assert not is_worth_another_try(LimitExceeded("x"), was_open=False), "the caller should know at once"
    assert not is_worth_another_try(InvalidInput("x"), was_open=True)
    assert not is_worth_another_try(Internal("x"), was_open=True)


def test_a_reader_that_nobody_holds_any_more_keeps_nothing() -> None:
    hub = EventHub(10)
    kept = hub.reader()
    for _ in range(100):
        hub.reader()
    gc.collect()
    assert list(hub._readers) == [kept]
