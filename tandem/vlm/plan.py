# ruff: noqa: N803, N815 (shape suffixes)
"""Tensor ring: one forward pass's reading plan, made once before the layers run.

Turns views into a few maskless reads. Knows no model and no kernel. Shapes: T new tokens of all steps, R
turned query rows (a query appears once per part it reads), N rows of one read, L layers, H key/value heads,
D head dimension.

::

    token numbers of a tail    first_visible ........ end before the call | a ....... b
    queries a..b of one run    [------------- rectangle -----------------)[ square \\)
                                all of it, for each query                  causal

Queries that share their lower bound form a *run*; a run reads one rectangle per part and, in the tail, the
causal square of its own tokens. No masks: nothing is computed that is thrown away. Rectangles of several
readers over the same tokens become one read (workers that share a prefix read it once).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandem.vlm.rope import Rope
from tandem.vlm.segment import Segment, Snapshot
from tandem.vlm.view import Base, Part, View


@dataclass(frozen=True, slots=True)
class Rows:
    """Turned rows ``[start, end)`` that answer for the tokens ``[token, token + end - start)``."""

    start: int
    end: int
    token: int
    slot: int
    """Which of its tokens' partial results this is: partials of one token have different slots."""

    @property
    def tokens(self) -> slice:
        """The tokens they answer for."""
        return slice(self.token, self.token + self.end - self.start)


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows that all see the same tokens of one segment."""

    keys: Sequence[Tensor]
    """Per layer [H, M, D]."""
    values: Sequence[Tensor]
    rows: tuple[Rows, ...]
    """Contiguous; one entry per reader."""


@dataclass(frozen=True, slots=True)
class Squares:
    """Neighbouring runs of equal length, each of which sees its own new tokens up to the query itself."""

    rows: Rows
    length: int


@dataclass(frozen=True, slots=True)
class Write:
    """Where the new tokens ``[token, token + tokens)`` go."""

    segment: Segment
    keys: Sequence[Tensor]
    """Per layer [H, N, D]: reserved columns of the tail."""
    values: Sequence[Tensor]
    token: int
    tokens: int


@dataclass(slots=True)
class Plan:
    """All that one call's attention needs; owned by the calling thread, discarded after it."""

    reads: list[Rectangle]
    squares: list[Squares]
    writes: list[Write]
    row_tokens_R: Tensor | None
    """Token of each row; None when rows are the tokens themselves, or all of one token."""
    cos_R1D: Tensor
    sin_R1D: Tensor
    key_cos_T1D: Tensor
    key_sin_T1D: Tensor
    hooks: list[tuple[int, int, Callable[[int, Tensor], None]]]
    views: list[tuple[int, int, View, Tensor]]
    """(first token, tokens, view, positions) of each step, for the reference backend."""
    slots: int
    """Most partial results of any token."""
    rope: Rope
    captured: list[tuple[Tensor, Tensor]] | None = None

    def commit(self) -> None:
        """Publish what was written."""
        for write in self.writes:
            write.segment.commit(write.tokens)


@dataclass(slots=True)
class _Draft:
    """A rectangle in the making: readers are gathered before rows are numbered."""

    snapshot: Snapshot
    start: int
    end: int
    readers: list[tuple[int, int, Tensor]] = field(default_factory=list)
    """(first token, tokens, relative positions [3, n])"""


def make_plan(
    rope: Rope,
    steps: Sequence[tuple[Tensor, View]],
    device: torch.device,
    *,
    capture: bool = False,
) -> Plan:
    """Plan for steps of (positions int64 [3, T_s], view) in order. Reserves room in the tails."""
    writes, views, hooks = _reserve(steps)
    new_end = {id(write.segment): write.segment.end + write.tokens for write in writes}
    drafts: dict[tuple[int, int, int], _Draft] = {}
    squares: list[tuple[int, int, Tensor]] = []
    for token, tokens, view, positions in views:
        for part in view.parts:
            _draft_part(drafts, part, token, tokens, positions, new_end.get(id(part.segment), 0))
        squares += _draft_tail(drafts, view.tail, token, tokens, positions)
    return _number_rows(rope, drafts, squares, writes, views, hooks, device, capture)


def _reserve(
    steps: Sequence[tuple[Tensor, View]],
) -> tuple[
    list[Write], list[tuple[int, int, View, Tensor]], list[tuple[int, int, Callable[[int, Tensor], None]]]
]:
    writes, views, hooks = [], [], []
    token = 0
    seen: set[int] = set()
    for positions, view in steps:
        segment, tokens = view.tail.segment, positions.shape[1]
        assert id(segment) not in seen, "two steps write the same tail"
        seen.add(id(segment))
        now = segment.reserve(tokens)
        keys, values = now.columns(now.end, now.end + tokens)
        writes.append(Write(segment, keys, values, token, tokens))
        views.append((token, tokens, view, positions))
        if view.before_layer is not None:
            hooks.append((token, tokens, view.before_layer))
        token += tokens
    return writes, views, hooks


def relative(positions_3N: Tensor, base: Base, start: int, end: int) -> Tensor:
    """Positions of queries ``[start, end)`` relative to a segment's origin at `base`."""
    own = positions_3N[:, start:end]
    if isinstance(base, Tensor):
        return own - (base[:, None] if base.ndim == 1 else base[:, start:end])
    return own if base == (0, 0, 0) else own - torch.tensor(base)[:, None]


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


def _draft_part(
    drafts: dict[tuple[int, int, int], _Draft],
    part: Part,
    token: int,
    tokens: int,
    positions: Tensor,
    new_end: int,
) -> None:
    now = part.segment.snapshot()  # once: another thread may be appending
    end = now.end if part.end is None else part.end
    assert end <= max(now.end, new_end), f"token {end} of a segment that ends at {max(now.end, new_end)}"
    for a, b, lo in runs(part.first_visible, tokens, now.start):
        if lo < end:
            draft = drafts.setdefault((id(part.segment), lo, end), _Draft(now, lo, end))
            draft.readers.append((token + a, b - a, relative(positions, part.base, a, b)))


def _draft_tail(
    drafts: dict[tuple[int, int, int], _Draft], tail: Part, token: int, tokens: int, positions: Tensor
) -> list[tuple[int, int, Tensor]]:
    """Rectangles over what precedes each run; returns the squares (token, tokens, relative positions)."""
    assert tail.end is None, "a tail is seen up to the query itself"
    now = tail.segment.snapshot()
    squares = []
    for a, b, lo in runs(tail.first_visible, tokens, now.start):
        # A single query sees itself in the rectangle; a run's own tokens are the square.
        end = now.end + (b if b - a == 1 else a)
        turned = relative(positions, tail.base, a, b)
        assert lo <= now.end + a, f"a query cannot see from token {lo} on: it is token {now.end + a} itself"
        if lo < end:
            draft = drafts.setdefault((id(tail.segment), lo, end), _Draft(now, lo, end))
            draft.readers.append((token + a, b - a, turned))
        if b - a > 1:
            squares.append((token + a, b - a, turned))
    return squares


class _Numbering:
    """Hands out rows in order, and to each a slot that none of its tokens has used."""

    def __init__(self, new_tokens: int) -> None:
        self.at = 0
        self.spans: list[Rows] = []
        self.positions: list[Tensor] = []
        self.partials = [0] * new_tokens
        """How many partial results each token has so far."""

    def take(self, token: int, tokens: int, positions: Tensor) -> Rows:
        slot = max(self.partials[token : token + tokens])
        self.partials[token : token + tokens] = [slot + 1] * tokens
        rows = Rows(self.at, self.at + tokens, token, slot)
        self.at += tokens
        self.spans.append(rows)
        self.positions.append(positions)
        return rows


def _number_rows(
    rope: Rope,
    drafts: dict[tuple[int, int, int], _Draft],
    squares: list[tuple[int, int, Tensor]],
    writes: list[Write],
    views: list[tuple[int, int, View, Tensor]],
    hooks: list[tuple[int, int, Callable[[int, Tensor], None]]],
    device: torch.device,
    capture: bool,
) -> Plan:
    numbering = _Numbering(sum(write.tokens for write in writes))
    reads = []
    for draft in drafts.values():
        rows = tuple(numbering.take(*reader) for reader in draft.readers)
        reads.append(Rectangle(*draft.snapshot.columns(draft.start, draft.end), rows))
    numbered = [
        Squares(numbering.take(token, tokens, turned), length)
        for token, tokens, turned, length in _join(squares)
    ]
    positions, query_rows = numbering.positions, numbering.at
    for _, tokens, view, own in views:
        positions.append(relative(own, _one_base(view.tail.base), 0, tokens))
    cos, sin = (table[:, None] for table in rope.tables(torch.cat(positions, 1), device))
    return Plan(
        reads=reads,
        squares=numbered,
        writes=writes,
        row_tokens_R=_row_tokens(numbering, device),
        cos_R1D=cos[:query_rows],
        sin_R1D=sin[:query_rows],
        key_cos_T1D=cos[query_rows:],
        key_sin_T1D=sin[query_rows:],
        hooks=hooks,
        views=views,
        slots=max(numbering.partials),
        rope=rope,
        captured=[] if capture else None,
    )


def _one_base(base: Base) -> Base:
    assert not isinstance(base, Tensor) or base.ndim == 1, "a tail has one base: its keys are written once"
    return base


def _row_tokens(numbering: _Numbering, device: torch.device) -> Tensor | None:
    # A single token is broadcast over its rows; a single span needs no gathering.
    if len(numbering.partials) == 1 or len(numbering.spans) == 1:
        return None
    tokens = [torch.arange(rows.tokens.start, rows.tokens.stop) for rows in numbering.spans]
    return torch.cat(tokens).to(device)


def _join(squares: list[tuple[int, int, Tensor]]) -> list[tuple[int, int, Tensor, int]]:
    """Squares (token, tokens, relative positions) with neighbours of equal length joined; adds the length."""
    joined: list[tuple[int, int, list[Tensor], int]] = []
    for token, tokens, turned in squares:
        if joined and joined[-1][3] == tokens and joined[-1][0] + joined[-1][1] == token:
            first, before, positions, _ = joined.pop()
            joined.append((first, before + tokens, [*positions, turned], tokens))
        else:
            joined.append((token, tokens, [turned], tokens))
    return [(token, tokens, torch.cat(turned, 1), length) for token, tokens, turned, length in joined]
