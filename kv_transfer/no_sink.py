"""Pure. The sink of an end that fetches blocks and takes none that it did not ask for."""

from __future__ import annotations

import torch

from kv_transfer.base import BlockSink
from tandem.core.blocks import BlockHeader, BlockKey
from tandem.core.errors import InvalidInput


class NoSink(BlockSink):
    """Refuses every block that is offered."""

    def have(self, key: BlockKey, layer_checksums: object) -> bool:
        """Never."""
        return False

    def reserve(self, header: BlockHeader) -> torch.Tensor:
        """Refuse."""
        raise InvalidInput(f"this end stores no blocks; {header.key} was not asked for")

    def publish(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """Nothing was reserved."""
        raise AssertionError(f"{header.key} was published without a buffer")

    def release(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """Nothing was reserved."""
