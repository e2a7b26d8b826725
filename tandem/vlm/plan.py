# ruff: noqa: N815 (shape suffixes)
"""Tensor ring: one forward pass's reading plan, as backends execute it. Made by `planning.make_plan`.

Knows no model and no kernel. Shapes: T new tokens of all readers, R turned query rows (a query appears once
per read), M keys of one read, N new tokens of one reader, H key/value heads, D head dimension.

::

    token numbers of a tail    first_visible ........ end before the call | a ....... b
    queries a..b of one run    [------------- rectangle -----------------)[ square \\)
                                all of it, for each query                  causal

Queries that share their lower bound form a *run*; a run reads one rectangle per part and, in the tail, the
causal square of its own tokens. No masks: nothing is computed that is thrown away. Rectangles of several
readers over the same tokens become one read (workers that share a prefix read it once).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.vlm.rope import Rope
from tandem.vlm.segment import Segment
from tandem.vlm.view import Base, HeadRuns, View


@dataclass(frozen=True, slots=True)
class Reader:
    """One step of the call: its new tokens are ``[token, token + tokens)`` of all."""

    token: int
    tokens: int
    positions_3N: Tensor
    view: View


@dataclass(frozen=True, slots=True)
class Rows:
    """Turned rows ``[start, end)``, in the order of the new tokens from `token` on."""

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
    """Per layer [H, M, D]. Look a layer up only when it is attended: retrieved ones are written just before.

    M may differ by layer then, and be 0: such a layer is not read.
    """
    values: Sequence[Tensor]
    rows: tuple[Rows, ...]
    """Contiguous; one entry per span of neighbouring tokens."""
    heads: HeadRuns | None = None
    """Key/value heads that see them; None: all."""


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


@dataclass(slots=True, kw_only=True)
class Plan:
    """All that one call's attention needs; owned by the calling thread, discarded after it."""

    readers: list[Reader]
    writes: list[Write]
    rectangles: list[Rectangle]
    squares: list[Squares]
    slots: int
    """Most partial results of any token."""
    row_tokens_R: Tensor | None
    """Token of each row; None when rows are the tokens themselves, or all of one token."""
    cos_R1D: Tensor
    sin_R1D: Tensor
    key_cos_T1D: Tensor
    key_sin_T1D: Tensor
    rope: Rope
    captured: list[tuple[Tensor, Tensor]] | None
    """Per layer raw keys and values [H, T, D]; None when nobody asked."""
    wants_lse: bool = False
    """A reader asked for the log-sum-exp of its queries."""
    lse_TQ: Tensor | None = None
    """float32, over all that each query saw in the layer attended last; left by the backend when wanted."""

    def commit(self) -> None:
        """Publish what was written."""
        for write in self.writes:
            write.segment.commit(write.tokens)


def relative(positions_3n: Tensor, base: Base, start: int, end: int) -> Tensor:
    """Positions of queries ``[start, end)`` relative to a segment's origin at `base`."""
    own = positions_3n[:, start:end]
    if isinstance(base, Tensor):
        return own - (base[:, None] if base.ndim == 1 else base[:, start:end])
    return own if base == (0, 0, 0) else own - torch.tensor(base)[:, None]
