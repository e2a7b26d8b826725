"""From the engine's thread to the asker."""

from __future__ import annotations

import asyncio

import pytest

from reasoner_svc.decode.outbox import Outbox, ThoughtPiece
from tandem.core.errors import NotFound, SlowReader


def outbox(limit_chars: int = 100) -> Outbox:
    return Outbox(asyncio.get_running_loop(), limit_chars)


async def test_text_that_waits_is_joined() -> None:
    box = outbox()
    box.put("one ")
    box.put("two")
    assert await box.get() == "one two"


async def test_text_comes_before_the_end() -> None:
    box = outbox()
    box.put("text")
    box.end(NotFound("closed"))
    assert await box.get() == "text"
    with pytest.raises(NotFound):
        await box.get()


async def test_only_the_first_end_counts() -> None:
    box = outbox()
    box.end(NotFound("first"))
    box.end(SlowReader("second"))
    with pytest.raises(NotFound):
        await box.get()


async def test_a_reader_that_does_not_read_is_noticed() -> None:
    box = outbox(limit_chars=5)
    box.put("12345")
    with pytest.raises(SlowReader):
        box.put("6")


async def test_reading_makes_room() -> None:
    box = outbox(limit_chars=5)
    box.put("12345")
    assert await box.get() == "12345"
    box.put("12345")


async def test_from_another_thread_nothing_is_lost() -> None:
    box = outbox(limit_chars=10**6)

    def write() -> None:
        for number in range(1000):
            box.put(f"{number},")
        box.end(NotFound("the end"))

    writing = asyncio.create_task(asyncio.to_thread(write))
    text = ""
    while not text.endswith("999,"):
        piece = await box.get()
        assert isinstance(piece, str)
        text += piece
    with pytest.raises(NotFound):
        await box.get()
    await writing
    assert text == "".join(f"{number}," for number in range(1000))


def test_a_closed_loop_is_no_error_for_the_engine() -> None:
    async def make() -> Outbox:
        return outbox()

    box = asyncio.run(make())
    box.put("too late")


async def test_thoughts_that_wait_are_joined_by_worker_and_come_first() -> None:
    box = outbox()
    box.think(1, "a", 10)
    box.think(0, "x", 10)
    box.think(1, "b", 20)
    box.put("answer")
    assert await box.get() == ThoughtPiece(1, "ab", 20)
    assert await box.get() == ThoughtPiece(0, "x", 10)
    assert await box.get() == "answer"


async def test_thoughts_count_as_what_is_not_read() -> None:
    box = outbox(limit_chars=3)
    box.think(0, "abc", 0)
    with pytest.raises(SlowReader):
        box.put("d")
    assert await box.get() == ThoughtPiece(0, "abc", 0)
