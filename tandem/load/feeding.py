"""Shell: one stream of a run: opened and fed at its own pace, left and taken up again, ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import numpy as np

from tandem.client import Client, EventReader, MediaKind, MediaOptions, Stream
from tandem.core.errors import SlowReader, TandemError
from tandem.core.watching import Watching
from tandem.load.footage import Footage
from tandem.load.hearing import Ear
from tandem.load.log import EventLog, error_fields
from tandem.load.pace import Pace, histogram, record
from tandem.load.schedule import PlannedStream

LATE_OPENING_S = 1.0
"""A stream that opens later than this after its first frame was due begins its video then: its schedule has
moved, and known answers no longer hold."""
LAST_QUESTIONS_S = 0.25
"""From a stream's end to telling the server: what was due just before it is still asked."""
STOP_S = 3.0
"""Longest goodbye of a stream when the run is stopped."""


class StreamRun:
    """Its state is read by those who ask about it and by the sampler."""

    def __init__(
        self,
        planned: PlannedStream,
        footage: Footage,
        *,
        stream_id: str,
        make_client: Callable[[], Client],
        watching: Watching | None,
        patience_s: float,
        pace: Pace,
        log: EventLog,
    ) -> None:
        """`patience_s` is how long the end of the stream may take."""
        self.planned, self._footage, self.stream_id = planned, footage, stream_id
        self._make_client, self._watching, self._patience_s = make_client, watching, patience_s
        self._pace, self._log = pace, log
        self.ear = Ear(planned.stream, pace, log)
        self.stream: Stream | None = None
        self.ready = asyncio.Event()
        """Set while it can be asked about, and for good once it never can be again."""
        self.failure: TandemError | None = None
        self.is_over = False
        self.is_feeding = False
        self.is_shifted = False
        """True when its video does not run at the planned time."""
        self.media_s = planned.media_s
        """Run time at which its frame 0 is due."""
        self.frames = 0
        self.blocked = histogram()
        """How long pushes waited for room."""
        self._jitter = np.random.default_rng(planned.seed)
        self._jitters: list[float] = []
        self._hearing: asyncio.Task[None] | None = None

    @property
    def live_edge_s(self) -> float:
        """Stream time of now, in seconds."""
        return self._pace.now_s() - self.media_s

    async def run(self) -> None:
        """From opening to end. A `TandemError` is written down; anything else is our fault, and raised."""
        await self._pace.until(self.planned.start_s, is_ours=True)
        try:
            async with self._make_client() as client:
                if await self._open(client):
                    await self._feed(client)
        except TandemError as error:
            self.failure = error
            self._log.write("stream_failed", stream=self.planned.stream, **error_fields(error))
        finally:
            self.is_feeding, self.is_over = False, True
            self.ready.set()
            if self._hearing is not None:
                self._hearing.cancel()

    async def _open(self, client: Client) -> bool:
        """Try until it is open; a refusal with a hint is obeyed. False when it was refused for good."""
        while True:
            began_s = self._pace.now_s()
            try:
                await self._enter(client, token="")
            except TandemError as error:
                self._log.write("refused", what="stream", stream=self.planned.stream, **error_fields(error))
                wait_s = error.retry_after_s
                if wait_s is None or self._pace.now_s() + wait_s >= self.planned.end_s:
                    self.failure = error
                    return False
                await asyncio.sleep(wait_s)
                continue
            now_s = self._pace.now_s()
            if now_s > self.planned.media_s + LATE_OPENING_S:
                self.is_shifted, self.media_s = True, now_s
            took_s = now_s - began_s
            self._log.write("opened", stream=self.planned.stream, took_s=took_s, shifted=self.is_shifted)
            self._say_media()
            return True

    async def _enter(self, client: Client, token: str) -> None:
        planned = self.planned
        is_pictures = planned.codec == "jpeg"
        media = MediaOptions(
            kind=MediaKind.PICTURES if is_pictures else MediaKind.H264_ANNEX_B,
            nominal_fps=0.0 if is_pictures else planned.fps,
            min_fps=planned.min_fps,
            max_lag_s=planned.max_lag_s,
        )
        stream = client.watch(
            media,
            stream_id=self.stream_id,
            resume_token=token,
            watching=None if token else self._watching,
            tenant=planned.tenant,
        )
        events = stream.events()
        await stream.__aenter__()
        if self._hearing is not None:
            await self._hearing  # of the call before this one: it has ended with it
        self._hearing = asyncio.create_task(self._hear(events))
        self.ear.sample_fps = stream.info.sample_fps
        self.stream, self.is_feeding = stream, True
        self.ready.set()

    def _say_media(self) -> None:
        self.ear.media_s = self.media_s
        self._log.write("media", stream=self.planned.stream, media_s=self.media_s)

    async def _feed(self, client: Client) -> None:
        index = 0
        leaves = deque(self.planned.reconnects)
        try:
            while (due_s := self._due_s(index)) < self.planned.end_s:
                if leaves and leaves[0] <= due_s:
                    index = await self._leave_and_return(client, leaves.popleft())
                    continue
                await self._pace.until(due_s)
                await self._push(index, due_s)
                index += 1
            await self._pace.until(self.planned.end_s + LAST_QUESTIONS_S)
            await self._end(self._patience_s)
        except asyncio.CancelledError:
            with contextlib.suppress(TandemError):
                await self._end(STOP_S)
            raise

    async def _push(self, index: int, due_s: float, skip: int = 0) -> None:
        """Push one frame, without its first `skip` bytes."""
        assert self.stream is not None
        data, pts_us = self._footage.frame(index)[skip:], self._footage.pts_us(index)
        began_s = self._pace.now_s()
        if self.planned.codec == "jpeg":
            await self.stream.push_picture(data, pts_us=pts_us)
        else:
            await self.stream.push_chunk(data, pts_us=pts_us)
        now_s = self._pace.now_s()
        if self._pace.is_measured(due_s):
            record(self.blocked, now_s - began_s)
        self.frames += 1
        self.ear.pushed(pts_us, due_s, now_s, period_us=1e6 / self.planned.fps)

    async def _end(self, patience_s: float) -> None:
        assert self.stream is not None
        began_s, self.is_feeding = self._pace.now_s(), False
        try:
            async with asyncio.timeout(patience_s):
                await self.stream.end(forget=True)
        except TimeoutError:
            self._log.write("end_timed_out", stream=self.planned.stream, after_s=patience_s)
        finally:
            await self.stream.abandon()
        if self._hearing is not None:
            await self._hearing
        took_s = self._pace.now_s() - began_s
        self._log.write("ended", stream=self.planned.stream, took_s=took_s, frames=self.frames)

    async def _leave_and_return(self, client: Client, at_s: float) -> int:
        """Vanish, and come back with the token; returns the frame to go on with."""
        assert self.stream is not None
        await self._pace.until(at_s)
        self.ready.clear()
        self.is_feeding, token = False, self.stream.info.resume_token
        await self.stream.abandon()
        self._log.write("left", stream=self.planned.stream)
        await asyncio.sleep(self.planned.away_s)
        began_s = self._pace.now_s()
        await self._enter(client, token)
        took_s, resumed = self._pace.now_s() - began_s, self.stream.info.resumed
        self._log.write("returned", stream=self.planned.stream, took_s=took_s, resumed=resumed)
        return await self._take_up(self.stream.position, resumed=resumed)

    async def _take_up(self, position: int, *, resumed: bool) -> int:
        self.ear.forget_unseen()
        if not resumed:  # the server knows nothing of it: the video begins again
            self.is_shifted, self.media_s = True, self._pace.now_s()
            self._say_media()
            return 0
        if self.planned.codec == "jpeg":
            return position
        index, inside = self._footage.frame_at(position)
        if not inside:
            return index
        await self._push(index, self._due_s(index), skip=inside)
        return index + 1

    def _due_s(self, index: int) -> float:
        while len(self._jitters) <= index and self.planned.jitter_ms:
            self._jitters += (self._jitter.random(256) * self.planned.jitter_ms / 1000).tolist()
        late_s = self._jitters[index] if self._jitters else 0.0
        return self.media_s + index / self.planned.fps + late_s

    async def _hear(self, events: EventReader) -> None:
        """What the server says, until the stream is over; why it failed is told to whoever feeds it."""
        try:
            async for event in events:
                self.ear.take(event)
        except SlowReader:
            self._log.write("deaf", stream=self.planned.stream)
        except TandemError:
            pass
