# ruff: noqa: N803 (shape suffixes)
"""Tensor ring: the model as the services use it. Made by `load.load_model`.

Knows no streams, services or wire. Thread-safe: a call's state lives in its arguments, so any number of
threads may see and forward at once (each segment has one writer). Shapes: U units, T new tokens, L layers,
H key/value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tandem.core.blocks import KVLayout
from tandem.vlm.attention import Call
from tandem.vlm.backends.base import Backend
from tandem.vlm.families.base import Family, Grid, PromptLayout
from tandem.vlm.plan import Plan
from tandem.vlm.planning import make_plan
from tandem.vlm.preprocess import Preprocessor
from tandem.vlm.retrieved import LayeredSegment
from tandem.vlm.rope import Rope
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
    capture: bool = False
    """Give raw keys and values back, as blocks hold them."""


class VisionLanguageModel:
    """A vision tower and a language model over views."""

    def __init__(
        self,
        *,
        hf: Any,
        family: Family,
        prompt: PromptLayout,
        pictures: Preprocessor,
        rope: Rope,
        layout: KVLayout,
        fingerprint: str,
        backend: Backend,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.hf = hf
        """The transformers model, altered: its text rotary is the identity and its attention reads views."""
        self.family = family.name
        self.prompt = prompt
        self.pictures = pictures
        self.rope = rope
        self.layout = layout
        """Shape of its keys and values."""
        self.fingerprint = fingerprint
        """32 hex digits over all that makes KV incompatible: weights, dtype, heads, rope, pixels, layout."""
        self.backend = backend
        self.device = device
        self.dtype = dtype
        self._family = family
        self._text = family.text_model(hf)
        self._embeddings = hf.get_input_embeddings()
        # Positions go to our attention; the model's own argument only has to have a shape.
        self._no_positions = torch.zeros(3, 1, 1, dtype=torch.int64, device=device)

    def grid(self, height: int, width: int) -> Grid:
        """Merged grid of one unit for frames of this size, without computing anything."""
        h, w = self.pictures.size(height, width)
        side = self.pictures.patch * self.pictures.merge
        return (1, h // side, w // side)

    @torch.no_grad()
    def see(self, frames: Tensor) -> VisualUnits:
        """Embed units: uint8 RGB [U, frames_per_unit, height, width, 3] of any equal size.

        Raises BadMedia for pictures that the checkpoint cannot take (aspect ratio over 200).
        """
        units = frames.shape[0]
        patches, (grid_h, grid_w) = self.pictures.patches(frames, self.device)
        grid_thw = torch.tensor([[1, grid_h, grid_w]] * units, device=self.device)
        embeds = self._family.see(self.hf, patches, grid_thw)
        merge = self.pictures.merge
        return VisualUnits(embeds.view(units, -1, embeds.shape[-1]), (1, grid_h // merge, grid_w // merge))

    @torch.no_grad()
    def embed(self, token_ids: Sequence[int] | Tensor) -> Tensor:
        """Embeddings [T, hidden] of text tokens."""
        ids = torch.as_tensor(token_ids, dtype=torch.int64, device=self.device)
        embeds: Tensor = self._embeddings(ids)
        return embeds

    def unit_embeds(self, units: VisualUnits, times_us: Sequence[int]) -> Tensor:
        """[U, tokens of a block, hidden]: visual embeddings between the text tokens of their units."""
        texts = [self.prompt.unit_tokens(time_us) for time_us in times_us]
        assert len(texts) == len(units.embeds), (len(texts), len(units.embeds))
        before, after = (self.embed(torch.tensor([text[side] for text in texts])) for side in (0, 1))
        hidden = units.embeds.shape[-1]
        rows = len(texts)
        return torch.cat((before.view(rows, -1, hidden), units.embeds, after.view(rows, -1, hidden)), 1)

    def new_segment(self, capacity: int = 256) -> Segment:
        """An empty segment of this model's shape on its device."""
        return Segment(
            self.rope,
            layers=self.layout.layers,
            kv_heads=self.layout.kv_heads,
            head_dim=self.layout.head_dim,
            dtype=self.dtype,
            device=self.device,
            capacity=capacity,
        )

    def new_layered_segment(self) -> LayeredSegment:
        """An empty segment of this model's shape on its device for what one question retrieves."""
        return LayeredSegment(
            self.rope,
            layers=self.layout.layers,
            kv_heads=self.layout.kv_heads,
            head_dim=self.layout.head_dim,
            dtype=self.dtype,
            device=self.device,
        )

    def forward(
        self, embeds: Tensor, positions: Tensor, view: View, *, capture: bool = False
    ) -> ForwardResult:
        """Run the decoder over new tokens and append their keys and values to ``view.tail.segment``.

        `embeds` [T, hidden]; `positions` int64 [3, T] in the reader's frame. With `capture`, raw keys and
        values come back for packing into blocks. If it raises, the tail is as it was.
        """
        return self.forward_many([Step(embeds=embeds, positions=positions, view=view, capture=capture)])[0]

    @torch.no_grad()
    def forward_many(self, steps: Sequence[Step]) -> list[ForwardResult]:
        """`forward` for several readers in one pass: same results, matrices multiplied together.

        Parts that read the same tokens of the same segment are attended together (a prefix shared by
        workers is read once). Each step needs its own tail.
        """
        for step in steps:
            assert step.positions.shape == (3, len(step.embeds)), (step.positions.shape, step.embeds.shape)
        plan = make_plan(
            self.rope,
            [(step.positions, step.view) for step in steps],
            self.device,
            capture=any(step.capture for step in steps),
        )
        embeds = torch.cat([step.embeds for step in steps])
        output = self._text(
            inputs_embeds=embeds[None],
            position_ids=self._no_positions,
            # A finished mapping: transformers builds no mask.
            attention_mask={"full_attention": None},
            use_cache=False,
            tandem=Call(plan, self.backend),
        )
        plan.commit()
        return _split(output.last_hidden_state[0], plan, steps)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits [..., vocabulary] of hidden states."""
        logits: Tensor = self.hf.lm_head(hidden)
        return logits.float()


def _split(hidden_TE: Tensor, plan: Plan, steps: Sequence[Step]) -> list[ForwardResult]:
    tokens = [len(step.embeds) for step in steps]
    hidden = torch.split(hidden_TE, tokens)
    if plan.captured is None:
        return [ForwardResult(part, None, None) for part in hidden]
    keys, values = (torch.split(torch.stack(side), tokens, 2) for side in zip(*plan.captured, strict=True))
    return [
        ForwardResult(own, k, v) if step.capture else ForwardResult(own, None, None)
        for step, own, k, v in zip(steps, hidden, keys, values, strict=True)
    ]
