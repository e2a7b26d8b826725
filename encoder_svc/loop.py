"""Shell. The one thread that owns the model: takes fair batches of waiting units and encodes them.

Knows neither media nor links. Streams are opened and fed from the event loop; results come back to it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from encoder_svc import metrics
from encoder_svc.batch import DeadlineQueue
from encoder_svc.batch import Run as QueueRun
from encoder_svc.cost import CostMeter
from encoder_svc.decode.pictures import Rgb
from encoder_svc.encode import Run, encode_sink, prefill_runs, see_runs
from encoder_svc.lanes import Job, Lane, LoopConfig, LoopStats
from encoder_svc.sample import Unit
from encoder_svc.traces import UnitTrace
from encoder_svc.trial import try_out
from encoder_svc.window import Window
from kv_transfer.block import Block
from kv_transfer.codecs import NotCodable
from tandem.core.blocks import Codec
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import Internal, TandemError
from tandem.core.meters import NO_METERS, Meters
from tandem.core.timeline import MICROSECONDS
from tandem.vlm.embedder import Embedder
from tandem.vlm.model import VisionLanguageModel

log = logging.getLogger(__name__)

BATCH_S = 0.3
"""Longest batch, about, while there are several streams."""


class EncodeLoop:
    """Encodes for all streams. Make and use it in the event loop."""

    def __init__(
        self,
        model: VisionLanguageModel,
        config: LoopConfig,
        embedder: Embedder | None = None,
        meters: Meters = NO_METERS,
        clock: Clock = monotonic_clock,
        cost: CostMeter | None = None,
    ) -> None:
        self._meters = meters
        self._clock = clock
        self._model = model
        self._embedder = embedder
        self._config = config
        self._queue: DeadlineQueue[Lane, Job] = DeadlineQueue(
            run_items=config.run_units, batch_items=config.batch_units
        )
        self._wake = threading.Condition()
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="encoder-model", daemon=True)
        self.stats = LoopStats()
        self.cost = cost if cost is not None else CostMeter()

    @property
    def window_units(self) -> int:
        """Units that a unit sees before itself."""
        return self._config.window_units

    @property
    def codec(self) -> Codec:
        """How blocks are written, the sink apart."""
        return self._config.codec

    @property
    def waiting(self) -> int:
        """Units that wait for the model."""
        with self._wake:
            return len(self._queue)

    @property
    def batch_units(self) -> int:
        """Most units in a batch."""
        return self._config.batch_units

    def late(self, lane: Lane) -> float:
        """Seconds that a stream's oldest waiting unit is past its deadline; below 0: until it."""
        with self._wake:
            return self._queue.late(lane, self._clock())

    def weigh(self, lane: Lane, weight: float) -> None:
        """A stream's part of what is late, against those of others."""
        with self._wake:
            if not lane.closed:
                self._queue.weigh(lane, weight)

    def try_out(self) -> None:
        """Run a few batches in this thread, before `start`: what a unit costs is known from then on."""
        config = self._config
        try_out(self._model, self._embedder, config.codec, config.batch_units, self.cost, self._clock)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def close(self) -> None:
        """Stop after the batch that runs now; what waits is dropped."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def open(self, lane: Lane) -> None:
        """Prepare a stream: a new one gets its sink, an old one its window."""
        if lane.max_lag_s:
            with self._wake:
                self._queue.limit(lane, lane.max_lag_s)
        self._put(lane, Job(0, None))

    def submit(self, lane: Lane, serial: int, unit: Unit[Rgb], trace: UnitTrace | None = None) -> None:
        """Encode a unit, after all earlier ones of its stream. The caller bounds how many wait."""
        self._put(lane, Job(serial, unit, self._clock(), trace))

    def drop(self, lane: Lane) -> None:
        """Forget a stream; safe at any time."""
        lane.closed = True
        with self._wake:
            self._queue.drop(lane)

    def _put(self, lane: Lane, job: Job) -> None:
        duration_s = job.unit.time.duration_us / MICROSECONDS if job.unit is not None else 0.0
        with self._wake:
            self._queue.put(lane, job, self._clock(), duration_s)
            self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or len(self._queue) > 0)
                if self._stopping:
                    return
                expired = self._queue.expire(self._clock())
                batch = self._queue.take(self._clock(), self._most())
            for lane, job in expired:
                self._leave_out(lane, job)
            try:
                self._encode(batch)
            except Exception as error:  # a defect: these streams end with it, the thread and others go on
                for taken in batch:
                    self._fail(taken.stream, error)
            # Frames and windows of closed streams are freed now, not when the next batch comes.
            del batch

    def _leave_out(self, lane: Lane, job: Job) -> None:
        if job.unit is None:  # its window, which all that follows needs
            self._open(lane)
        else:
            self._call(lane, lambda: lane.on_left_out(job.serial))

    def _most(self) -> int:
        """Units of the next batch: what comes while it runs waits for all of it, however urgent."""
        units = self._config.batch_units
        return units if self._queue.streams <= 1 else self.cost.units_within(BATCH_S, units)

    def _encode(self, batch: list[QueueRun[Lane, Job]]) -> None:
        ready: list[_Ready] = []
        for taken in batch:
            lane = taken.stream
            if lane.closed or lane.failed:
                continue
            run = _Ready(lane, [job for job in taken.items if job.unit is not None])
            if len(run.jobs) == len(taken.items) or self._open(lane):
                ready.append(run)
        self._encode_together([run for run in ready if run.jobs])

    def _open(self, lane: Lane) -> bool:
        try:
            lane.window = Window(self._model, self._config.window_units)
            if lane.kept is not None:
                lane.window.restore(lane.kept)
                lane.kept = None
            else:
                self._post(lane, [(0, encode_sink(self._model, lane.stream, lane.window))])
            self._call(lane, lane.on_ready)
        except Exception as error:
            self._fail(lane, error)
            return False
        return True

    def _encode_together(self, ready: list[_Ready]) -> None:
        if not ready:
            return
        runs, began_s = [run.as_run() for run in ready], self._clock()
        try:
            seen = see_runs(self._model, runs, self._embedder)
        except Exception as error:
            if len(ready) == 1:
                self._fail(ready[0].lane, error)
            else:  # find out whose pictures they were; the others go on
                for run in ready:
                    self._encode_together([run])
            return
        try:
            blocks = prefill_runs(self._model, runs, seen, self._config.codec)
        except Exception as error:
            for run in ready:
                self._fail(run.lane, error)
            return
        self.stats.batches += 1
        self.stats.cpu_s = time.thread_time()
        done = [block for of_run in blocks if not isinstance(of_run, NotCodable) for block in of_run]
        tokens = sum(block.header.geometry.tokens for block in done)
        self.cost.add(len(done), tokens, began_s, self._clock())
        self._measure(ready, began_s)
        for run, of_run in zip(ready, blocks, strict=True):
            if isinstance(of_run, NotCodable):
                self._fail(run.lane, of_run)
                continue
            self.stats.units += len(of_run)
            self._count(of_run)
            self._post(run.lane, [(job.serial, block) for job, block in zip(run.jobs, of_run, strict=True)])

    def _measure(self, ready: list[_Ready], began_s: float) -> None:
        now_s, jobs = self._clock(), [job for run in ready for job in run.jobs]
        frames = self._model.prompt.frames_per_unit
        self._meters.observe(metrics.ENCODE, now_s - began_s)
        self._meters.observe(metrics.BATCH_FRAMES, len(jobs) * frames)
        for job in jobs:
            self._meters.observe(metrics.QUEUE, began_s - job.queued_s)
            if job.trace is not None:
                job.trace.began_s, job.trace.encoded_s = began_s, now_s

    def _count(self, blocks: list[Block]) -> None:
        frames = self._model.prompt.frames_per_unit
        self._meters.count(metrics.FRAMES, len(blocks) * frames, outcome="encoded", reason="")
        for block in blocks:
            self._meters.observe(metrics.FRAME_TOKENS, block.header.tokens / frames)

    def _fail(self, lane: Lane, error: Exception) -> None:
        if lane.failed:
            return
        lane.failed = True
        self.stats.failures += 1
        if isinstance(error, TandemError):
            typed = error
        else:
            log.error("encoding stream %s failed", lane.stream, exc_info=error)
            typed = Internal(f"encoding failed ({type(error).__name__}); the encoder's log has details")
        self._call(lane, lambda: lane.on_error(typed))

    def _post(self, lane: Lane, blocks: list[tuple[int, Block]]) -> None:
        self._call(lane, lambda: lane.on_blocks(blocks))

    def _call(self, lane: Lane, then: Callable[[], None]) -> None:
        def deliver() -> None:
            if not lane.closed:
                then()

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            log.debug("the event loop is closed; a result of stream %s is dropped", lane.stream)


@dataclass(slots=True)
class _Ready:
    lane: Lane
    jobs: list[Job] = field(default_factory=list)

    def as_run(self) -> Run:
        assert self.lane.window is not None, f"stream {self.lane.stream} was not opened"
        units = tuple(job.unit for job in self.jobs if job.unit is not None)
        return Run(self.lane.stream, self.lane.window, units)
