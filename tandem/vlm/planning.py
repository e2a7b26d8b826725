"""Tensor ring: turns readers' views into a `plan.Plan`. Integers and positions only; no keys are touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandem.vlm.plan import Plan, Reader, Rectangle, Rows, Squares, Write, relative
from tandem.vlm.retrieved import LayeredSegment
from tandem.vlm.rope import Rope
from tandem.vlm.segment import Segment, Snapshot
from tandem.vlm.view import Base, HeadRuns, Part, View


@dataclass(frozen=True, slots=True)
class _Run:
    """Queries ``[token, token + tokens)``, their positions [3, tokens] and the base of what they read."""

    token: int
    tokens: int
    positions: Tensor
    base: Base


@dataclass(slots=True)
class _Draft:
    """A rectangle in the making: its runs are gathered before rows are numbered."""

    source: Snapshot | LayeredSegment
    start: int
    end: int
    heads: HeadRuns | None
    runs: list[_Run] = field(default_factory=list)


class _Drafts:
    """Rectangles by what they read, and squares, of all readers."""

    def __init__(self) -> None:
        self._by_tokens: dict[tuple[int, int, int, HeadRuns | None], _Draft] = {}
        self.squares: list[_Run] = []

    @property
    def rectangles(self) -> list[_Draft]:
        """In the order they were first read."""
        return list(self._by_tokens.values())

    def read_part(self, part: Part, reader: Reader, new_end: int) -> None:
        """What a reader sees of a part; `new_end`: how far this call extends the part's segment, or 0."""
        if isinstance(part.segment, LayeredSegment):
            assert part.end is None, "a layered segment has no common end"
            assert part.first_visible is None, "a layered segment has no common numbers"
            # How many tokens it has is known only layer by layer, when the hook has run.
            self._add(part, part.segment, 0, 0, reader, 0, reader.tokens)
            return
        now = part.segment.snapshot()  # once: another thread may be appending
        end = now.end if part.end is None else part.end
        assert end <= max(now.end, new_end), f"token {end} of a segment that ends at {max(now.end, new_end)}"
        for a, b, lo in runs(part.first_visible, reader.tokens, now.start):
            if lo < end:
                self._add(part, now, lo, end, reader, a, b)

    def read_tail(self, tail: Part, reader: Reader) -> None:
        """What a reader sees of its own tail: rectangles over what precedes each run, and squares."""
        assert tail.end is None, "a tail is seen up to the query itself"
        assert tail.heads is None, "a tail is seen by all heads"
        now = tail_segment(tail).snapshot()
        for a, b, lo in runs(tail.first_visible, reader.tokens, now.start):
            assert lo <= now.end + a, f"a query from token {lo} on that is token {now.end + a} itself"
            # A single query sees itself in the rectangle; a run's own tokens are the square.
            end = now.end + (b if b - a == 1 else a)
            if lo < end:
                self._add(tail, now, lo, end, reader, a, b)
            if b - a > 1:
                self.squares.append(_run(reader, tail.base, a, b))

    def _add(
        self,
        part: Part,
        source: Snapshot | LayeredSegment,
        lo: int,
        end: int,
        reader: Reader,
        a: int,
        b: int,
    ) -> None:
        key = (id(part.segment), lo, end, part.heads)
        draft = self._by_tokens.setdefault(key, _Draft(source, lo, end, part.heads))
        draft.runs.append(_run(reader, part.base, a, b))


def _run(reader: Reader, base: Base, a: int, b: int) -> _Run:
    whole = b - a == reader.tokens
    positions = reader.positions_3N if whole else reader.positions_3N[:, a:b]
    if isinstance(base, Tensor) and base.ndim > 1 and not whole:
        base = base[:, a:b]
    return _Run(reader.token + a, b - a, positions, base)


class _Places:
    """Positions relative to bases, of many runs: subtracted all at once, since a step may have hundreds."""

    def __init__(self) -> None:
        self._positions: list[Tensor] = []
        self._bases: list[tuple[int, int, int]] = []
        self._lengths: list[int] = []

    def add(self, run: _Run) -> None:
        """Behind the others."""
        if isinstance(run.base, Tensor):
            self._positions.append(relative(run.positions, run.base, 0, run.tokens))
            self._bases.append((0, 0, 0))
        else:
            self._positions.append(run.positions)
            self._bases.append(run.base)
        self._lengths.append(run.tokens)

    def relative(self) -> Tensor:
        """int64 [3, all tokens]."""
        positions = torch.cat(self._positions, 1)
        bases = torch.tensor(self._bases, device=positions.device).T
        if len(self._bases) < positions.shape[1]:
            bases = bases.repeat_interleave(torch.tensor(self._lengths, device=positions.device), 1)
        return positions - bases


class _Numbering:
    """Hands out rows in order, and to each span a slot that none of its tokens has used."""

    def __init__(self, new_tokens: int) -> None:
        self.rows = 0
        self.spans: list[Rows] = []
        self.places = _Places()
        self.partials = [0] * new_tokens
        """How many partial results each token has so far."""

    def take(self, span: Sequence[_Run]) -> Rows:
        """Rows for runs of neighbouring tokens."""
        token, count = span[0].token, sum(run.tokens for run in span)
        tokens = slice(token, token + count)
        slot = max(self.partials[tokens])
        self.partials[tokens] = [slot + 1] * count
        rows = Rows(self.rows, self.rows + count, token, slot)
        self.rows += count
        self.spans.append(rows)
        for run in span:
            self.places.add(run)
        return rows

    def row_tokens(self, device: torch.device) -> Tensor | None:
        """See `Plan.row_tokens_R`: a single token is broadcast, a single span needs no gathering."""
        if len(self.partials) == 1 or len(self.spans) == 1:
            return None
        tokens = [torch.arange(rows.tokens.start, rows.tokens.stop) for rows in self.spans]
        return torch.cat(tokens).to(device)


def make_plan(
    rope: Rope, steps: Sequence[tuple[Tensor, View]], device: torch.device, *, capture: bool = False
) -> Plan:
    """Plan for steps of (positions int64 [3, N], view), in order. Reserves room in the tails."""
    readers = _readers(steps)
    writes = [_reserve(reader) for reader in readers]
    new_end = {id(write.segment): write.segment.end + write.tokens for write in writes}
    assert len(new_end) == len(writes), "two steps write the same tail"
    drafts = _Drafts()
    for reader in readers:
        for part in reader.view.parts:
            drafts.read_part(part, reader, new_end.get(id(part.segment), 0))
        drafts.read_tail(reader.view.tail, reader)
    rows = _Numbering(sum(reader.tokens for reader in readers))
    rectangles = [
        Rectangle(
            *draft.source.columns(draft.start, draft.end),
            tuple(map(rows.take, _spans(draft.runs))),
            draft.heads,
        )
        for draft in drafts.rectangles
    ]
    squares = [Squares(rows.take(span), span[0].tokens) for span in _spans(drafts.squares, alike=True)]
    queries = rows.rows
    # Keys are written at the same relative positions that the tail's queries have: one table for both.
    for reader in readers:
        rows.places.add(_run(reader, _single(reader.view.tail.base), 0, reader.tokens))
    cos, sin = (table[:, None] for table in rope.tables(rows.places.relative(), device))
    return Plan(
        readers=readers,
        writes=writes,
        rectangles=rectangles,
        squares=squares,
        slots=max(rows.partials),
        row_tokens_R=rows.row_tokens(device),
        cos_R1D=cos[:queries],
        sin_R1D=sin[:queries],
        key_cos_T1D=cos[queries:],
        key_sin_T1D=sin[queries:],
        rope=rope,
        captured=[] if capture else None,
        wants_lse=any(reader.view.after_layer is not None for reader in readers),
    )


def runs(first_visible: Tensor | None, tokens: int, default: int) -> list[tuple[int, int, int]]:
    """Half-open runs (start, end, lower bound) of queries that share their lower bound."""
    if first_visible is None:
        return [(0, tokens, default)]
    assert first_visible.shape == (tokens,), (first_visible.shape, tokens)
    bounds, lengths = torch.unique_consecutive(first_visible, return_counts=True)
    result, at = [], 0
    for bound, length in zip(bounds.tolist(), lengths.tolist(), strict=True):
        result.append((at, at + length, max(bound, default)))
        at += length
    return result


def tail_segment(tail: Part) -> Segment:
    """The segment that a tail's new tokens are appended to."""
    assert isinstance(tail.segment, Segment), "new tokens cannot be appended to what was retrieved"
    return tail.segment


def _readers(steps: Sequence[tuple[Tensor, View]]) -> list[Reader]:
    readers, token = [], 0
    for positions, view in steps:
        readers.append(Reader(token, positions.shape[1], positions, view))
        token += positions.shape[1]
    return readers


def _reserve(reader: Reader) -> Write:
    segment = tail_segment(reader.view.tail)
    now = segment.reserve(reader.tokens)
    columns = now.columns(now.end, now.end + reader.tokens)
    return Write(segment, *columns, reader.token, reader.tokens)


def _single(base: Base) -> Base:
    assert not isinstance(base, Tensor) or base.ndim == 1, "a tail has one base: its keys are written once"
    return base


def _spans(reads: Sequence[_Run], *, alike: bool = False) -> list[list[_Run]]:
    """Runs of neighbouring tokens put together (workers in a row that read the same); `alike`: if as long."""
    spans: list[list[_Run]] = []
    for run in reads:
        last = spans[-1][-1] if spans else None
        if (
            last is not None
            and last.token + last.tokens == run.token
            and (not alike or last.tokens == run.tokens)
        ):
            spans[-1].append(run)
        else:
            spans.append([run])
    return spans
