"""Tensor. The run of one stream: its visible blocks, one after the other, in one segment on the device.

Each block is appended once, its keys rotated at its place in the run; a question copies nothing and reads a
fixed range of tokens. When the run passes its budget the oldest blocks leave its front: later views do not
see them, and their room is given up as soon as no running question does::

    segment     start ....... front ........................ end
                [ leased     )[ what new views may see      )
                  by older questions

Blocks that left the run are still known to its memory, which may recall them into places between the sink and
the run's part of a view.

Owned by the engine's thread. L layers, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kv_transfer.block import Block
from reasoner_svc.notes.shelf import NoteShelf
from reasoner_svc.notes.view import NO_NOTES
from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.select import Selector
from reasoner_svc.view.compose import Position, Span, ViewPlan, choose, compose, seen_until
from reasoner_svc.view.lease import Lease
from reasoner_svc.view.memory import Row, StreamMemory
from reasoner_svc.view.recall import Recall, RecallRequest
from tandem.core.blocks import BlockGeometry, BlockKind
from tandem.core.errors import DataLost, Internal, WrongState
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.core.watching import TextPositions
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.segment import Segment
from tandem.vlm.view import Part

ORIGIN: Position = (0, 0, 0)
MakeRecall = Callable[[RecallRequest, IndexView, ViewPlan, BlockGeometry], Recall]


class StreamRun:
    """The device side of one stream."""

    def __init__(
        self,
        model: VisionLanguageModel,
        stream: StreamId,
        view_tokens: int,
        memory: StreamMemory | None = None,
        notes_tokens: int = 0,
    ) -> None:
        """Without `memory`, what leaves the run is never seen again. `notes_tokens`: most notes in a view."""
        self._model = model
        self._stream = stream
        self._view_tokens = view_tokens
        self._sink: Segment | None = None
        self._segment = model.new_segment()
        self._placement = model.prompt.placement()
        self._spans: deque[Span] = deque()
        self._next_number = 0
        self._leases: set[Lease] = set()
        self._memory = memory
        self._usual: BlockGeometry | None = None
        self.notes = NoteShelf(model, notes_tokens)
        self.positions = TextPositions.ONE_LINE
        """Where later views have notes and answers."""

    @property
    def front(self) -> int:
        """First token that a new view may see."""
        return self._spans[0].first_token if self._spans else self._segment.end

    @property
    def blocks(self) -> int:
        """Visual blocks that a new view may see."""
        return len(self._spans)

    def shown_after(self, time_us: int) -> list[TimeRange]:
        """Times of the visual blocks that a new view may see and that start at `time_us` or later."""
        return [span.time for span in self._spans if span.time.start_us >= time_us]

    @property
    def leases(self) -> int:
        """Questions that hold tokens."""
        return len(self._leases)

    @property
    def nbytes(self) -> int:
        """Bytes of device memory."""
        return self._segment.nbytes + self.notes.nbytes + (self._sink.nbytes if self._sink else 0)

    @property
    def index_bytes(self) -> int:
        """Bytes of the index of all blocks, in RAM."""
        return self._memory.index.nbytes if self._memory else 0

    def remember(self, rows: Sequence[Row]) -> None:
        """Blocks that were found on disk, oldest first, and stay there: they may be recalled."""
        for row in rows:
            assert row.header.key.number >= self._next_number, f"{row.header.key} remembered out of order"
            if self._memory is not None:
                self._memory.add_row(row)
            self._usual = row.header.geometry
            self._next_number = row.header.key.number + 1

    def selector(self, name: str) -> Selector | None:
        """A strategy of this stream by name (empty: the default); None when there is no such one."""
        return self._memory.selector(name) if self._memory else None

    @property
    def lacks_embeddings(self) -> bool:
        """It has blocks, and external retrieval can find none of them."""
        memory = self._memory
        return memory is not None and len(memory.view(None)) > 0 and not memory.embedded

    def append(self, block: Block) -> None:
        """Put the next visible block behind the others; drops from the front what passes the budget."""
        header = block.header
        if header.key.stream != self._stream:
            raise Internal(f"{header.key} was fed to the run of {self._stream!r}")
        assert header.key.number >= self._next_number, f"{header.key} fed twice or out of order"
        if header.kind is BlockKind.SINK:
            assert header.key.number == 0, header.key
            self._sink = self._model.new_segment(capacity=header.tokens)
            self._write(self._sink, block, ORIGIN)
        else:
            self._usual = header.geometry
            if self._memory is not None:
                self._memory.add(block)
            base = self._placement.place_units([header.geometry])[0]
            self._write(self._segment, block, base)
            self._spans.append(
                Span(
                    stream=self._stream,
                    number=header.key.number,
                    time=header.time,
                    geometry=header.geometry,
                    first_token=self._segment.end - header.tokens,
                    base=base,
                )
            )
        self._next_number = header.key.number + 1
        while len(self._spans) > 1 and self._segment.end - self.front > self._view_tokens:
            self._spans.popleft()
        self._settle()

    def shelve(self, notes: Sequence[Block], next_number: int = 1) -> None:
        """Notes that were found on disk, oldest first; new ones are numbered from `next_number` on."""
        for note in notes:
            self.notes.append(note)
        self.notes.next_number = max(self.notes.next_number, next_number)

    def forget_before(self, number: int) -> None:
        """Blocks below `number` left memory: no later view sees them."""
        if self._memory is not None:
            self._memory.index.forget_before(number)
        while self._spans and self._spans[0].number < number:
            self._spans.popleft()
        self._settle()

    def forget(self, number: int) -> None:
        """This block left memory: no later view recalls it. What stands in the run stays."""
        if self._memory is not None:
            self._memory.index.forget([number])

    def lease(
        self,
        *,
        prompt_tokens: int,
        as_of_us: int,
        since_us: int = 0,
        request: RecallRequest | None = None,
        make_recall: MakeRecall | None = None,
    ) -> Lease:
        """Compose a view and hold its tokens. Raises WrongState (no video yet) or DataLost (it is gone).

        With `request`, older blocks are recalled into it through what `make_recall` makes. With `since_us`
        nothing that ended by then is in view, and no note.
        """
        if self._sink is None:
            raise WrongState(f"stream {self._stream!r} has no video yet")
        spans = self._since(since_us)
        older = self._older(spans, as_of_us) if request is not None else None
        places = 0 if older is None or request is None else min(request.limits.blocks, len(older))
        if not spans and not places and self._next_number > 1:
            raise DataLost(f"all that stream {self._stream!r} showed has left memory")
        notes = NO_NOTES if since_us else self.notes.in_view(seen_until(spans, as_of_us))
        seen: dict[str, Any] = {"notes": notes, "positions": self.positions}
        plan = self._compose(spans, prompt_tokens, as_of_us=as_of_us, places=places, **seen)
        recall = None
        if places and request is not None and older is not None:
            assert make_recall is not None, "older blocks are wanted, and nobody can fetch them"
            assert self._usual is not None, "there are older blocks, and none was ever seen"
            recall = make_recall(request, older, plan, self._usual)
        lease = Lease(plan, recall, since_us)
        self._leases.add(lease)
        return lease

    def renew(self, lease: Lease, prompt_tokens: int) -> ViewPlan:
        """Let the view of a lease without recall grow by what was appended since; its notes stay as they are.

        Only between the passes of its question. Raises DataLost when all it saw has left memory.
        """
        assert lease in self._leases, "a view grows without a lease"
        seen = {"notes": lease.plan.notes, "positions": lease.plan.positions}
        spans = self._since(lease.since_us)
        ends = (spans[0].number, spans[-1].number + 1) if spans else (0, 0)
        if ends != lease.plan.numbers:
            lease.plan = self._compose(spans, prompt_tokens, **seen)
            self._settle()
        return lease.plan

    def _since(self, since_us: int) -> tuple[Span, ...]:
        return tuple(span for span in self._spans if span.time.end_us > since_us)

    def _compose(self, spans: Sequence[Span], prompt_tokens: int, **options: Any) -> ViewPlan:
        assert self._sink is not None, "a view without a sink"
        return compose(
            spans,
            self._model.prompt.placement(),
            stream=self._stream,
            sink_tokens=self._sink.length,
            prompt_tokens=prompt_tokens,
            budget_tokens=self._view_tokens,
            usual=self._usual,
            **options,
        )

    def _older(self, spans: Sequence[Span], as_of_us: int) -> IndexView | None:
        """What of the stream lies before the run's part of a view; None: nothing, or no memory."""
        if self._memory is None:
            return None
        chosen = choose(spans, budget_tokens=self._view_tokens, as_of_us=as_of_us)
        if chosen:
            first = chosen[0].number
        elif as_of_us:
            first = self._memory.first_at(as_of_us)
        else:
            first = self._next_number
        view = self._memory.view(first)
        return view if len(view) else None

    def release(self, lease: Lease) -> None:
        """The question is over."""
        self._leases.remove(lease)
        self._settle()

    def parts(self, lease: Lease, queries: int) -> tuple[Part, ...]:
        """The lease's view as parts, for a forward pass over `queries` new tokens."""
        plan = lease.plan
        if lease not in self._leases or self._sink is None:
            raise Internal(f"a view of {plan.numbers} is read without a lease")
        plan.check_held(self._segment.start, self._segment.end)
        parts = [Part(segment=self._sink, base=ORIGIN)]
        if lease.recall is not None:
            parts.append(Part(segment=lease.recall.segment, base=ORIGIN))
        if plan.notes.tokens:
            parts.append(self._notes_part(plan, queries))
        if not plan.blocks:
            return tuple(parts)
        first = None
        if self._segment.start < plan.first_token:
            first = torch.full((queries,), plan.first_token, dtype=torch.int64)
        parts.append(Part(segment=self._segment, base=plan.run_base, first_visible=first, end=plan.end_token))
        return tuple(parts)

    def _notes_part(self, plan: ViewPlan, queries: int) -> Part:
        segment, seen = self.notes.segment, plan.notes
        if segment is None:
            raise Internal(f"a view reads notes {seen} of an empty shelf")
        if not segment.start <= seen.first_token < seen.end_token <= segment.end:
            raise Internal(f"a view reads notes {seen} of a shelf of [{segment.start}, {segment.end})")
        first = None
        if segment.start < seen.first_token:
            first = torch.full((queries,), seen.first_token, dtype=torch.int64)
        return Part(segment=segment, base=plan.notes_base, first_visible=first, end=seen.end_token)

    def _write(self, segment: Segment, block: Block, base: Position) -> None:
        positions = self._model.prompt.local_positions(block.header.geometry)
        positions = positions + torch.tensor(base, dtype=torch.int64)[:, None]
        segment.append_raw(block.keys().unbind(0), block.values().unbind(0), positions)

    def _settle(self) -> None:
        held = min(
            (lease.plan.first_token for lease in self._leases if lease.plan.blocks), default=self.front
        )
        dead = min(held, self.front) - self._segment.start
        if dead > 0:
            self._segment.drop_front(dead)
        noted = (lease.plan.notes.first_token for lease in self._leases if lease.plan.notes.tokens)
        self.notes.settle(min(noted, default=None))
