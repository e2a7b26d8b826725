"""Tensor. The device pool: single layers of retrieved blocks, least recently used first to go.

One allocation of fixed size, made at the start: device memory does not grow with the stream. A page holds one
layer of one block as it is at rest (raw keys, then values); a question copies pages into its own view and
rotates them in that copy, so that a page serves questions at any place. ReKV (arXiv 2503.00540) keeps such an
LRU of blocks per layer on the GPU. Owned by the engine's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from reasoner_svc.store.extents import Extents
from reasoner_svc.store.tiers.base import Slot


class PageKey(NamedTuple):
    """One layer of one block of one opening of a stream."""

    run: int
    number: int
    layer: int


class LayerPool:
    """Pages by key."""

    def __init__(self, budget_bytes: int, device: torch.device | str = "cpu") -> None:
        self._memory = torch.empty(budget_bytes, dtype=torch.uint8, device=device)
        self._extents = Extents(budget_bytes, budget_bytes)
        self._pages: OrderedDict[PageKey, Slot] = OrderedDict()
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        """Bytes of device memory; constant."""
        return self._memory.nbytes

    @property
    def pages(self) -> int:
        """Pages held."""
        return len(self._pages)

    def get(self, key: PageKey) -> Tensor | None:
        """A page's bytes, uint8 on the device, not a copy; valid until a `put` that does not keep it."""
        slot = self._pages.get(key)
        if slot is None:
            self.misses += 1
            return None
        self.hits += 1
        self._pages.move_to_end(key)
        return self._bytes(slot)

    def put(self, key: PageKey, data: Tensor, keep: Collection[PageKey] = ()) -> Tensor | None:
        """Copy a page in, in place of the least recently used ones, but never of those in `keep`.

        None when there is no room: the pool is smaller than what one question reads of a layer.
        """
        assert key not in self._pages, f"pooled twice: {key}"
        slot = self._extents.take(data.numel())
        while slot is None:
            victim = next((page for page in self._pages if page not in keep), None)
            if victim is None:
                return None
            self._extents.free(self._pages.pop(victim))
            slot = self._extents.take(data.numel())
        self._pages[key] = slot
        page = self._bytes(slot)
        page.copy_(data)
        return page

    def forget_run(self, run: int) -> None:
        """A stream was closed."""
        for key in [key for key in self._pages if key.run == run]:
            self._extents.free(self._pages.pop(key))

    def forget(self, run: int, numbers: Collection[int]) -> None:
        """These blocks are gone."""
        for key in [key for key in self._pages if key.run == run and key.number in numbers]:
            self._extents.free(self._pages.pop(key))

    def _bytes(self, slot: Slot) -> Tensor:
        return self._memory[slot.start : slot.start + slot.length]
