"""Streams with questions in flight while services are replaced, and what must come of them."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import tandem
from tandem.client import MediaKind, MediaOptions, Sampling
from tandem.client.types import Answer
from tests.faults.run import PERIOD_MS, QUESTION, SETTINGS, Feed, check_whole, reference
from tests.integration.up_processes import h264

TOKENS = 24
"""Of an answer: it takes a while."""
PICTURES = MediaOptions(kind=MediaKind.PICTURES)
ENCODED = MediaOptions(kind=MediaKind.H264_ANNEX_B, nominal_fps=1000 / PERIOD_MS)
CUT = "\N{REPLACEMENT CHARACTER}"
"""Where a shorter answer ends within a character."""


@dataclass
class Viewer:
    """One stream that is fed and asked about all the time."""

    stream: Any
    feed: Feed
    answers: list[Answer] = field(default_factory=list)
    records: Counter[str] = field(default_factory=Counter)
    """Final records that came, by question."""
    asked: int = 0
    heard_outside: list[Answer] = field(default_factory=list)

    @property
    def is_encoded(self) -> bool:
        """It is a stream of bytes."""
        return isinstance(self.feed, ByteFeed)

    async def ask_forever(self) -> None:
        """One question after the other; any that fails ends it with its error."""
        while True:
            self.asked += 1
            answer = await self.stream.ask(
                QUESTION,
                question_id=f"q-{self.asked}",
                sampling=Sampling(max_tokens=TOKENS),
                latency_budget_s=30.0,
            )
            assert answer.error is None, answer.error
            self.answers.append(answer)
            await asyncio.sleep(0.05)

    async def ask_from_outside(self, client: Any) -> None:
        """The same, by somebody who does not feed it."""
        while True:
            answer = await client.ask(
                self.stream.stream_id,
                QUESTION,
                sampling=Sampling(max_tokens=TOKENS),
                latency_budget_s=30.0,
            )
            self.heard_outside.append(answer)
            await asyncio.sleep(0.2)

    async def count_records(self) -> None:
        """All that comes to the client."""
        async for event in self.stream.events():
            if isinstance(event, Answer):
                self.records[event.question_id] += 1


class ByteFeed(Feed):
    """The same with an encoded stream of two frames a second, each a piece of bytes."""

    FRAMES = 1200

    def __init__(self, stream: Any, pace_s: float) -> None:
        super().__init__(stream, pace_s)
        self._pieces = pieces()

    async def push(self) -> None:
        piece, self.pushed = self._pieces[self.pushed], self.pushed + 1
        await self._stream.push_chunk(piece)


@functools.cache
def pieces() -> list[bytes]:
    return h264(ByteFeed.FRAMES, 1000 // PERIOD_MS, 4)


class Load:
    """Several viewers of one fleet, from `start` until `check`."""

    def __init__(
        self, fleet: Any, streams: int, pace_s: float = 0.25, *, encoded: int = 0, outside: bool = True
    ) -> None:
        """`fleet`: a `Fleet`, or what has its `front.address`.

        Of `streams` that many are `encoded`. `outside`: others ask about streams too.
        """
        self._encoded, self._outside = encoded, outside
        self._fleet, self._streams, self._pace_s = fleet, streams, pace_s
        self.viewers: list[Viewer] = []
        self._client = tandem.connect(fleet.front.address, settings=SETTINGS)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Until every stream was answered once."""
        await self._client.__aenter__()
        for number in range(self._streams):
            is_encoded = number < self._encoded
            stream = self._client.watch(ENCODED if is_encoded else PICTURES, stream_id=f"cam-{number}")
            await stream.__aenter__()
            viewer = Viewer(stream, (ByteFeed if is_encoded else Feed)(stream, self._pace_s))
            viewer.feed.start()
            self.viewers.append(viewer)
            self._tasks.append(asyncio.create_task(viewer.count_records()))
        async with asyncio.timeout(60):
            while not all(viewer.stream.progress.blocks for viewer in self.viewers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        self._tasks += [asyncio.create_task(viewer.ask_forever()) for viewer in self.viewers]
        if self._outside:
            self._tasks += [
                asyncio.create_task(viewer.ask_from_outside(self._client)) for viewer in self.viewers
            ]
        await self.go_on()

    async def go_on(self, answers: int = 1) -> None:
        """Until every stream got so many more answers. Raises what a question failed with."""
        goal = [len(viewer.answers) + answers for viewer in self.viewers]
        async with asyncio.timeout(120):
            while any(len(v.answers) < wanted for v, wanted in zip(self.viewers, goal, strict=True)):
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.05)

    async def check(self) -> str:
        """Ends it. Every question was answered rightly, once; every frame is there. Says how many."""
        for viewer in self.viewers:
            await viewer.feed.stop()
            goal = viewer.asked  # the one that is open now, and no other
            async with asyncio.timeout(60):
                while len(viewer.answers) < goal:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        texts: dict[tuple[bool, int], set[str]] = {}
        for viewer in self.viewers:
            for answer in viewer.answers:
                assert viewer.records[answer.question_id] == 1, answer.question_id
            for answer in (*viewer.answers, *viewer.heard_outside):
                self._check_answer(answer)
                texts.setdefault((viewer.is_encoded, answer.evidence_blocks), set()).add(answer.text)
            answer = await viewer.stream.ask(QUESTION, sampling=Sampling(max_tokens=8), latency_budget_s=60.0)
            # The last frame of an encoded stream ends where the next one begins.
            shown = answer.evidence_blocks * 2 if viewer.is_encoded else viewer.feed.pushed
            check_whole(answer, viewer.stream.progress, shown, 0)
            assert shown >= viewer.feed.pushed - 2
            assert answer.text == await self._undisturbed(viewer)
            await viewer.stream.end(forget=True)
        assert all(len(each) == 1 for each in texts.values()), "the same video was answered in two ways"
        counts = sorted(count for is_encoded, count in texts if not is_encoded)
        for count in {counts[0], counts[len(counts) // 2], counts[-1]}:
            shorter = await reference(self._fleet, 2 * count)
            assert texts[False, count].pop().startswith(shorter.rstrip(CUT))
        await self._client.__aexit__(None, None, None)
        count = sum(len(viewer.answers) + len(viewer.heard_outside) for viewer in self.viewers)
        return f"{count} questions on {len(self.viewers)} streams, all answered once"

    async def _undisturbed(self, viewer: Viewer) -> str:
        if not viewer.is_encoded:
            return await reference(self._fleet, viewer.feed.pushed)
        async with self._client.watch(ENCODED, stream_id=f"reference-{viewer.stream.stream_id}") as stream:
            for piece in pieces()[: viewer.feed.pushed]:
                await stream.push_chunk(piece)
            answer = await stream.ask(QUESTION, sampling=Sampling(max_tokens=8), latency_budget_s=60.0)
            await stream.end(forget=True)
            return answer.text

    def _check_answer(self, answer: Answer) -> None:
        seen = [(part.start_us, part.end_us) for part in answer.evidence]
        whole_us = answer.evidence_blocks * 2 * PERIOD_MS * 1000
        assert seen == [(0, whole_us)], (answer.question_id, seen, answer.evidence_blocks)
        assert whole_us > answer.asked_us - 2 * PERIOD_MS * 1000, "frames before the question are missing"

    async def close(self) -> None:
        """After a failure too."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for viewer in self.viewers:
            viewer.feed.cancel()
            await viewer.stream.abandon()
        await self._client.__aexit__(None, None, None)
