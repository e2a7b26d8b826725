"""Tensor. One question's recall: what it retrieved, layer by layer, while its prompt was prefilled once.

The reference prefills the question twice, first to choose blocks and again over them; here each layer chooses
when the question gets there, reads its blocks, and attends to them at once (`View.before_layer`). The chosen
blocks stand contiguous between the sink and the recent run, in time order, wherever in the stream they were.
Owned by the engine's thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.query import layer_query
from reasoner_svc.retrieve.select import Limits, Query, Reads, Selection, Selector
from reasoner_svc.view.compose import ViewPlan
from reasoner_svc.view.loading import Layer, LayerLoader
from tandem.core.blocks import BlockGeometry
from tandem.core.clock import Clock
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.model import VisionLanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRequest:
    """What one question wants recalled."""

    selector: Selector
    limits: Limits
    span: tuple[int, int]
    """The question's own tokens among those of its prompt."""
    external: Tensor | None = None
    """Embedding of the question's text."""
    load_s: float = math.inf
    """Longest time for reading from disk; what would take longer is left out."""


@dataclass(slots=True)
class RecalledBlock:
    """One block that came back into view."""

    number: int
    time: TimeRange
    layers: int = 0
    """In how many layers."""
    score: float = -math.inf
    """Its best."""


@dataclass(slots=True)
class RecallReport:
    """What came back, for the answer's record and for benchmarks."""

    strategy: str
    blocks: dict[int, RecalledBlock] = field(default_factory=dict)
    tokens: int = 0
    """Most tokens of any layer."""
    layer_blocks: int = 0
    """Blocks read, counted once per layer."""
    loaded_bytes: int = 0
    """Bytes of keys and values copied into the view."""
    disk_bytes: int = 0
    """Of these, bytes that had to be read from disk."""
    skipped: int = 0
    """Blocks, counted once per layer, left out for want of time."""
    lost: int = 0
    """Blocks, counted once per layer, that were chosen and could not be read."""
    device_layers: int = 0
    ram_layers: int = 0
    disk_layers: int = 0
    """Layers of blocks by where they were found."""
    seconds: float = 0.0
    """For choosing and reading, all layers."""


class Recall:
    """The hook of one question's prefill, and the segment it fills."""

    def __init__(
        self,
        model: VisionLanguageModel,
        request: RecallRequest,
        memory: IndexView,
        loader: LayerLoader,
        *,
        run: int,
        stream: StreamId,
        plan: ViewPlan,
        usual: BlockGeometry,
        clock: Clock,
    ) -> None:
        self.segment = model.new_layered_segment()
        self.report = RecallReport(request.selector.name)
        self._model = model
        self._request = request
        self._memory = memory
        self._loader = loader
        self._run = run
        self._stream = stream
        self._plan = plan
        self._usual = usual
        self._clock = clock
        self._once: Selection | None = None
        self._read_s = 0.0
        self._used: set[int] = set()
        self._placed: tuple[tuple[BlockGeometry, ...], Tensor] | None = None

    def before_layer(self, layer: int, raw_queries: Tensor) -> None:
        """Choose and read this layer's blocks; `raw_queries` [heads, T, D] are those of the whole prompt."""
        began_s = self._clock()
        if layer == 0:  # also when a pass that broke is repeated; what was used stays counted
            self.report = RecallReport(self._request.selector.name)
            self._read_s = 0.0
        chosen = self._select(layer, raw_queries)
        ranked = chosen.numbers[chosen.scores.argsort(descending=True, stable=True)].tolist()
        left_s = self._request.load_s - self._read_s
        found = self._loader.load(
            self._run, self._stream, ranked, layer, left_s, lambda found: self._write(layer, found)
        )
        self._read_s += found.read_s
        self._note(chosen, found)
        # Each layer chooses for itself, and most choose the same: a block counts once for this question.
        fresh = [h.key.number for h in found.headers if h.key.number not in self._used]
        self._used.update(fresh)
        self._loader.use(self._stream, fresh)
        if layer + 1 < self._model.layout.layers:
            self._loader.read_ahead(self._run, self._stream, ranked, layer + 1)
        self.report.seconds += self._clock() - began_s

    def _select(self, layer: int, raw_queries: Tensor) -> Selection:
        selector, limits = self._request.selector, self._request.limits
        if self._once is not None:
            return self._once
        internal = None
        if selector.reads is Reads.INTERNAL:
            internal = layer_query(raw_queries, self._model.layout.kv_heads, self._request.span)
        query = Query(layer=layer, internal=internal, external=self._request.external)
        chosen = selector.select(self._memory, query, limits)
        if selector.reads is not Reads.INTERNAL:
            self._once = chosen
        return chosen

    def _write(self, layer: int, found: Layer) -> None:
        positions = self._positions([header.geometry for header in found.headers])
        self.segment.write(layer, found.keys, found.values, positions)

    def _positions(self, geometries: Sequence[BlockGeometry]) -> Tensor:
        """int64 [3, tokens]: the blocks stand at the end of the places that the plan left for them."""
        key = tuple(geometries)
        if self._placed is not None and self._placed[0] == key:
            return self._placed[1]
        places = self._plan.places
        count = len(geometries)
        assert count <= places, f"{count} blocks for {places} places"
        placement = self._model.prompt.placement()
        bases = placement.place_units([self._usual] * (places - count) + list(geometries))[places - count :]
        shift = torch.tensor(self._plan.places_end) - torch.tensor(placement.base_of(places))
        local: dict[BlockGeometry, Tensor] = {
            geometry: self._model.prompt.local_positions(geometry) for geometry in set(geometries)
        }
        parts = [
            local[geometry] + (torch.tensor(base) + shift)[:, None]
            for geometry, base in zip(geometries, bases, strict=True)
        ]
        positions = torch.cat(parts, 1) if parts else torch.empty(3, 0, dtype=torch.int64)
        self._placed = key, positions
        return positions

    def _note(self, chosen: Selection, found: Layer) -> None:
        report = self.report
        scores = dict(zip(chosen.numbers.tolist(), chosen.scores.tolist(), strict=True))
        for header in found.headers:
            number = header.key.number
            block = report.blocks.setdefault(number, RecalledBlock(number, header.time))
            block.layers += 1
            block.score = max(block.score, scores[number])
        report.tokens = max(report.tokens, sum(header.tokens for header in found.headers))
        report.layer_blocks += len(found.headers)
        report.loaded_bytes += sum(h.layer_bytes for h in found.headers)
        report.disk_bytes += found.disk_bytes
        report.device_layers += found.from_pool
        report.ram_layers += found.from_ram
        report.disk_layers += found.from_disk
        report.skipped += found.skipped
        report.lost += len(found.missing) + len(found.damaged)
