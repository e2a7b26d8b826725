# ruff: noqa: N803 (shape suffixes)
"""Tensor ring: what one question retrieved: a private run of keys and values whose layers differ in length.

Written layer by layer from `View.before_layer` while the question is prefilled, then read like any segment by
every later step. Knows no streams and no blocks. Shapes: H key/value heads, M tokens of one layer, D head
dimension.

One thread writes and reads it (that of the forward pass); the raw keys and values are copied, so that their
owner may drop them afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.vlm.rope import Rope, turn


class LayeredSegment:
    """Keys (rotated relative to the segment's origin) and values; each layer has its own tokens, or none."""

    def __init__(
        self,
        rope: Rope,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self._rope = rope
        none = torch.empty(kv_heads, 0, head_dim, dtype=dtype, device=device)
        # Plans hold these lists and look into them when the layer's turn has come.
        self._keys = [none] * layers
        self._values = [none] * layers
        self._tables: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return len(self._keys)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(side.nbytes for side in (*self._keys, *self._values))

    def tokens(self, layer: int) -> int:
        """Tokens of one layer; 0 before it is written."""
        return self._keys[layer].shape[1]

    @torch.no_grad()
    def write(
        self,
        layer: int,
        raw_keys: Tensor | Sequence[Tensor],
        values: Tensor | Sequence[Tensor],
        positions_3M: Tensor,
    ) -> None:
        """Replace one layer by raw keys (before RoPE) and values [H, M, D], or pieces of them in order.

        `positions_3M` are int64 and relative to the segment's origin; keys are rotated in the one copy that
        is made here. Tensors of another device or dtype are moved. M may be 0.
        """
        keys = self._gathered(raw_keys)
        assert positions_3M.shape == (3, keys.shape[1]), (positions_3M.shape, keys.shape)
        new_values = self._gathered(values)
        assert new_values.shape == keys.shape, (new_values.shape, keys.shape)
        self._keys[layer] = turn(keys, *self._turned_to(positions_3M)) if keys.shape[1] else keys
        self._values[layer] = new_values

    def columns(self, start: int, end: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Per-layer keys and values [H, M, D] as they are when a layer is looked up; bounds are ignored."""
        return self._keys, self._values

    def _gathered(self, pieces: Tensor | Sequence[Tensor]) -> Tensor:
        """One new tensor [H, M, D] on this segment's device, in its dtype."""
        parts = [pieces] if isinstance(pieces, Tensor) else list(pieces)
        kind = self._keys[0]
        heads, _, head_dim = kind.shape
        result = kind.new_empty(heads, sum(part.shape[1] for part in parts), head_dim)
        at = 0
        for part in parts:
            result[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        return result

    def _turned_to(self, positions_3M: Tensor) -> tuple[Tensor, Tensor]:
        # Layers that retrieved blocks of the same sizes place them alike: their angles are made once.
        if self._tables is None or not torch.equal(self._tables[0], positions_3M):
            tables = self._rope.tables(positions_3M, self._keys[0].device)
            self._tables = positions_3M.clone(), tables
        return self._tables[1]
