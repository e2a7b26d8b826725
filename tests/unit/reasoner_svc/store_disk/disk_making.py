"""Disk stores for tests, and blocks with representatives for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kv_transfer.block import Block
from reasoner_svc.store.disk.slots import Fsync, FsyncPolicy
from reasoner_svc.store.disk.store import DiskStore
from tandem.core.ids import StreamId
from tests.unit.reasoner_svc.making import FINGERPRINT, LAYOUT, make_block

CAM = StreamId("cam")
FILE_BYTES = 8192
RECORD_BYTES = 1472
"""Of a block of `make_block`: about five go into a file."""


def make_store(root: Path, **options: Any) -> DiskStore:
    settings: dict[str, Any] = {
        "fingerprint": FINGERPRINT,
        "layout": LAYOUT,
        "budget_bytes": 1 << 30,
        "file_bytes": FILE_BYTES,
        "fsync": FsyncPolicy(Fsync.NEVER),
        **options,
    }
    return DiskStore(root, **settings)


def item(number: int, stream: str = "cam") -> tuple[Block, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + number)
    return make_block(number, stream=stream), torch.randn(2, 16, generator=generator)


def items(first: int, end: int, stream: str = "cam") -> list[tuple[Block, torch.Tensor]]:
    return [item(number, stream) for number in range(first, end)]
