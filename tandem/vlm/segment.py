"""Tensor ring: growing buffers of keys and values that stand on the device, rotated once.

Knows no streams and no blocks. Shapes: L layers, H key/value heads, C capacity, N tokens, D head dimension.
Tokens of a segment have numbers that never change: it holds the half-open run ``[start, end)``, `start` grows
when the front is dropped, `end` when tokens are appended. Keys are rotated at positions relative to the
segment's *origin*; where the origin stands in a reader's frame is the reader's business (`view.Part.base`).

One thread writes a segment. Others may read it at the same time through a `Snapshot`: bytes of a published
token never change or move; growth and dropping make new buffers and leave the old ones to their readers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.vlm.rope import Rope


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Buffers as they were at one moment; column of token number `n` is ``n - first``."""

    keys_LHCD: Tensor
    values_LHCD: Tensor
    first: int
    end: int


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
        raise NotImplementedError

    @property
    def start(self) -> int:
        """Number of the oldest token still held."""
        raise NotImplementedError

    @property
    def end(self) -> int:
        """One past the number of the newest token."""
        raise NotImplementedError

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.end - self.start

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, spare capacity included."""
        raise NotImplementedError

    def append_raw(self, keys_LHND: Tensor, values_LHND: Tensor, positions_3N: Tensor) -> None:
        """Append tokens from raw keys (before RoPE) and values; keys are rotated once, here.

        `positions_3N` are int64 and relative to the segment's origin. Tensors of another device or dtype are
        moved. A sequence of per-layer tensors [H, N, D] is accepted in place of a stacked one.
        """
        raise NotImplementedError

    def drop_front(self, tokens: int) -> None:
        """Forget the `tokens` oldest tokens; amortised constant time, memory is given back when half is dead."""
        raise NotImplementedError

    def truncate(self, end: int) -> None:
        """Forget tokens from number `end` on (a rejected or failed step). Only when no reader can see them."""
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        """The buffers and bounds as they are now."""
        raise NotImplementedError
