"""Tensor. What a stream's run remembers of all its blocks, in view or not: the index, and who observes it.

Owned by the engine's thread.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.retrieve.index import MemoryIndex, representatives
from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.select import Limits, Seen, Selector, descriptor_of
from reasoner_svc.retrieve.strategies import make_selector
from tandem.core.blocks import EMBEDDING_NUMBER_BYTES, BlockHeader, BlockKind, KVLayout
from tandem.vlm.embedder import from_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallSettings:
    """How older blocks come back into a question's view."""

    strategy: str = "rekv"
    """Used when a question names none."""
    others: tuple[str, ...] = ()
    """More strategies that questions may name; each observes every block from the first on."""
    limits: Limits = field(default_factory=lambda: Limits(blocks=0))
    """Most that one question recalls; 0 blocks: older blocks never come back."""
    embedding_dim: int = 0
    """Of the blocks' embeddings, for external retrieval; 0: they have none."""
    embedder: str = ""
    """Whose embeddings, as headers name it; those of others are as good as none."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the index needs of a block, without its bytes."""

    header: BlockHeader
    representatives: Tensor
    """float32 [layers, kv_heads * head_dim]"""


class StreamMemory:
    """The index of one stream and its strategies."""

    def __init__(self, layout: KVLayout, settings: RecallSettings) -> None:
        self.settings = settings
        self.index = MemoryIndex(
            layers=layout.layers,
            key_dim=layout.kv_heads * layout.head_dim,
            embedding_dim=settings.embedding_dim,
        )
        names = dict.fromkeys((settings.strategy, *settings.others))
        self.embedded = 0
        """Blocks so far whose embedding a question can be compared with."""
        self._selectors: dict[str, Selector] = {name: make_selector(name) for name in names}

    def selector(self, name: str) -> Selector | None:
        """A strategy by name; the empty name is the default. None when it does not observe this stream."""
        return self._selectors.get(name or self.settings.strategy)

    def add(self, block: Block) -> None:
        """A block became visible."""
        if block.header.kind is BlockKind.VISUAL:
            self.add_row(Row(block.header, representatives(block)))

    def add_row(self, row: Row) -> None:
        """The same for a block whose bytes are elsewhere."""
        header = row.header
        embedding = _embedding(header, self.settings)
        self.embedded += embedding is not None
        self.index.append(header.key.number, header.time, header.tokens, row.representatives, embedding)
        descriptor = descriptor_of(row.representatives)
        seen = Seen(
            number=header.key.number,
            start_us=header.time.start_us,
            tokens=header.tokens,
            descriptor=descriptor,
        )
        for name, selector in list(self._selectors.items()):
            try:
                selector.observe(seen)
            except Exception:
                # A strategy that fails costs itself alone: the stream and the other strategies go on.
                log.exception("strategy %s lost count at block %s and is off", name, header.key)
                del self._selectors[name]

    def first_at(self, time_us: int) -> int:
        """Number of the first block that starts at or after a stream time; beyond all when there is none."""
        view = self.index.view()
        later = int(torch.searchsorted(view.start_us, time_us))
        return (
            int(view.numbers[later]) if later < len(view) else int(view.numbers[-1]) + 1 if len(view) else 0
        )

    def view(self, before_number: int | None) -> IndexView:
        """What a question may recall."""
        return self.index.view(before_number)


def _embedding(header: BlockHeader, settings: RecallSettings) -> Tensor | None:
    """The block's embedding, float32 [dim]; None without one that questions here compare with."""
    if not settings.embedding_dim or header.embedder != settings.embedder:
        return None
    if len(header.embedding) != EMBEDDING_NUMBER_BYTES * settings.embedding_dim:
        return None
    return from_bytes(header.embedding)
