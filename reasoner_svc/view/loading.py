"""Tensor. One layer of some blocks, from wherever they lie: device pool, RAM or disk.

RAM is read in place while its blocks are pinned. What comes from disk is verified, then kept in the pool, so
that the next question over the same moments finds it there. Owned by the engine's thread; H key/value heads,
N tokens of a block, D head dimension.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from kv_transfer.block import BlockCorrupt, layer_bytes_range
from kv_transfer.codecs import decode_layer
from kv_transfer.metrics import CHECKSUMS
from reasoner_svc import metrics
from reasoner_svc.retrieve.cost import DiskRate, plan_load
from reasoner_svc.store.directory import Entry
from reasoner_svc.store.disk.slots import DiskSlot
from reasoner_svc.store.store import BlockStore
from reasoner_svc.store.tiers.pool import LayerPool, PageKey
from tandem.core.blocks import BlockHeader, Codec
from tandem.core.ids import StreamId
from tandem.core.meters import NO_METERS, Meters

Wants = Sequence[tuple[DiskSlot, BlockHeader]]


class DiskLayers(Protocol):
    """What loading needs of the disk tier; any thread."""

    def read_layer_many(self, wants: Wants, layer: int) -> Sequence[Tensor | Exception]:
        """One layer's bytes of each block, verified; in its place the error where that failed."""
        ...

    def will_need(self, wants: Wants, layer: int) -> None:
        """These will be read soon."""
        ...


@dataclass(slots=True)
class Layer:
    """What was found of one layer, in the order of block numbers."""

    headers: list[BlockHeader] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    """Raw, [H, N, D] each."""
    values: list[Tensor] = field(default_factory=list)
    from_ram: int = 0
    """Blocks that lay in RAM."""
    from_pool: int = 0
    """Blocks that lay in the device pool."""
    from_disk: int = 0
    """Blocks that were read from disk."""
    disk_bytes: int = 0
    read_s: float = 0.0
    """Seconds that took."""
    skipped: int = 0
    """Blocks left out for want of time."""
    missing: list[int] = field(default_factory=list)
    """Numbers that are not held any more."""
    damaged: list[tuple[Entry, Exception]] = field(default_factory=list)


OnLost = Callable[[Entry, Exception], None]


class LayerLoader:
    """Finds layers of blocks."""

    def __init__(
        self,
        store: BlockStore,
        disk: DiskLayers | None,
        pool: LayerPool,
        on_lost: OnLost,
        meters: Meters = NO_METERS,
    ) -> None:
        """`on_lost` is told of blocks whose bytes on disk were damaged and which were nowhere else."""
        self._meters = meters
        self._store = store
        self._disk = disk
        self._pool = pool
        self._on_lost = on_lost
        self.rate = DiskRate()

    @property
    def pool(self) -> LayerPool:
        """The pages."""
        return self._pool

    def load(
        self,
        run: int,
        stream: StreamId,
        ranked: Sequence[int],
        layer: int,
        left_s: float,
        use: Callable[[Layer], None],
    ) -> Layer:
        """Find one layer of the blocks `ranked` (best first) and let `use` copy it while it is pinned.

        What would take longer than `left_s` to read is left out, the worst first.
        """
        entries = self._store.pin(stream, ranked)
        try:
            found = self._find(run, entries, layer, left_s)
            held = {entry.key.number for entry in entries}
            found.missing = [number for number in ranked if number not in held]
            use(found)
            self._count(found)
        finally:
            self._store.unpin(entries)
        for entry, error in found.damaged:
            if self._store.lose(entry):
                self._on_lost(entry, error)
        return found

    def use(self, stream: StreamId, numbers: Sequence[int]) -> None:
        """A question retrieved these blocks: once for each question."""
        self._store.use(stream, numbers)

    def read_ahead(self, run: int, stream: StreamId, numbers: Sequence[int], layer: int) -> None:
        """Tell the disk which blocks the next layer will probably want: those that this one picked."""
        if self._disk is None:
            return
        entries = self._store.pin(stream, numbers)
        wants = [(e.disk, e.header) for e in entries if e.ram is None and e.disk is not None]
        self._store.unpin(entries)
        if wants:
            self._disk.will_need(wants, layer)

    def _find(self, run: int, entries: Sequence[Entry], layer: int, left_s: float) -> Layer:
        keys = {entry.key.number: PageKey(run, entry.key.number, layer) for entry in entries}
        found = Layer()
        places: dict[int, tuple[BlockHeader, Tensor]] = {}
        cold: list[Entry] = []
        for entry in entries:
            number = entry.key.number
            payload = self._store.ram_bytes(entry)
            data = None
            if payload is not None:
                start, end = layer_bytes_range(entry.header, layer)
                data = payload[start:end]
                found.from_ram += 1
            elif (page := self._pool.get(keys[number])) is not None:
                data = page
                found.from_pool += 1
            if data is None:
                cold.append(entry)
            else:
                places[number] = (entry.header, data)
        self._read(cold, layer, left_s, keys, places, found)
        for number in sorted(places):
            found.headers.append(places[number][0])
        for key, value in _decode([places[number] for number in sorted(places)]):
            found.keys.append(key)
            found.values.append(value)
        return found

    def _count(self, found: Layer) -> None:
        seen = {
            ("device", "found"): found.from_pool,
            ("ram", "found"): found.from_ram,
            ("disk", "found"): found.from_disk,
            ("disk", "skipped"): found.skipped,
            ("disk", "damaged"): len(found.damaged),
            ("", "missing"): len(found.missing),
        }
        for (tier, outcome), count in seen.items():
            if count:
                self._meters.count(metrics.LOOKUPS, count, tier=tier, outcome=outcome)
        if found.from_disk:
            self._meters.observe(metrics.DISK_READ, found.read_s)
        corrupt = sum(isinstance(error, BlockCorrupt) for _, error in found.damaged)
        if corrupt:
            self._meters.count(CHECKSUMS, corrupt, tier="disk")

    def _read(
        self,
        cold: Sequence[Entry],
        layer: int,
        left_s: float,
        keys: dict[int, PageKey],
        places: dict[int, tuple[BlockHeader, Tensor]],
        found: Layer,
    ) -> None:
        if not cold:
            return
        assert self._disk is not None, f"held nowhere: {cold[0].key}"
        sizes = [entry.header.layer_bytes for entry in cold]
        plan = plan_load(len(cold), max(sizes), self.rate, left_s)
        found.skipped = plan.skipped
        chosen = cold[: plan.load]
        wants = [(entry.disk, entry.header) for entry in chosen if entry.disk is not None]
        began_s = time.perf_counter()
        read = self._disk.read_layer_many(wants, layer) if wants else ()
        if wants:
            found.read_s = time.perf_counter() - began_s
            self.rate.note(len(wants), sum(sizes[: len(wants)]), found.read_s)
        for entry, data in zip(chosen, read, strict=True):
            if isinstance(data, Exception):
                found.damaged.append((entry, data))
                continue
            found.from_disk += 1
            found.disk_bytes += data.numel()
            number = entry.key.number
            page = self._pool.put(keys[number], data, keep=keys.values())
            places[number] = (entry.header, data if page is None else page)


def _decode(places: Sequence[tuple[BlockHeader, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [H, N, D] of one layer of each block; equal neighbours are decoded together."""
    out: list[tuple[Tensor, Tensor]] = []
    # RAM and the device pool may lie on different devices.
    for (layout, tokens, codec, _), group in groupby(
        places, lambda p: (p[0].layout, p[0].tokens, p[0].codec, p[1].device)
    ):
        data = [layer for _, layer in group]
        if codec is Codec.RAW or len(data) == 1:
            out += [decode_layer(layer, layout, tokens, codec) for layer in data]
        else:
            keys, values = decode_layer(torch.stack(data), layout, tokens, codec)
            out += zip(keys.unbind(0), values.unbind(0), strict=True)
    return out
