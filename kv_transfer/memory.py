"""Shell. The simplest sink and source, a dictionary; and random blocks to put in it. Tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kv_transfer.block import Block, pack_block
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, KVLayout
from tandem.core.errors import LimitExceeded, NotFound
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange


class DictStore:
    """A `BlockSink` and `BlockSource` in memory with an optional byte budget."""

    def __init__(self, budget_bytes: int | None = None) -> None:
        self.blocks: dict[BlockKey, Block] = {}
        self.reserved_bytes = 0
        self.held_bytes = 0
        self.budget_bytes = budget_bytes

    def have(self, key: BlockKey, layer_checksums: Sequence[int]) -> bool:
        """See `BlockSink`."""
        block = self.blocks.get(key)
        return block is not None and block.header.layer_checksums == tuple(layer_checksums)

    def reserve(self, header: BlockHeader) -> torch.Tensor:
        """See `BlockSink`. Raises LimitExceeded when the budget is used up."""
        wanted = self.reserved_bytes + self.held_bytes + header.payload_bytes
        if self.budget_bytes is not None and wanted > self.budget_bytes:
            raise LimitExceeded("the dictionary's budget is used up", retry_after_s=0.02)
        self.reserved_bytes += header.payload_bytes
        return torch.empty(header.payload_bytes, dtype=torch.uint8)

    def publish(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """See `BlockSink`."""
        self.reserved_bytes -= header.payload_bytes
        self.held_bytes += header.payload_bytes
        self.blocks[header.key] = Block(header, buffer)

    def release(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """See `BlockSink`."""
        self.reserved_bytes -= header.payload_bytes

    def read(self, stream: StreamId, numbers: Sequence[int]) -> list[Block]:
        """See `BlockSource`."""
        missing = [number for number in numbers if BlockKey(stream, number) not in self.blocks]
        if missing:
            raise NotFound(f"blocks {missing[:8]} of stream {stream} are not held")
        return [self.blocks[BlockKey(stream, number)] for number in numbers]

    def drop(self, key: BlockKey) -> None:
        """Forget a block."""
        self.held_bytes -= self.blocks.pop(key).header.payload_bytes


def random_block(
    number: int,
    *,
    stream: str = "stream",
    layers: int = 4,
    kv_heads: int = 2,
    tokens: int = 16,
    head_dim: int = 8,
    dtype: str = "float32",
    fingerprint: str = "0" * 32,
) -> Block:
    """A block of random bytes that depend on its number alone."""
    generator = torch.Generator().manual_seed(number)
    layout = KVLayout(layers=layers, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)
    geometry = BlockGeometry(text_before=0, grid_t=1, grid_h=1, grid_w=tokens, text_after=0)
    halves = torch.randn(2 * layers, kv_heads, tokens, head_dim, generator=generator)
    halves = halves.to(getattr(torch, dtype))
    return pack_block(
        BlockKey(StreamId(stream), number),
        BlockKind.VISUAL,
        geometry,
        layout,
        fingerprint,
        TimeRange(number * 1_000_000, (number + 1) * 1_000_000),
        halves[:layers],
        halves[layers:],
    )
