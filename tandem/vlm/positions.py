"""Pure ring: how positions advance through a prompt with video. Torch only for its integer arithmetic.

Knows no tokens and no model: the rules are found by `families` probing the model's own `get_rope_index`,
because transformers versions differ (5.23 puts text at the start of a video + max(height, width); others
past its largest position).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tandem.core.blocks import BlockGeometry
from tandem.vlm.families.base import Position

_FLOAT32 = struct.Struct("f")


@dataclass(frozen=True, slots=True)
class AdvanceRules:
    """How one model's positions advance."""

    text_after_video: Literal["spatial", "beyond"]
    """``spatial``: start + max(h, w), whatever the duration; ``beyond``: one past the largest position."""
    generation: Literal["beyond", "next"]
    """``beyond``: one past the largest position of the whole prompt; ``next``: one past its last token."""
    units_interval: float
    """Time positions per unit inside one video; unit i stands at its floor."""

    def unit_time(self, unit: int) -> int:
        """Time offset of unit `unit` inside one video, rounded as transformers does (float32).

        Asked for every block of a view: no tensors. The double product of two float32 is exact, so that
        rounding it once gives the float32 product.
        """
        return int(_float32(_float32(unit) * _float32(self.units_interval)))

    def after_video(self, units: int, height: int, width: int) -> int:
        """Offset from a video's start to the text that follows it."""
        spatial = max(height, width)
        if self.text_after_video == "spatial":
            return spatial
        return max(spatial, self.unit_time(units - 1) + 1)


def _float32(value: float) -> float:
    """The nearest float32."""
    rounded: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    return rounded


def block_positions(geometry: BlockGeometry, rules: AdvanceRules) -> Tensor:
    """Positions int64 [3, tokens] of a block's tokens relative to its base."""
    text = torch.arange(geometry.text_before)
    parts = [text.expand(3, -1)]
    at = geometry.text_before
    if geometry.visual_tokens:
        times = torch.tensor([rules.unit_time(t) for t in range(geometry.grid_t)])
        grid = torch.meshgrid(
            times, torch.arange(geometry.grid_h), torch.arange(geometry.grid_w), indexing="ij"
        )
        parts.append(torch.stack(grid).reshape(3, -1) + at)
        at += rules.after_video(geometry.grid_t, geometry.grid_h, geometry.grid_w)
    parts.append((at + torch.arange(geometry.text_after)).expand(3, -1))
    return torch.cat(parts, 1)


def block_span(geometry: BlockGeometry, rules: AdvanceRules) -> int:
    """How far a block moves what follows it, when it is followed by text."""
    visual = (
        rules.after_video(geometry.grid_t, geometry.grid_h, geometry.grid_w) if geometry.visual_tokens else 0
    )
    return geometry.text_before + visual + geometry.text_after


class OneVideo:
    """Placement of the native layout: all units are one video, so that only time advances between them."""

    def __init__(self, rules: AdvanceRules, sink_tokens: int, geometry: BlockGeometry | None) -> None:
        self._rules, self._sink = rules, sink_tokens
        self._usual = geometry
        self._units = 0
        self._side = 0

    @property
    def units(self) -> int:
        """Units placed so far."""
        return self._units

    def place_units(self, units: int | Sequence[BlockGeometry]) -> list[Position]:
        """See `families.base.Placement`."""
        geometries = _geometries(units, self._usual)
        first, self._units = self._units, self._units + len(geometries)
        for geometry in geometries:
            assert geometry.grid_t == 1, f"a unit is one temporal step, got {geometry}"
            self._side = max(self._side, geometry.grid_h, geometry.grid_w)
        return [self.base_of(unit) for unit in range(first, self._units)]

    def base_of(self, unit: int) -> Position:
        """Base of a unit."""
        return (self._sink + self._rules.unit_time(unit), self._sink, self._sink)

    def sink_base(self, oldest_unit: int) -> Position:
        """The sink follows the oldest visible unit in time."""
        return (self._rules.unit_time(oldest_unit), 0, 0)

    def after_units(self) -> Position:
        """Base of the text after the video."""
        after = self._sink
        if self._units:
            after += self._rules.after_video(self._units, self._side, self._side)
        return (after, after, after)

    def generation_start(self, text_tokens: int) -> int:
        """First generated position."""
        following = self.after_units()[0] + text_tokens
        if self._rules.generation == "next" or not self._units:
            return following
        largest = max(self._rules.unit_time(self._units - 1), self._side - 1)
        return max(following, self._sink + largest + 1)


class VideoPerUnit:
    """Placement of the timestamped layout: text and one-frame videos follow each other, all axes advance."""

    def __init__(self, rules: AdvanceRules, sink_tokens: int, geometry: BlockGeometry | None) -> None:
        self._rules, self._sink = rules, sink_tokens
        self._usual = geometry
        self._bases = [sink_tokens]
        """Base of each unit placed, and of the next one."""

    @property
    def units(self) -> int:
        """Units placed so far."""
        return len(self._bases) - 1

    def place_units(self, units: int | Sequence[BlockGeometry]) -> list[Position]:
        """See `families.base.Placement`."""
        first = self.units
        for geometry in _geometries(units, self._usual):
            self._bases.append(self._bases[-1] + block_span(geometry, self._rules))
        return [self.base_of(unit) for unit in range(first, self.units)]

    def base_of(self, unit: int) -> Position:
        """Base of a unit."""
        base = self._bases[unit]
        return (base, base, base)

    def sink_base(self, oldest_unit: int) -> Position:
        """The sink stays right before the oldest visible unit."""
        base = self._bases[oldest_unit] - self._sink
        return (base, base, base)

    def after_units(self) -> Position:
        """Base of the text after the last unit."""
        return self.base_of(self.units)

    def generation_start(self, text_tokens: int) -> int:
        """First generated position: text is always last and largest."""
        return self.after_units()[0] + text_tokens


def _geometries(units: int | Sequence[BlockGeometry], usual: BlockGeometry | None) -> Sequence[BlockGeometry]:
    if not isinstance(units, int):
        return units
    assert usual is not None, "a number of units needs the geometry given to PromptLayout.placement"
    return [usual] * units
