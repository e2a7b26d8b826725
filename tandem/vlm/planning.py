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
from tandem.vlm.view import Base, Part, View


@dataclass(frozen=True, slots=True)
class _Run:
    """Queries ``[token, token + tokens)`` and their positions [3, tokens] relative to what they read."""

    token: int
    tokens: int
    positions: Tensor


@dataclass(slots=True)
class _Draft:
    """A rectangle in the making: its runs are gathered before rows are numbered."""

    source: Snapshot | LayeredSegment
    start: int
    end: int
    runs: list[_Run] = field(default_factory=list)


class _Drafts:
    """Rectangles by what they read, and squares, of all readers."""

    def __init__(self) -> None:
        self._by_tokens: dict[tuple[int, int, int], _Draft] = {}
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
        now = tail_segment(tail).snapshot()
        for a, b, lo in runs(tail.first_visible, reader.tokens, now.start):
            assert lo <= now.end + a, f"a query from token {lo} on that is token {now.end + a} itself"
            # A single query sees itself in the rectangle; a run's own tokens are the square.
            end = now.end + (b if b - a == 1 else a)
            if lo < end:
                self._add(tail, now, lo, end, reader, a, b)
            if b - a > 1:
                own = relative(reader.positions_3N, tail.base, a, b)
                self.squares.append(_Run(reader.token + a, b - a, own))

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
        draft = self._by_tokens.setdefault((id(part.segment), lo, end), _Draft(source, lo, end))
        own = relative(reader.positions_3N, part.base, a, b)
        draft.runs.append(_Run(reader.token + a, b - a, own))


class _Numbering:
    """Hands out rows in order, and to each run a slot that none of its tokens has used."""

    def __init__(self, new_tokens: int) -> None:
        self._at = 0
        self.spans: list[Rows] = []
        self.positions: list[Tensor] = []
        self.partials = [0] * new_tokens
        """How many partial results each token has so far."""

    def take(self, run: _Run) -> Rows:
        """Rows for one run."""
        tokens = slice(run.token, run.token + run.tokens)
        slot = max(self.partials[tokens])
        self.partials[tokens] = [slot + 1] * run.tokens
        rows = Rows(self._at, self._at + run.tokens, run.token, slot)
        self._at += run.tokens
        self.spans.append(rows)
        self.positions.append(run.positions)
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
        Rectangle(*draft.source.columns(draft.start, draft.end), tuple(map(rows.take, draft.runs)))
        for draft in drafts.rectangles
    ]
    squares = [Squares(rows.take(run), length) for run, length in _join(drafts.squares)]
    queries = sum(part.shape[1] for part in rows.positions)
    # Keys are written at the same relative positions that the tail's queries have: one table for both.
    keys = [relative(r.positions_3N, _single(r.view.tail.base), 0, r.tokens) for r in readers]
    cos, sin = (table[:, None] for table in rope.tables(torch.cat([*rows.positions, *keys], 1), device))
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


def _join(squares: list[_Run]) -> list[tuple[_Run, int]]:
    """Squares and the length of each, with neighbours of equal length joined."""
    groups: list[list[_Run]] = []
    for run in squares:
        last = groups[-1][-1] if groups else None
        if last is not None and last.tokens == run.tokens and last.token + last.tokens == run.token:
            groups[-1].append(run)
        else:
            groups.append([run])
    return [(_joined(group), group[0].tokens) for group in groups]


def _joined(group: list[_Run]) -> _Run:
    positions = torch.cat([run.positions for run in group], 1)
    return _Run(group[0].token, positions.shape[1], positions)
