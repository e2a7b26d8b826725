"""Tensor. The watchers of all runs. The engine's thread only."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kv_transfer.block import Block
from reasoner_svc.notes.box import ThoughtBox
from reasoner_svc.notes.taking import NoteTaking
from reasoner_svc.notes.watcher import Watcher
from reasoner_svc.view.run import StreamRun
from tandem.core.blocks import BlockHeader
from tandem.core.clock import Clock
from tandem.core.errors import Internal, TandemError
from tandem.core.ids import StreamId
from tandem.core.watching import Watching
from tandem.vlm.model import VisionLanguageModel

log = logging.getLogger(__name__)


class Watchers:
    """By run; at most one a run."""

    def __init__(self, model: VisionLanguageModel, clock: Clock, keep: Callable[[Block], None]) -> None:
        """`keep` stores a note beyond the device."""
        self._model = model
        self._clock = clock
        self._keep = keep
        self._of: dict[int, Watcher] = {}

    def __len__(self) -> int:
        return len(self._of)

    def open(self, stream: StreamId, number: int, run: StreamRun, rules: Watching, box: ThoughtBox) -> None:
        """Watch a run; a watcher that is there already is replaced, its notes stay."""
        self._of[number] = Watcher(self._model, stream, number, run, rules, box, self._clock, self._keep)

    def close(self, number: int, box: ThoughtBox | None, why: TandemError) -> None:
        """Stop watching; with `box` only if it is still that watcher. What it held up goes on."""
        known = self._of.get(number)
        if known is not None and box in (None, known.box):
            known.box.end(why)
            del self._of[number]
            known.leave()

    def in_line(self, number: int, call: Callable[[], None]) -> None:
        """Do what happens to a run, at once or when its watcher lets it go on, in order."""
        if number in self._of:
            self._of[number].line.put(call)
        else:
            call()

    def finish(self, number: int, done: Callable[[int], None]) -> None:
        """Have a last note written of a run that gets no more; `done` is told the number of the last note."""
        if number in self._of:
            self._of[number].finish(done)
        else:
            done(0)

    def saw(self, number: int, header: BlockHeader) -> None:
        """A block stands in a run."""
        if number in self._of:
            self._of[number].saw(header)

    def due(self, take_number: Callable[[], int]) -> list[NoteTaking]:
        """Notes to be written now. A watcher whose prompt cannot be made ends with its error."""
        notes = []
        for number, watcher in list(self._of.items()):
            watcher.follow()
            watcher.line.move()
            try:
                note = watcher.begin(take_number)
            except TandemError as error:
                self.close(number, None, error)
                continue
            except Exception:
                # Our fault, and one stream's: the thread serves all the others.
                log.exception("stream %s is not watched any more", watcher.stream)
                self.close(number, None, Internal("the watcher failed; the server's log has details"))
                continue
            if note is not None:
                notes.append(note)
            watcher.settle()
        return notes

    def end(self, why: TandemError) -> None:
        """The engine ends."""
        for number in list(self._of):
            self.close(number, None, why)
