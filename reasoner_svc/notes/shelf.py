"""Tensor. The notes of one stream on the device: text blocks, one after the other, in one segment.

A note's keys are raw when they come and are rotated once, at the note's place on the shelf; where the shelf
stands is each view's business (between the recent video and the question). When the budget is passed the
oldest notes leave. Owned by the engine's thread. L layers, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile

import torch

from kv_transfer.block import Block
from reasoner_svc.notes.view import NO_NOTES, NotesInView
from tandem.core.blocks import BlockKind
from tandem.core.errors import Internal
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.segment import Segment

FIRST_TOKENS = 1024
"""Room that is made with the first note, where the budget allows as much; it grows with the notes."""


@dataclass(frozen=True, slots=True)
class Note:
    """One note: which it is, what it is about, and where its tokens lie on the shelf."""

    number: int
    time: TimeRange
    first_token: int
    tokens: int

    @property
    def end_token(self) -> int:
        """One past its last token."""
        return self.first_token + self.tokens


class NoteShelf:
    """The notes of one stream."""

    def __init__(self, model: VisionLanguageModel, budget_tokens: int) -> None:
        """At most `budget_tokens` are in a view; the newest note always is."""
        self._model = model
        self._segment: Segment | None = None
        """Made with the first note: most streams are never watched."""
        self._budget = budget_tokens
        self._notes: deque[Note] = deque()
        self._stream: StreamId | None = None
        """Whose notes they are; the first one tells."""
        self.next_number = 1
        self.writing = False
        """A note is on its way to this shelf: one at a time, whoever watches by now."""
        self.covered_us = 0
        """End of what the newest note is about."""

    @property
    def segment(self) -> Segment | None:
        """What views read; None before the first note."""
        return self._segment

    @property
    def nbytes(self) -> int:
        """Bytes of device memory."""
        return self._segment.nbytes if self._segment else 0

    @property
    def front(self) -> int:
        """First token that a new view may see."""
        return self._notes[0].first_token if self._notes else 0

    def __len__(self) -> int:
        return len(self._notes)

    def take_number(self) -> int:
        """Of a note that is going to be written; one that comes to nothing leaves a hole."""
        self.next_number += 1
        return self.next_number - 1

    def append(self, block: Block) -> Note:
        """Put a note behind the others; the oldest leave when the budget is passed."""
        header = block.header
        self._stream = self._stream or header.key.stream
        if header.kind is not BlockKind.TEXT or header.key.stream != self._stream:
            raise Internal(f"{header.key}, a {header.kind} block, is no note of {self._stream!r}")
        if self._segment is None:
            self._segment = self._model.new_segment(capacity=min(self._budget, FIRST_TOKENS))
        first = self._segment.end
        positions = torch.arange(first, first + header.tokens).expand(3, -1)
        self._segment.append_raw(block.keys().unbind(0), block.values().unbind(0), positions)
        note = Note(header.key.number, header.time, first, header.tokens)
        self._notes.append(note)
        self.next_number = max(self.next_number, header.key.number + 1)
        self.covered_us = max(self.covered_us, header.time.end_us)
        while len(self._notes) > 1 and self._segment.end - self.front > self._budget:
            self._notes.popleft()
        return note

    def in_view(self, until_us: int = 0) -> NotesInView:
        """What a question sees that sees the video up to a stream time (0: all of it): notes about that.

        A view has a range of the shelf, so it ends before the first note about anything later: notes may
        stand out of order when older ones were found late.
        """
        seen = list(takewhile(lambda note: not until_us or note.time.end_us <= until_us, self._notes))
        if not seen:
            return NO_NOTES
        return NotesInView(seen[0].first_token, seen[-1].end_token, tuple(note.time for note in seen))

    def settle(self, oldest_leased: int | None) -> None:
        """Give up the room of notes that left, as far as no running question sees them."""
        if self._segment is None:
            return
        held = self.front if oldest_leased is None else min(oldest_leased, self.front)
        dead = held - self._segment.start
        if dead > 0:
            self._segment.drop_front(dead)
