"""Tensor ring: the model as the services use it. Made by `load.load_model`.

Knows no streams, services or wire. Thread-safe: a call's state lives in its arguments, so any number of threads
may see and forward at once (each segment has one writer). Shapes: U units, T new tokens, L layers, H key/value heads,
D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tandem.core.blocks import KVLayout
from tandem.vlm.families.base import Grid, PromptLayout
from tandem.vlm.segment import Segment
from tandem.vlm.view import View


@dataclass(frozen=True, slots=True)
class VisualUnits:
    """Embeddings of some units of equal size: `embeds[u]` is [tokens, hidden]."""

    embeds: Tensor
    grid: Grid
    """Of one unit, after spatial merging."""


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """What a forward pass leaves behind, besides the tokens in the view's tail."""

    hidden: Tensor
    """[T, hidden], after the final norm: input of `VisionLanguageModel.logits`."""
    raw_keys: Tensor | None
    """[L, H, T, D]: before RoPE, as blocks hold them; None unless captured."""
    raw_values: Tensor | None
    """[L, H, T, D]; None unless captured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One reader's part of a batched forward pass."""

    embeds: Tensor
    """[T, hidden]"""
    positions: Tensor
    """int64 [3, T] in the reader's frame."""
    view: View


class VisionLanguageModel:
    """A vision tower and a language model over views."""

    layout: KVLayout
    """Shape of its keys and values."""
    fingerprint: str
    """32 hex digits over all that makes KV incompatible: weights, revision, dtype, heads, rope, pixels, layout."""
    family: str
    prompt: PromptLayout
    hf: Any
    """The transformers model, altered: its text rotary is the identity and its attention reads views."""
    device: torch.device
    dtype: torch.dtype

    def grid(self, height: int, width: int) -> Grid:
        """Merged grid of one unit for frames of this size, without computing anything."""
        raise NotImplementedError

    def see(self, frames: Tensor) -> VisualUnits:
        """Embed units: uint8 RGB [U, frames_per_unit, height, width, 3] of any equal size.

        Raises BadMedia for pictures that the checkpoint cannot take (aspect ratio over 200).
        """
        raise NotImplementedError

    def embed(self, token_ids: Sequence[int] | Tensor) -> Tensor:
        """Embeddings [T, hidden] of text tokens."""
        raise NotImplementedError

    def unit_embeds(self, units: VisualUnits, times_us: Sequence[int]) -> Tensor:
        """[U, tokens of a block, hidden]: visual embeddings between the text tokens of their units."""
        raise NotImplementedError

    def new_segment(self, capacity: int = 256) -> Segment:
        """An empty segment of this model's shape on its device."""
        raise NotImplementedError

    def forward(
        self, embeds: Tensor, positions: Tensor, view: View, *, capture: bool = False
    ) -> ForwardResult:
        """Run the decoder over new tokens and append their keys and values to ``view.tail.segment``.

        `embeds` [T, hidden]; `positions` int64 [3, T] in the reader's frame. With `capture`, raw keys and
        values come back for packing into blocks. If it raises, the tail is as it was.
        """
        raise NotImplementedError

    def forward_many(self, steps: Sequence[Step], *, capture: bool = False) -> list[ForwardResult]:
        """`forward` for several readers in one pass: same results, matrices multiplied together.

        Parts that read the same tokens of the same segment are attended together (a prefix shared by workers is
        read once). Each step needs its own tail.
        """
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., vocabulary] of hidden states."""
        raise NotImplementedError
