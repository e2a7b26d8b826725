"""Shell. One thread owns the model, the runs of all streams and the questions being answered.

Others hand it commands (a queue, carried out in order) and never wait for it; it hands text to outboxes and
never waits for their readers. Between ticks it takes commands: for a bounded time while questions are open,
so that a flood of blocks and a long answer do not starve each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Sequence

import torch

from kv_transfer.block import Block
from reasoner_svc.decode.batch import Prepared, fail
from reasoner_svc.decode.commands import Commands
from reasoner_svc.decode.held import HeldQuestion
from reasoner_svc.decode.kinds import kind_of
from reasoner_svc.decode.measuring import MeasuredPasses
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AskedQuestion, Phase
from reasoner_svc.decode.recaller import Recaller
from reasoner_svc.decode.schedule import FIRST_TURN, Item, ScheduleLimits, plan_tick
from reasoner_svc.decode.stats import EngineStats, take_stats
from reasoner_svc.notes.box import ThoughtBox
from reasoner_svc.notes.watchers import Watchers
from reasoner_svc.view.memory import Row, StreamMemory
from reasoner_svc.view.run import StreamRun
from tandem.core.clock import Clock
from tandem.core.errors import Internal, NotFound, TandemError, Unavailable
from tandem.core.ids import StreamId
from tandem.core.watching import Watching
from tandem.vlm.model import VisionLanguageModel

log = logging.getLogger(__name__)


class Engine:
    """The model's thread. Methods may be called from any thread unless they say otherwise."""

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        limits: ScheduleLimits,
        view_tokens: int,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        on_fatal: Callable[[], None],
        recaller: Recaller | None = None,
        notes_tokens: int = 0,
        keep_note: Callable[[Block], None] = lambda block: None,
    ) -> None:
        """`on_fatal` is called in the loop when the thread died. Without `recaller`, what left a stream's run
        never comes back. `notes_tokens`: most of notes in a view; `keep_note` is called in the loop.
        """
        self._model = model
        self._limits = limits
        self._view_tokens = view_tokens
        self._clock = clock
        self._loop = loop
        self._on_fatal = on_fatal
        self._recaller = recaller
        self.passes = MeasuredPasses()  # the process puts one that counts in its place, before `start`
        self._commands = Commands(clock)
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        # Owned by the thread from here on.
        self._runs: dict[int, StreamRun] = {}
        self._broken: set[int] = set()
        self._open: dict[int, HeldQuestion] = {}
        self._turn, self._ending = FIRST_TURN, False
        self._notes_tokens = notes_tokens
        self._watchers = Watchers(model, clock, lambda block: self._post(lambda: keep_note(block)))
        self.stats = EngineStats()
        """As of the last moment between two ticks."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End every question and the thread; False when it did not end in time."""
        self._commands.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def open_run(self, run: int, stream: StreamId) -> None:
        """A stream was opened under this run number."""

        def command() -> None:
            if self._ending:
                return
            try:
                memory = None
                if self._recaller is not None:
                    memory = StreamMemory(self._model.layout, self._recaller.settings)
                self._runs[run] = StreamRun(
                    self._model, stream, self._view_tokens, memory, self._notes_tokens
                )
            except Exception:
                log.exception("no run could be opened for stream %s", stream)
                self._break(run)

        self._commands.submit(command)

    def feed(self, run: int, block: Block, done: Callable[[], None]) -> None:
        """Append the next visible block; `done` is called in the loop once its bytes are no longer needed."""

        def command() -> None:
            try:
                if (target := self._runs.get(run)) is not None:
                    target.append(block)
                    self._watchers.saw(run, block.header)
            except Exception:
                log.exception("the run of %s is lost: it cannot take the block", block.key)
                self._break(run)
            finally:
                self._post(done)

        self._commands.submit(lambda: self._watchers.in_line(run, command))

    def forget_before(self, run: int, number: int) -> None:
        """Blocks below `number` left memory."""
        self._commands.submit(lambda: self._on_run(run, lambda found: found.forget_before(number)))

    def forget(self, run: int, number: int) -> None:
        """A block left memory, wherever it was."""
        self._commands.submit(lambda: self._on_run(run, lambda found: found.forget(number)))

    def remember(self, run: int, rows: Sequence[Row]) -> None:
        """Blocks that were found on disk, oldest first; none of them is fed."""
        self._commands.submit(lambda: self._on_run(run, lambda found: found.remember(rows)))

    def close_run(self, run: int) -> None:
        """Free a stream's run and end its questions."""

        def command() -> None:
            for question in [q for q in self._open.values() if q.asked.run == run]:
                question.fail(NotFound(f"stream {question.asked.stream!r} was closed"))
            self._watchers.close(run, None, NotFound("the stream was closed"))
            self._runs.pop(run, None)
            self._broken.discard(run)
            if self._recaller is not None:
                self._recaller.loader.pool.forget_run(run)

        self._commands.submit(command)

    def shelve(self, run: int, notes: Sequence[Block], next_number: int = 1) -> None:
        """Notes that were found on disk, oldest first; new ones are numbered from `next_number` on."""
        self._commands.submit(lambda: self._on_run(run, lambda found: found.shelve(notes, next_number)))

    def watch(self, run: int, stream: StreamId, rules: Watching, box: ThoughtBox) -> None:
        """Take notes of a run from now on. The box ends when the run is closed or watched anew."""

        def command() -> None:
            if run in self._runs:
                self._watchers.close(run, None, Unavailable("another watcher took over"))
                self._watchers.open(stream, run, self._runs[run], rules, box)
            else:
                box.end(NotFound(f"stream {stream!r} is not open"))

        self._commands.submit(command)

    def unwatch(self, run: int, box: ThoughtBox) -> None:
        """Take no more notes for this box; one that is being written is finished."""
        self._commands.submit(lambda: self._watchers.close(run, box, Unavailable("nobody watches any more")))

    def finish_notes(self, run: int, done: Callable[[int], None]) -> None:
        """See `Watchers.finish`; `done` is called in the loop."""
        self._commands.submit(lambda: self._watchers.finish(run, lambda last: self._post(lambda: done(last))))

    def ask(self, asked: AskedQuestion, outbox: Outbox) -> HeldQuestion:
        """Begin to answer, after everything that was handed over before. Event loop only."""
        made = (next(self._numbers), self._model, asked, outbox, self._clock, self._recaller)
        question = kind_of(asked)(*made)

        def command() -> None:
            if self._ending:
                question.fail(Unavailable("the reasoner is stopping"))
            else:
                self._open[question.number] = question

        self._commands.submit(lambda: self._watchers.in_line(asked.run, command))
        return question

    def cancel(self, question: HeldQuestion) -> None:
        """The asker left: stop before the question's next step and free what it holds. Idempotent."""

        def command() -> None:
            question.abandon(Unavailable("the question was cancelled"))
            self._reap()

        question.cancelled = True
        self._commands.submit(command)

    async def flush(self) -> EngineStats:
        """Wait until everything handed over so far is done; for closing and for tests."""
        done: asyncio.Future[None] = self._loop.create_future()

        def command() -> None:
            self._note()
            self._post(lambda: None if done.done() else done.set_result(None))

        self._commands.submit(command)
        await done
        return self.stats

    def _post(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(call)

    def _main(self) -> None:
        try:
            with torch.inference_mode():
                while not self._commands.closing:
                    if self._commands.take(self._is_busy, lambda: bool(self._open)):
                        self._note()
                    self._begin_notes()
                    self._tick()
                    self._reap()
                    self._begin_notes()
            self._end(Unavailable("the reasoner is stopping"))
        except BaseException:
            log.critical("the engine's thread died", exc_info=True)
            self._post(self._on_fatal)
            self._end(Unavailable("the reasoner failed and is being restarted"))

    def _is_busy(self) -> bool:
        return any(not question.rests for question in self._open.values())

    def _begin_notes(self) -> None:
        """Before a tick, for what was fed; after it, for what came while a note was written."""
        for note in self._watchers.due(lambda: next(self._numbers)):
            self._open[note.number] = note

    def _tick(self) -> None:
        tick = plan_tick([q.waiting for q in self._open.values()], self._turn, self._limits)
        self._turn = tick.turn
        self.passes.run(self._model, [one for item in tick.items if (one := self._prepare(item)) is not None])

    def _prepare(self, item: Item) -> Prepared | None:
        question = self._open[item.number]
        if question.cancelled or question.progress.phase.final:
            return None
        try:
            if question.progress.phase is Phase.QUEUED:
                question.begin(self._run_of(question.asked))
            return Prepared(question, question.prepare(item.prompt_tokens))
        except Exception as error:
            fail(question, error)
            return None

    def _run_of(self, asked: AskedQuestion) -> StreamRun:
        run = self._runs.get(asked.run)
        if run is None and asked.run in self._broken:
            raise Internal(f"the memory of stream {asked.stream!r} could not be written; open it anew")
        if run is None:
            raise NotFound(f"stream {asked.stream!r} was closed")
        return run

    def _on_run(self, run: int, change: Callable[[StreamRun], None]) -> None:
        try:
            if run in self._runs:
                change(self._runs[run])
        except Exception:
            log.exception("run %d is lost: it could not be changed", run)
            self._break(run)

    def _reap(self) -> None:
        ended = [number for number, q in self._open.items() if q.progress.phase.final]
        for number in ended:
            del self._open[number]
        if ended:
            self._note()

    def _break(self, run: int) -> None:
        self._watchers.close(run, None, Internal("the memory of the stream could not be written"))
        self._broken.add(run)
        self._runs.pop(run, None)

    def _note(self) -> None:
        pool = self._recaller.loader.pool if self._recaller else None
        self.stats = take_stats(self._runs.values(), self._open.values(), pool, len(self._watchers))

    def _end(self, error: TandemError) -> None:
        """Fail every question, then carry out what is left: pins go, flushes are answered, late asks fail."""
        self._ending = True
        self._runs.clear()
        self._watchers.end(error)
        for question in self._open.values():
            question.fail(error)
        self._open.clear()
        self._note()
        self._commands.finish()
