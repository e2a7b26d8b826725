"""Tensor. One stream's sliding window: what new units see, and the blocks they become.

Knows neither media nor links. Unit u sees the sink, the `window_units` units before it, and itself::

    sink | unit u-w ... unit u-1 | unit u
    ^ stands contiguous before the oldest visible unit, for each query by its own offset

Units stand where one prompt without end would place them, so that a window rebuilt from blocks, with the same
geometries before it, has the same positions and therefore the same bits. One thread at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_svc.resume import GeometryRun, geometries_until
from kv_transfer.block import Block
from tandem.core.blocks import BlockGeometry, BlockHeader
from tandem.core.errors import DataLost, Incompatible
from tandem.vlm.families.base import is_fitting
from tandem.vlm.model import ForwardResult, Step, VisionLanguageModel
from tandem.vlm.segment import Segment
from tandem.vlm.view import Part, View

_PLACE_UNITS = 4096
"""Units that are placed at once: a long past must not need much memory."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a new writer of a stream finds at the reasoner."""

    sink: Block | None
    """None when it is gone: it is computed anew."""
    recent: tuple[Block, ...]
    """The last visual blocks, oldest first; at most the window's."""
    next_block_number: int
    runs: tuple[GeometryRun, ...]
    """Geometries of all units so far, from the resume header; empty when it was lost."""


@dataclass(frozen=True, slots=True)
class _Held:
    unit: int
    first_token: int
    tokens: int


class Window:
    """Keys and values of the sink and the recent units of one stream."""

    def __init__(self, model: VisionLanguageModel, window_units: int) -> None:
        self._model = model
        self._window_units = window_units
        self._sink = model.new_segment()
        self._recent = model.new_segment()
        self._placement = model.prompt.placement()
        self._held: deque[_Held] = deque()
        self._local: dict[BlockGeometry, Tensor] = {}

    @property
    def units(self) -> int:
        """Units placed so far: the number of the next one."""
        return self._placement.units

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return self._sink.nbytes + self._recent.nbytes

    def open(self) -> tuple[BlockGeometry, ForwardResult]:
        """Write the sink of a new stream: its geometry, and its keys and values for block 0."""
        ids = self._model.prompt.sink_tokens()
        geometry = BlockGeometry(text_before=len(ids), grid_t=0, grid_h=0, grid_w=0, text_after=0)
        view = View(tail=Part(segment=self._sink))
        embeds = self._model.embed(ids)
        return geometry, self._model.forward(embeds, self._positions(geometry), view, capture=True)

    def restore(self, kept: Kept) -> None:
        """Take up a stream from its blocks.

        Raises DataLost when they do not fit together or are not what this layout makes, Incompatible when
        they are of another model.
        """
        units = kept.next_block_number - 1
        numbers = [block.key.number for block in kept.recent]
        if numbers != list(range(units + 1 - len(numbers), units + 1)):
            raise DataLost(f"blocks {numbers} are not the last before {kept.next_block_number}")
        for block in (*([kept.sink] if kept.sink else []), *kept.recent):
            self._check(block.header)
        recent = [block.header.geometry for block in kept.recent]
        older = units - len(recent)
        for count, geometry in geometries_until(kept.runs, older):
            self._place_past(count, geometry)
        if self._placement.units < older:
            # Their geometry is unknown; it moves everything that is still in view by the same amount.
            guess = recent[0] if recent else self._model.prompt.geometry((1, 1, 1))
            self._place_past(older - self._placement.units, guess)
        if kept.sink is None:
            self.open()
        else:
            self._append(self._sink, kept.sink, self._positions(kept.sink.header.geometry))
        for block in kept.recent:
            self._restore_unit(block)

    def _check(self, header: BlockHeader) -> None:
        if header.fingerprint != self._model.fingerprint or header.layout != self._model.layout:
            raise Incompatible(f"block {header.key} is of model {header.fingerprint} with {header.layout}")
        if not is_fitting(self._model.prompt, header):
            raise DataLost(f"block {header.key} cannot be a {header.kind.name} with {header.geometry}")

    def _place_past(self, count: int, geometry: BlockGeometry) -> None:
        for at in range(0, count, _PLACE_UNITS):
            self._placement.place_units([geometry] * min(_PLACE_UNITS, count - at))

    def _restore_unit(self, block: Block) -> None:
        geometry = block.header.geometry
        base = self._placement.place_units([geometry])[0]
        positions = self._positions(geometry) + torch.tensor(base)[:, None]
        self._held.append(_Held(self._placement.units - 1, self._recent.end, geometry.tokens))
        self._append(self._recent, block, positions)

    def _append(self, segment: Segment, block: Block, positions: Tensor) -> None:
        segment.append_raw(block.keys().unbind(0), block.values().unbind(0), positions)

    def prepare(self, embeds: Sequence[Tensor], geometries: Sequence[BlockGeometry]) -> Step:
        """Place new units: `embeds` is [tokens, hidden] for each. Run the step, then call `complete`.

        If the step fails, the window is of no use any more.
        """
        bases = self._placement.place_units(list(geometries))
        first_unit, first_token = self._placement.units - len(geometries), self._recent.end
        positions, sink_bases, visible = [], [], []
        for index, geometry in enumerate(geometries):
            unit = first_unit + index
            self._held.append(_Held(unit, first_token, geometry.tokens))
            first_token += geometry.tokens
            oldest = self._oldest_visible(unit)
            positions.append(self._positions(geometry) + torch.tensor(bases[index])[:, None])
            base = torch.tensor(self._placement.sink_base(oldest.unit))
            sink_bases.append(base[:, None].expand(3, geometry.tokens))
            visible.append(torch.full((geometry.tokens,), oldest.first_token))
        view = View(
            parts=(Part(segment=self._sink, base=torch.cat(sink_bases, 1)),),
            tail=Part(segment=self._recent, first_visible=torch.cat(visible)),
        )
        all_embeds, all_positions = torch.cat(list(embeds)), torch.cat(positions, 1)
        return Step(embeds=all_embeds, positions=all_positions, view=view, capture=True)

    def complete(self) -> None:
        """The prepared step has run: forget what no later unit sees."""
        keep_from = self._placement.units - self._window_units
        while self._held and self._held[0].unit < keep_from:
            self._recent.drop_front(self._held.popleft().tokens)

    def _oldest_visible(self, unit: int) -> _Held:
        return next(held for held in self._held if held.unit >= unit - self._window_units)

    def _positions(self, geometry: BlockGeometry) -> Tensor:
        if geometry not in self._local:
            self._local[geometry] = self._model.prompt.local_positions(geometry)
        return self._local[geometry]
