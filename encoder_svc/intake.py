"""Shell. A session's pump: reads items, has them decoded in a worker thread, and submits units in order.

It waits for room before each unit and reads nothing meanwhile, so that everything before it, up to the
client's connection, slows down too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor

from encoder_svc import metrics
from encoder_svc.decode.pictures import RawPicture, Rgb
from encoder_svc.decode.source import Item, RawChunk, Refusal, Source, SourceEvent, Start
from encoder_svc.desk import Desk
from encoder_svc.encode import unit_geometry
from encoder_svc.fitting import fit_events
from encoder_svc.messages import End
from encoder_svc.sample import Hole, Unit
from encoder_svc.shedding import Shedding
from encoder_svc.traces import UnitTrace
from tandem.core.blocks import Codec
from tandem.core.clock import Clock
from tandem.core.errors import InvalidInput
from tandem.vlm.model import VisionLanguageModel

Submit = Callable[[int, Unit[Rgb], UnitTrace | None], None]
"""Gives (serial, unit) to the model, and what is to be noted of a traced one."""


class Intake:
    """Media of one session, from the call to the model."""

    def __init__(
        self,
        source: Source,
        desk: Desk,
        submit: Submit,
        model: VisionLanguageModel,
        codec: Codec,
        decoders: Executor,
        clock: Clock,
        shedding: Shedding,
        late: Callable[[], float],
    ) -> None:
        """`late`: seconds that the oldest unit that waits for the model is past its deadline."""
        self._source = source
        self._desk = desk
        self._submit = submit
        self._model = model
        self._codec = codec
        self._decoders = decoders
        self._clock = clock
        self._shedding = shedding
        self._late = late
        self._reading: asyncio.Future[Item | End | Refusal] | None = None
        self._stopped = False

    @property
    def source(self) -> Source:
        """How far decoding is."""
        return self._source

    def stop(self) -> None:
        """Read nothing more; `run` finishes what it has."""
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()

    async def run(self, items: AsyncIterator[Item | End | Refusal]) -> None:
        """Until End, or until stopped. Raises InvalidInput when the call ends without End."""
        try:
            await self._run(items)
        finally:
            self._source.close()

    async def _run(self, items: AsyncIterator[Item | End | Refusal]) -> None:
        while True:
            item = await self._next(items)
            arrived_s = self._clock()
            if isinstance(item, Refusal):
                await self._desk.refuse(item)
                continue
            if item is None:
                return
            if isinstance(item, End):
                await self._decode(None, arrived_s)
                return
            await self._decode(item, arrived_s)

    async def _next(self, items: AsyncIterator[Item | End | Refusal]) -> Item | End | Refusal | None:
        """The next item; None when stopped."""
        if self._stopped:
            return None
        self._reading = asyncio.ensure_future(anext(items))
        try:
            return await self._reading
        except StopAsyncIteration:
            raise InvalidInput("the call ended without an end message: the caller is gone") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopped and task is not None and not task.cancelling():
                return None
            raise
        finally:
            self._reading = None

    async def _decode(self, item: Item | None, arrived_s: float) -> None:
        """Feed one item (None: no more) and handle all that comes of it."""
        loop = asyncio.get_running_loop()
        worked_s = 0.0
        if isinstance(item, RawPicture | RawChunk):
            self._desk.traces.arrived(item.trace, arrived_s)

        def begin() -> tuple[list[SourceEvent], bool]:
            if item is None:
                self._source.finish()
            else:
                self._source.feed(item)
            return advance()

        def advance() -> tuple[list[SourceEvent], bool]:
            found, left = self._source.advance()
            return fit_events(self._model.pictures, found), left

        async def work(
            step: Callable[[], tuple[list[SourceEvent], bool]],
        ) -> tuple[list[SourceEvent], bool]:
            nonlocal worked_s

            def timed() -> tuple[tuple[list[SourceEvent], bool], float]:
                began_s = self._clock()
                done = step()
                return done, self._clock() - began_s

            found, took_s = await loop.run_in_executor(self._decoders, timed)
            worked_s += took_s
            return found

        events, more = await work(begin)
        while True:
            for event in events:
                await self._handle(event, arrived_s)
            self._desk.changes.notify()
            if not more:
                break
            events, more = await work(advance)
        if item is not None:
            self._desk.meters.observe(metrics.DECODE, worked_s)

    async def _handle(self, event: SourceEvent, arrived_s: float) -> None:
        book = self._desk.book
        match event:
            case Unit():
                await self._encode(event, arrived_s)
            case Hole():
                book.ledger.add_hole(event.gap, announced=event.announced)
            case Start():
                book.add_start(event.point, event.header)
            case Refusal():
                await self._desk.refuse(event)

    async def _encode(self, unit: Unit[Rgb], arrived_s: float) -> None:
        geometry = unit_geometry(self._model, unit)
        block_bytes = self._model.layout.block_bytes(geometry.tokens, self._codec)
        # A frame that fills an empty slot is the one before it, not a copy.
        frame_bytes = sum(frame.nbytes for frame in {id(frame): frame for frame in unit.frames}.values())
        if self._shedding.sheds(self._late(), has_room=self._desk.has_room(block_bytes, frame_bytes)):
            self._desk.shed(unit.time, len(unit.frames))
            return
        await self._desk.changes.wait_for(lambda: self._desk.has_room(block_bytes, frame_bytes))
        serial = self._desk.book.add_unit(unit.time.end_us, arrived_s)
        self._desk.reserve(serial, block_bytes, frame_bytes, unit.time, len(unit.frames))
        self._submit(serial, unit, self._desk.traces.unit(serial))
