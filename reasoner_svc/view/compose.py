"""Pure. Which blocks a question sees and where they stand, out of what the stream's run holds.

The blocks of a view stand contiguously behind the sink, as if the stream had begun with the first of them::

    reader's frame   0 ......... sink ......... units ......... notes .... question .... answer
    run's frame                    |<- run_base ->| first .......... last
                                                  [first_token ...... end_token)

The run's keys are rotated at the run's own positions, which only grow; `run_base` is the difference, and
the reader's queries turn by it. Nothing is rotated again, however far the stream has run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from reasoner_svc.notes.view import NO_NOTES, NotesInView
from tandem.core.blocks import BlockGeometry
from tandem.core.errors import DataLost, Internal, WrongState
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange, format_time, merge_ranges
from tandem.core.watching import TextPositions

if TYPE_CHECKING:
    from tandem.vlm.families.base import Placement

Position = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One visual block in a run: which it is, and where its tokens and its origin lie in the run."""

    stream: StreamId
    number: int
    time: TimeRange
    geometry: BlockGeometry
    first_token: int
    base: Position
    """Of the block's origin in the run's frame."""

    @property
    def end_token(self) -> int:
        """One past its last token in the run."""
        return self.first_token + self.geometry.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPlan:
    """What one question sees; fixed at the moment it is composed."""

    stream: StreamId
    numbers: tuple[int, int]
    """Half-open range of block numbers in view."""
    first_token: int
    """Of the run: the first token in view."""
    end_token: int
    """Of the run: one past the last token in view."""
    run_base: Position
    """Where the run's origin stands in the reader's frame."""
    question_base: Position
    """Of the first token of the prompt."""
    answer_start: int
    """Position, on all axes, of the first generated token."""
    context_tokens: int
    """Tokens in view before the prompt, the sink's included."""
    evidence: tuple[TimeRange, ...]
    """Stream times of the run's blocks in view, joined where they touch."""
    blocks: int
    """Visual blocks of the run in view."""
    watermark_us: int
    """End of the last block in view."""
    places: int = 0
    """Units between sink and run that older blocks may be recalled to."""
    places_end: Position = (0, 0, 0)
    """Where those places end: base of the run's first block in view, or of what follows."""
    notes: NotesInView = NO_NOTES
    """Notes in view, between the run and the prompt."""
    notes_base: Position = (0, 0, 0)
    """Where the shelf's origin stands in the reader's frame."""
    positions: TextPositions = TextPositions.ONE_LINE
    """How notes and what is generated are counted."""

    def check_held(self, start: int, end: int) -> None:
        """Raise Internal unless a run that holds the tokens [start, end) has all that is in view."""
        if self.blocks and not start <= self.first_token < self.end_token <= end:
            raise Internal(
                f"a view of {self.numbers} reads [{self.first_token}, {self.end_token}) "
                f"of a run that holds [{start}, {end})"
            )


def compose(
    spans: Sequence[Span],
    placement: Placement,
    *,
    stream: StreamId,
    sink_tokens: int,
    prompt_tokens: int,
    budget_tokens: int,
    as_of_us: int = 0,
    places: int = 0,
    usual: BlockGeometry | None = None,
    notes: NotesInView = NO_NOTES,
    positions: TextPositions = TextPositions.ONE_LINE,
) -> ViewPlan:
    """The newest blocks that start before `as_of_us` (0: all) and fit the budget.

    Between the sink and them lie `places` for older blocks of the geometry `usual`, so that positions stay
    small however long the stream is (ReKV, arXiv 2503.00540, section 3.2: retrieved blocks stand contiguous).
    With two counters the notes stand at 0 and what is generated behind them, whatever the video takes
    (Think-as-You-See, arXiv 2603.02872, section 3). `placement` is a fresh one of the model's layout. Raises
    WrongState when there is no video yet, DataLost when there was, it has left the view and there are no
    places for it.
    """
    chosen = choose(spans, budget_tokens=budget_tokens, as_of_us=as_of_us)
    if not chosen and not places:
        raise _nothing(spans, stream, as_of_us)
    _check(chosen, stream)
    older = [usual] * places if usual is not None else []
    bases = placement.place_units([*older, *(span.geometry for span in chosen)])
    after = placement.after_units()
    question = _plus(after, notes.tokens)
    answer_start, shelf = placement.generation_start(prompt_tokens) + notes.tokens, after
    if positions is TextPositions.TWO_COUNTERS:
        question, answer_start, shelf = after, notes.tokens, (0, 0, 0)
    return ViewPlan(
        stream=stream,
        numbers=(chosen[0].number, chosen[-1].number + 1) if chosen else (0, 0),
        first_token=chosen[0].first_token if chosen else 0,
        end_token=chosen[-1].end_token if chosen else 0,
        run_base=_minus(bases[-1], chosen[-1].base) if chosen else (0, 0, 0),
        question_base=question,
        answer_start=answer_start,
        context_tokens=sink_tokens + sum(span.geometry.tokens for span in chosen) + notes.tokens,
        evidence=tuple(merge_ranges(span.time for span in chosen)),
        blocks=len(chosen),
        watermark_us=max((span.time.end_us for span in chosen), default=as_of_us),
        places=places,
        places_end=placement.base_of(places) if places else (0, 0, 0),
        notes=notes,
        notes_base=_plus(shelf, -notes.first_token),
        positions=positions,
    )


def choose(spans: Sequence[Span], *, budget_tokens: int, as_of_us: int = 0) -> Sequence[Span]:
    """The blocks before `as_of_us` (0: all), less the oldest that pass the budget; the last always stays."""
    end = len(spans)
    if as_of_us:
        end = next((i for i, span in enumerate(spans) if span.time.start_us >= as_of_us), end)
    start = end
    while start > 0 and (
        start == end or spans[end - 1].end_token - spans[start - 1].first_token <= budget_tokens
    ):
        start -= 1
    return spans[start:end]


def seen_until(spans: Sequence[Span], as_of_us: int) -> int:
    """The end of the last block that starts before `as_of_us`: a note may be about that block too. 0: now."""
    if not as_of_us:
        return 0
    last = next((span.time.end_us for span in reversed(spans) if span.time.start_us < as_of_us), as_of_us)
    return max(last, as_of_us)


def _check(chosen: Sequence[Span], stream: StreamId) -> None:
    """Raise Internal unless a view holds neighbouring blocks of its own stream and nothing else."""
    for before, after in pairwise(chosen):
        if after.number <= before.number or after.first_token != before.end_token:
            raise Internal(f"blocks {before.number} and {after.number} of {stream!r} are not neighbours")
    if any(span.stream != stream for span in chosen):
        raise Internal(f"a foreign block in a view of {stream!r}")


def _nothing(spans: Sequence[Span], stream: StreamId, as_of_us: int) -> WrongState | DataLost:
    if spans and spans[0].number > 1:
        return DataLost(
            f"all that stream {stream!r} showed before {format_time(as_of_us)} has left the view; "
            f"it goes back to {format_time(spans[0].time.start_us)}"
        )
    until = f" before {format_time(as_of_us)}" if spans else ""
    return WrongState(f"stream {stream!r} has no video yet{until}")


def _plus(a: Position, steps: int) -> Position:
    return (a[0] + steps, a[1] + steps, a[2] + steps)


def _minus(a: Position, b: Position) -> Position:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])
