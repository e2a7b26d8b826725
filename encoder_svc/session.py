"""Shell. One stream on this encoder: media in, blocks out, progress back, and an end that frees everything.

Three tasks, each with one job, joined by bounded buffers on a `Desk`, and the model's thread::

    intake   reads items, decodes them in a worker thread, waits for room, submits units
    (model)  `EncodeLoop`, shared by all streams, puts blocks into the outbox
    sender   sends blocks and books what was published
    reporter writes progress and refusals

Knows no protobuf: see `service`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from encoder_svc import metrics
from encoder_svc.bookkeeping import Book, Origin
from encoder_svc.config import EncoderConfig
from encoder_svc.decode.decoders import Decoders, InsideDecoders
from encoder_svc.decode.make import Beginning, make_source
from encoder_svc.decode.pictures import Rgb
from encoder_svc.decode.source import Item, Refusal, Source
from encoder_svc.desk import Desk
from encoder_svc.intake import Intake
from encoder_svc.keeping import fetch_kept
from encoder_svc.lanes import Lane
from encoder_svc.links import Lease, LinkPool
from encoder_svc.loop import EncodeLoop
from encoder_svc.messages import End, Opening, Report
from encoder_svc.rates import Rate, Wish
from encoder_svc.sample import Grid, Sampler, Unit
from encoder_svc.sending import Sender
from encoder_svc.shedding import Shedding
from encoder_svc.traces import UnitTrace
from tandem.core.clock import Clock
from tandem.core.errors import DeadlineExceeded, TandemError, Unavailable
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.timeline import MICROSECONDS
from tandem.vlm.model import VisionLanguageModel


@dataclass(frozen=True, slots=True)
class Services:
    """What all sessions share."""

    model: VisionLanguageModel
    loop: EncodeLoop
    links: LinkPool
    decoders: Executor
    config: EncoderConfig
    clock: Clock
    telemetry: Telemetry = NO_TELEMETRY
    make_decoders: Callable[[], Decoders] = InsideDecoders
    """For one stream."""


def _once(ready: asyncio.Future[None]) -> Callable[[], None]:
    """Sets it, unless nobody waits any more."""
    return lambda: None if ready.done() else ready.set_result(None)


@dataclass(frozen=True, slots=True)
class Opened:
    """The session is ready for media."""

    sample_fps: float


Write = Callable[[Opened | Report | Refusal], Awaitable[None]]


class Session:
    """One call of Encode. Make it and run it once, in the event loop."""

    def __init__(self, opening: Opening, services: Services, write: Write) -> None:
        config = services.config
        self._opening = opening
        self._services = services
        self._write = write
        self._origin = Origin.of(opening)
        self._desk = Desk(
            Book(opening.kind, self._origin),
            services.clock,
            bytes_each=config.outbox_bytes,
            items=config.outbox_blocks,
            frame_bytes=config.frame_bytes,
            telemetry=services.telemetry,
        )
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lane: Lane | None = None
        self._draining = False
        self._rate = Rate(min(opening.start_fps or self.sample_fps, self.sample_fps))
        self._sampler = self._make_sampler()
        self._shedding = Shedding(opening.max_lag_s)
        self._intake = Intake(
            self._make_source(),
            self._desk,
            self._submit,
            services.model,
            services.loop.codec,
            services.decoders,
            services.clock,
            self._shedding,
            self._late,
        )

    @property
    def lane(self) -> Lane | None:
        """Its units at the model; None before its window is opened."""
        return self._lane

    @property
    def is_shedding(self) -> bool:
        """True while units are left out."""
        return self._shedding.is_on

    def wish(self) -> Wish:
        """What it asks for, and how it fares."""
        opening, prompt, cost = self._opening, self._services.model.prompt, self._services.loop.cost
        unit_s = cost.unit_seconds(self._services.loop.batch_units / 2)
        return Wish(
            want_fps=self.sample_fps,
            least_fps=min(opening.min_fps or self.sample_fps, self.sample_fps),
            frame_cost_s=unit_s / prompt.frames_per_unit,
            tenant=opening.tenant,
            weight=opening.weight,
            now_fps=self._rate.fps,
            late_s=self._late(),
            max_lag_s=opening.max_lag_s,
        )

    def set_rate(self, rate: Rate) -> None:
        """Watch at this rate from the next unit on, and say so."""
        if rate != self._rate:
            if rate.fps != self._rate.fps:
                self._sampler.retune(Grid.of(rate.fps, self._services.model.prompt.frames_per_unit))
            self._rate = rate
            self._desk.changes.notify()

    @property
    def sample_fps(self) -> float:
        """Frames per second that are asked for."""
        prompt = self._services.model.prompt
        return self._opening.sample_fps or prompt.frames_per_unit / prompt.seconds_per_unit

    def drain(self) -> None:
        """Take no more media: publish what was taken in, then end with Unavailable."""
        self._draining = True
        self._intake.stop()

    async def run(self, items: AsyncIterator[Item | End | Refusal]) -> Report:
        """Encode until End; returns the last report. Raises the TandemError that ended the stream."""
        lease = self._services.links.lease(self._opening.reasoner, self._opening.ticket)
        try:
            await lease.ready()
            await self._open_window(lease)
            await self._write(Opened(self._rate.fps))
            await self._work(items, lease)
            await self._write_news()
        finally:
            self._desk.traces.close()
            if self._lane is not None:
                self._services.loop.drop(self._lane)
            self._services.links.release(lease)
            if self._failed.done():
                self._failed.exception()  # told already, or overtaken by another end
        if self._draining:
            raise Unavailable("this encoder is draining; what it took in is published", retry_after_s=0.1)
        return self._look()

    async def _work(self, items: AsyncIterator[Item | End | Refusal], lease: Lease) -> None:
        config = self._services.config
        sender = Sender(
            self._desk,
            lease,
            self._services.clock,
            timeout_s=config.send_timeout_s,
            patience_s=config.publish_patience_s,
        )
        tasks = [
            asyncio.create_task(self._take_in(items), name="encode-intake"),
            asyncio.create_task(sender.run(), name="encode-send"),
            asyncio.create_task(self._report(), name="encode-report"),
        ]
        try:
            await asyncio.wait({*tasks, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for done in (self._failed, *tasks):
                if done.done():
                    done.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_in(self, items: AsyncIterator[Item | End | Refusal]) -> None:
        """Take in all media and wait until all of it is published."""
        await self._intake.run(items)
        timeout_s = self._services.config.drain_s if self._draining else None
        try:
            async with asyncio.timeout(timeout_s):
                await self._desk.changes.wait_for(lambda: self._desk.idle)
        except TimeoutError:
            raise Unavailable(
                "this encoder is draining and could not publish everything", retry_after_s=0.1
            ) from None

    def _make_sampler(self) -> Sampler[Rgb]:
        return Sampler(
            Grid.of(self._rate.fps, self._services.model.prompt.frames_per_unit),
            from_us=self._origin.from_us,
            gap_after_us=round(self._services.config.gap_after_s * MICROSECONDS),
            on_skip=lambda: self._desk.meters.count(metrics.FRAMES, outcome="skipped", reason=""),
        )

    def _make_source(self) -> Source:
        opening, origin, config = self._opening, self._origin, self._services.config
        beginning = Beginning(position=origin.position, header=origin.header, begins_us=origin.begins_us)
        check_shape = self._services.model.grid
        how = (config.limits, check_shape, self._services.make_decoders())
        return make_source(opening.kind, self._sampler, beginning, opening.nominal_fps, *how)

    async def _open_window(self, lease: Lease) -> None:
        loop, model = self._services.loop, self._services.model
        kept = None
        if self._origin.next_block_number:
            kept = await fetch_kept(
                lease,
                self._opening.stream,
                self._origin.next_block_number,
                loop.window_units,
                self._desk.book.runs,
                self._services.config.send_timeout_s,
            )
        else:
            self._desk.blocks.reserve(model.layout.block_bytes(len(model.prompt.sink_tokens())))
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lane = Lane(
            self._opening.stream,
            kept,
            _once(ready),
            self._desk.encoded,
            self._fail,
            self._desk.left_out,
            self._opening.max_lag_s,
        )
        loop.open(self._lane)
        patience_s = self._services.config.open_patience_s
        await asyncio.wait({ready, self._failed}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            self._failed.result()
        if not ready.done():
            raise DeadlineExceeded(
                f"the model did not open the stream's window within {patience_s:g} s", retry_after_s=1.0
            )

    def _fail(self, error: TandemError) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def _late(self) -> float:
        return self._services.loop.late(self._lane) if self._lane is not None else 0.0

    def _submit(self, serial: int, unit: Unit[Rgb], trace: UnitTrace | None) -> None:
        assert self._lane is not None, "the window is opened before media is read"
        self._services.loop.submit(self._lane, serial, unit, trace)

    # -- reporter --

    async def _report(self) -> None:
        changes = self._desk.changes
        while True:
            seen = changes.count
            await self._write_news()
            await changes.wait_for(lambda seen=seen: changes.count != seen)  # type: ignore[misc]

    async def _write_news(self) -> None:
        desk = self._desk
        while desk.refusals:
            await self._write(desk.refusals.popleft())
            desk.changes.notify()
        report = self._look()
        if desk.book.is_news(report):
            await self._write(report)

    def _look(self) -> Report:
        source = self._intake.source
        report = self._desk.book.report(
            decoded_us=source.decoded_us,
            consumed=source.consumed,
            origin_us=source.origin_us,
        )
        # First up to where, then the frames: what is told to be complete is never ahead of what is told.
        position = source.decoded_position
        frames = tuple(source.take_decoded())
        report = replace(report, sample_fps=self._rate.fps, rate_reason=self._rate.reason)
        return replace(report, decoded_position=position, decoded=frames)
