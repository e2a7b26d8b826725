"""Tensor. One stream's watcher: decides when a note is due, has it written, and puts it on the shelf.

Owned by the engine's thread. What a note sees is what a question would see that is asked at its end: the
recent video and the notes so far. While an interleaved watcher writes, its run stands still (`line`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from kv_transfer.block import Block, pack_block
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, Phase
from reasoner_svc.notes.box import NoteRecord, Thought, ThoughtBox
from reasoner_svc.notes.growing import GrowingNote
from reasoner_svc.notes.line import Line
from reasoner_svc.notes.pace import Pace
from reasoner_svc.notes.rules import is_due, most_tokens, stamp, stops, suited, words
from reasoner_svc.notes.taking import NoteTaking, Written
from reasoner_svc.notes.tally import Tally
from reasoner_svc.notes.view import Arrival
from reasoner_svc.view.run import StreamRun
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind
from tandem.core.clock import Clock
from tandem.core.errors import Internal, TandemError
from tandem.core.ids import QuestionId, StreamId, notes_of
from tandem.core.timeline import TimeRange
from tandem.core.watching import TextPositions, Watching, WatchMode
from tandem.vlm.model import VisionLanguageModel

log = logging.getLogger(__name__)

Keep = Callable[[Block], None]
"""Stores a note beyond the device."""


class _NoteOutbox(Outbox):
    """What a note's text goes to instead of an asker."""

    def __init__(self, box: ThoughtBox, number: int, time: TimeRange) -> None:
        self._box, self._number, self._time = box, number, time
        self._arrivals: list[Arrival] = []
        self.lost: TandemError | None = None
        """Why the note is not kept, though it was written."""

    def saw(self, time: TimeRange, arrival: Arrival) -> None:
        """The note is about more of the stream from now on."""
        self._time = time
        self._arrivals.append(arrival)

    def put(self, text: str) -> None:
        """See `Outbox`."""
        self._box.put(Thought(self._number, self._time, text))

    def end(self, end: AnswerRecord | TandemError) -> None:
        """See `Outbox`."""
        record, error = None, end if isinstance(end, TandemError) else self.lost
        if error is not None:
            log.warning("note %d about %s was not written: %s", self._number, self._time, error)
        elif not isinstance(end, TandemError):
            record = NoteRecord(end.token_ids, tuple(self._arrivals))
        failed = error is not None
        self._box.put(Thought(self._number, self._time, "", done=True, failed=failed, record=record))


class Watcher:
    """Takes the notes of one run."""

    def __init__(
        self,
        model: VisionLanguageModel,
        stream: StreamId,
        run_number: int,
        run: StreamRun,
        rules: Watching,
        box: ThoughtBox,
        clock: Clock,
        keep: Keep,
    ) -> None:
        """What stands in the run already, and no note is about, is the first thing to take note of."""
        self.rules = suited(rules, model.prompt)
        self.box = box
        self.line = Line(lambda: rules.mode is WatchMode.INTERLEAVED and (self._writing or self._due))
        """What arrives for the run, in order."""
        self._model = model
        self.stream = stream
        self._run_number = run_number
        self._run = run
        self._clock = clock
        self._keep = keep
        self._pace = Pace()
        self._to_tell: list[Callable[[int], None]] = []
        """Who waits for the last note; some do when the run gets no more."""
        self._last = 0
        self._tally = Tally()
        self._follows = run.notes.writing
        """The watcher before it is writing still; what that note is about is known when it is there."""
        run.positions = rules.positions
        self._count_all()

    @property
    def _writing(self) -> bool:
        return self._run.notes.writing

    @property
    def _due(self) -> bool:
        return is_due(self.rules, self._tally.units, self._writing, ends=bool(self._to_tell))

    def saw(self, header: BlockHeader) -> None:
        """A block stands in the run; one that an encoder sent again may be in a note already."""
        if header.kind is BlockKind.VISUAL:
            self._pace.arrived(self._clock(), header.time)
            if header.time.start_us >= self._run.notes.covered_us:
                self._tally.count(header.time)

    def follow(self) -> None:
        """Begin where the watcher before it ends, when it has."""
        if self._follows and not self._writing:
            self._follows = False
            self._count_all()

    def leave(self) -> None:
        """It watches no more; a note that is being written is finished."""
        self._run.positions = TextPositions.ONE_LINE
        # It is told of no more blocks: that note would rest for what was late once, and hold what it sees.
        self._pace.ended()
        self.line.clear()
        self._tell()

    def finish(self, done: Callable[[int], None]) -> None:
        """The run gets no more: the rest of it has a note too. `done` is told the last note's number."""
        self._to_tell.append(done)
        self._pace.ended()

    def settle(self) -> None:
        """Say so when all of a run that gets no more is in notes."""
        if not (self._writing or self._tally.units or len(self.line)):
            self._tell()

    def _tell(self) -> None:
        waiting, self._to_tell = self._to_tell, []
        for done in waiting:
            done(self._last)

    def _count_all(self) -> None:
        """What no note is about."""
        self._tally.clear()
        for time in self._run.shown_after(self._run.notes.covered_us):
            self._tally.count(time)

    def begin(self, take_number: Callable[[], int]) -> NoteTaking | None:
        """The next note as a question, when one is due. Raises a TandemError when its prompt is no good."""
        if not self._due:
            return None
        time = self._tally.time
        grows = self.rules.mode is WatchMode.CONCURRENT
        prompt, note = self._model.prompt, self._run.notes.take_number()
        marks = prompt.encode_text(stamp(time))
        asked = AskedQuestion(
            stream=self.stream,
            question_id=QuestionId(f"note-{note}"),
            run=self._run_number,
            prompt_ids=(*prompt.question_tokens(words(self.rules, time)), *marks),
            sampling=SamplingParams(),
            stops=stops(prompt, time),
            max_tokens=most_tokens(self.rules),
            as_of_us=0 if grows else time.end_us,
            since_us=time.start_us if prompt.note_alone else 0,
            arrived_s=self._clock(),
        )
        outbox = _NoteOutbox(self.box, note, time)
        kind = partial(GrowingNote, on_seen=outbox.saw) if grows else NoteTaking
        # Where blocks wait for the note, resting would only make them later.
        pace = None if self.rules.mode is WatchMode.INTERLEAVED else self._pace
        taking = kind(
            take_number(),
            self._model,
            asked,
            outbox,
            self._clock,
            time=time,
            stamp_tokens=len(marks),
            on_end=lambda phase, written: self._end(note, phase, written, outbox),
            pace=pace,
        )
        self._run.notes.writing, self._last = True, note
        self._tally.take()
        return taking

    def _end(self, number: int, phase: Phase, written: Written | None, outbox: _NoteOutbox) -> None:
        self._run.notes.writing = False
        if phase is not Phase.DONE:
            self._tally.give_back()
            return
        try:
            if written is not None:  # Otherwise it had nothing to say about this.
                self._put(number, written)
            self._tally.settled()
        except Exception:
            # Whoever reads it must learn that it is not there; the engine does not expect an error here.
            log.exception("note %d of stream %s is lost", number, self.stream)
            outbox.lost = Internal("the note could not be kept; the server's log has details")
            self._tally.give_back()

    def _put(self, number: int, written: Written) -> None:
        tokens = written.keys.shape[2]
        block = pack_block(
            BlockKey(notes_of(self.stream), number),
            BlockKind.TEXT,
            BlockGeometry(text_before=tokens, grid_t=0, grid_h=0, grid_w=0, text_after=0),
            self._model.layout,
            self._model.fingerprint,
            written.time,
            written.keys,
            written.values,
        )
        self._run.notes.append(block)
        if self.rules.mode is WatchMode.CONCURRENT:
            self._count_all()
        self._keep(block)
