# ruff: noqa: N803, N815 (shape suffixes)
"""Tensor ring: growing buffers of keys and values that stand on the device, rotated once.

Knows no streams and no blocks. Shapes: L layers, H key/value heads, C capacity, N tokens, D head dimension.
Tokens of a segment have numbers that never change: it holds the half-open run ``[start, end)``, `start` grows
when the front is dropped, `end` when tokens are appended. Keys are rotated at positions relative to the
segment's *origin*; where the origin stands in a reader's frame is the reader's business (`view.Part.base`).

One thread writes a segment. Others may read it at the same time through a `Snapshot`: bytes of a published
token never change or move; growth and dropping make new buffers and leave the old ones to their readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tandem.vlm.rope import Rope, turn

MIN_CAPACITY = 16


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Buffers as they were at one moment; the column of token number `n` is ``n - first``."""

    keys_LHCD: Tensor
    values_LHCD: Tensor
    first: int
    start: int
    end: int

    def columns(self, start: int, end: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Per-layer views [H, N, D] of the tokens ``[start, end)``."""
        lo, hi = start - self.first, end - self.first
        return self.keys_LHCD[:, :, lo:hi].unbind(0), self.values_LHCD[:, :, lo:hi].unbind(0)


class Segment:
    """Keys (rotated relative to the segment's origin) and values of one run of tokens, for all layers."""

    def __init__(
        self,
        rope: Rope,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        capacity: int = 256,
    ) -> None:
        self.rope = rope
        shape = (layers, kv_heads, max(capacity, MIN_CAPACITY), head_dim)
        keys = torch.empty(shape, dtype=dtype, device=device)
        # One attribute holds all that a reader needs, so that it is replaced in one step.
        self._now = Snapshot(keys, torch.empty_like(keys), first=0, start=0, end=0)

    @property
    def start(self) -> int:
        """Number of the oldest token still held."""
        return self._now.start

    @property
    def end(self) -> int:
        """One past the number of the newest token."""
        return self._now.end

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._now.end - self._now.start

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, spare capacity included."""
        return self._now.keys_LHCD.nbytes + self._now.values_LHCD.nbytes

    def snapshot(self) -> Snapshot:
        """The buffers and bounds as they are now."""
        return self._now

    @torch.no_grad()
    def append_raw(
        self,
        keys_LHND: Tensor | Sequence[Tensor],
        values_LHND: Tensor | Sequence[Tensor],
        positions_3N: Tensor,
    ) -> None:
        """Append tokens from raw keys (before RoPE) and values; keys are rotated once, here.

        `positions_3N` are int64 and relative to the segment's origin. Tensors of another device or dtype are
        moved. A sequence of per-layer tensors [H, N, D] is accepted in place of a stacked one.
        """
        keys, values = _stacked(keys_LHND), _stacked(values_LHND)
        tokens = keys.shape[2]
        assert positions_3N.shape == (3, tokens), (positions_3N.shape, keys.shape)
        now = self.reserve(tokens)
        lo = now.end - now.first
        keys = keys.to(now.keys_LHCD.device)
        now.keys_LHCD[:, :, lo : lo + tokens] = self.rope.rotate(keys, positions_3N)
        now.values_LHCD[:, :, lo : lo + tokens] = values
        self.commit(tokens)

    @torch.no_grad()
    def append_from(self, other: Segment, shift: int) -> None:
        """Append all tokens of `other`; its origin comes to stand `shift` positions after this one's.

        The one copy of a text that moves for good: its keys are turned by the shift, values are copied.
        What is moved again and again would drift; turn queries instead.
        """
        theirs = other.snapshot()
        now = self.reserve(other.length)
        live = slice(theirs.start - theirs.first, theirs.end - theirs.first)
        room = slice(now.end - now.first, now.end - now.first + other.length)
        # The keys have their share of the rotary module's scaling already.
        tables = replace(self.rope, scaling=1.0).tables(torch.full((3, 1), shift), now.keys_LHCD.device)
        now.keys_LHCD[:, :, room] = turn(theirs.keys_LHCD[:, :, live], *tables)
        now.values_LHCD[:, :, room] = theirs.values_LHCD[:, :, live]
        self.commit(other.length)

    @torch.no_grad()
    def reserve(self, tokens: int) -> Snapshot:
        """Make room for `tokens` more, unpublished; returns the buffers to write them to.

        ``reserve`` then ``commit``: what is written beyond `end` is invisible until it is committed.
        """
        now = self._now
        capacity = now.keys_LHCD.shape[2]
        if now.end - now.first + tokens > capacity:
            self._move_to(max(2 * (now.end - now.start), now.end - now.start + tokens))
        return self._now

    def commit(self, tokens: int) -> None:
        """Publish `tokens` tokens that were written after `reserve`."""
        now = self._now
        self._now = Snapshot(now.keys_LHCD, now.values_LHCD, now.first, now.start, now.end + tokens)

    def drop_front(self, tokens: int) -> None:
        """Forget the `tokens` oldest tokens; amortised constant time.

        Their room is used again at the next growth, which copies only live tokens.
        """
        now = self._now
        assert 0 <= tokens <= now.end - now.start, (tokens, now.start, now.end)
        self._now = Snapshot(now.keys_LHCD, now.values_LHCD, now.first, now.start + tokens, now.end)

    @torch.no_grad()
    def keep(self, columns_LHN: Tensor) -> None:
        """Hold only some tokens, each layer and head its own choice, as many for all of them.

        `columns_LHN` int64: per layer and head which of the tokens held now, 0 being the oldest, ascending.
        Keys stay rotated as they were: a place in the buffer is no position. The numbers of what is kept move
        up to `end`, which does not change. Readers of an earlier snapshot are not disturbed.
        """
        now = self._now
        layers, heads, kept = columns_LHN.shape
        assert kept <= now.end - now.start, (kept, now.start, now.end)
        head_dim = now.keys_LHCD.shape[3]
        index = (columns_LHN.to(now.keys_LHCD.device) + (now.start - now.first))[..., None].expand(
            layers, heads, kept, head_dim
        )
        sides = []
        for old in (now.keys_LHCD, now.values_LHCD):
            new = torch.empty_like(old)
            new[:, :, :kept] = old.gather(2, index)
            sides.append(new)
        first = now.end - kept
        self._now = Snapshot(sides[0], sides[1], first, first, now.end)

    def truncate(self, end: int) -> None:
        """Forget tokens from number `end` on (a rejected step). Only when no reader can see them."""
        now = self._now
        assert now.start <= end <= now.end, (end, now.start, now.end)
        self._now = Snapshot(now.keys_LHCD, now.values_LHCD, now.first, now.start, end)

    def _move_to(self, capacity: int) -> None:
        now = self._now
        live = slice(now.start - now.first, now.end - now.first)
        layers, heads, _, head_dim = now.keys_LHCD.shape
        room = max(capacity, MIN_CAPACITY)
        keys, values = (
            old.new_empty(layers, heads, room, head_dim) for old in (now.keys_LHCD, now.values_LHCD)
        )
        keys[:, :, : now.end - now.start] = now.keys_LHCD[:, :, live]
        values[:, :, : now.end - now.start] = now.values_LHCD[:, :, live]
        self._now = Snapshot(keys, values, now.start, now.start, now.end)


def _stacked(layers: Tensor | Sequence[Tensor]) -> Tensor:
    return layers if isinstance(layers, Tensor) else torch.stack(list(layers))
