"""A stream that is played at its own pace through the encoder's and the reasoner's parts, watched or not.

A camera gives a frame every period; a thread encodes what waits, as the encoder service does; blocks are
published and shown to questions by a reasoner of this process. All of it shares this machine, so that what a
watcher takes is taken from the encoder too.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from bench._streams import STREAM, Asking, Parts
from encoder_svc.app import DEFAULT_WINDOW_UNITS
from encoder_svc.encode import Run, Seen, encode_sink, prefill_runs
from encoder_svc.sample import Unit
from encoder_svc.window import Window
from kv_transfer.block import Block
from reasoner_svc.app import Reasoner
from tandem.core.ids import StreamId
from tandem.core.timeline import MICROSECONDS, TimeRange
from tandem.shapes.streams import Stream
from tandem.vlm.model import VisualUnits

MOST_AT_ONCE = 8
"""Units that wait and are encoded together."""


class Encoder:
    """One stream's pictures, a unit each, on their way to blocks; one thread."""

    def __init__(self, parts: Parts, stream: Stream, period_s: float = 1.0) -> None:
        """`period_s`: stream time of a unit."""
        self._period_us = round(period_s * MICROSECONDS)
        self._model, self._codec, self._stream = parts.model, parts.codec, stream
        self._name = StreamId(STREAM)
        self._window = Window(parts.model, parts.model.prompt.window_units or DEFAULT_WINDOW_UNITS)
        self._shown = stream.shown.tolist()

    def sink(self) -> Block:
        """The stream's first block."""
        return encode_sink(self._model, self._name, self._window)

    def blocks(self, first: int, count: int) -> list[Block]:
        """So many units from `first` on; each of them goes through the vision tower."""
        model, rows = self._model, self._shown[first : first + count]
        pictures = torch.from_numpy(self._stream.pictures[rows])
        frames = pictures[:, None].expand(-1, model.prompt.frames_per_unit, -1, -1, -1)
        visual = model.see(frames)
        units = tuple(self._unit(row, first + i) for i, row in enumerate(rows))
        tokens = model.unit_embeds(
            VisualUnits(visual.embeds, visual.grid), [unit.time.start_us for unit in units]
        )
        seen = [Seen(of_unit, None, "") for of_unit in tokens]
        found = prefill_runs(model, [Run(self._name, self._window, units)], [seen], self._codec)[0]
        assert isinstance(found, list), found
        return found

    def _unit(self, row: int, number: int) -> Unit[Any]:
        span = TimeRange(number * self._period_us, (number + 1) * self._period_us)
        return Unit(span, (self._stream.pictures[row],) * self._model.prompt.frames_per_unit)


@dataclass
class Played:
    """What was measured while a stream played."""

    arrived_s: list[float] = field(default_factory=list)
    """When the camera gave each unit."""
    shown_s: list[float] = field(default_factory=list)
    """When questions could see it."""

    @property
    def lags_ms(self) -> list[float]:
        """Of each unit, from the camera to where questions see it."""
        return [1000 * (b - a) for a, b in zip(self.arrived_s, self.shown_s, strict=True)]


async def play(
    reasoner: Reasoner,
    asking: Asking,
    encoder: Encoder,
    units: int,
    period_s: float,
    on_unit: Callable[[int], None] = lambda number: None,
) -> Played:
    """Play so many units, one every `period_s`; `on_unit` hears of each.

    Ends when questions see all of them.
    """
    played, waiting = Played(), queue.Queue[int | None]()
    all_shown, loop = asyncio.Event(), asyncio.get_running_loop()
    _listen(reasoner, played, units, all_shown)
    asking.publish([encoder.sink()])

    def encode() -> None:
        with torch.inference_mode():
            ends = False
            while not ends:
                taken = [waiting.get()]
                while len(taken) < MOST_AT_ONCE and not waiting.empty():
                    taken.append(waiting.get())
                ends = taken[-1] is None
                numbers = [number for number in taken if number is not None]
                if numbers:
                    loop.call_soon_threadsafe(asking.publish, encoder.blocks(numbers[0], len(numbers)))

    encoding = asyncio.create_task(asyncio.to_thread(encode))
    began_s = time.perf_counter()
    for number in range(units):
        await asyncio.sleep(max(0.0, began_s + number * period_s - time.perf_counter()))
        played.arrived_s.append(time.perf_counter())
        waiting.put(number)
        on_unit(number)
    waiting.put(None)
    await encoding
    await asyncio.wait_for(all_shown.wait(), 120)
    return played


def _listen(reasoner: Reasoner, played: Played, units: int, all_shown: asyncio.Event) -> None:
    """Hear from the engine when a block stands where questions see it."""
    engine = reasoner.engine
    feed = engine.feed

    def heard(run: int, block: Block, done: Callable[[], None]) -> None:
        def shown() -> None:
            done()
            if block.key.number:
                played.shown_s.append(time.perf_counter())
            if len(played.shown_s) == units:
                all_shown.set()

        feed(run, block, shown)

    engine.feed = heard  # type: ignore[method-assign]
