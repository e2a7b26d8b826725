"""Layers of coded blocks from RAM and from a pool on another device, decoded in one go."""

from __future__ import annotations

import torch

from kv_transfer.block import Block, layer_bytes_range, pack_block
from reasoner_svc.view.loading import _decode
from tandem.core.blocks import BlockHeader, Codec
from tests.unit.reasoner_svc.making import make_block


def coded(number: int, tokens: int = 4) -> Block:
    block = make_block(number, tokens=tokens)
    h = block.header
    about = (h.key, h.kind, h.geometry, h.layout, h.fingerprint, h.time)
    return pack_block(*about, block.keys(), block.values(), codec=Codec.INT8)


def place(block: Block, device: str = "cpu") -> tuple[BlockHeader, torch.Tensor]:
    start, end = layer_bytes_range(block.header, 1)
    return block.header, block.payload[start:end].to(device)


def test_blocks_keep_their_order_whatever_is_decoded_together() -> None:
    blocks = [coded(1), coded(2), make_block(3), coded(4, tokens=6), coded(5, tokens=6)]
    found = _decode([place(block) for block in blocks])
    for block, (keys, values) in zip(blocks, found, strict=True):
        assert torch.equal(keys, block.keys()[1])
        assert torch.equal(values, block.values()[1])


def test_ram_and_pool_may_lie_on_different_devices() -> None:
    found = _decode([place(coded(1)), place(coded(2), "meta"), place(coded(3))])
    assert [keys.device.type for keys, _ in found] == ["cpu", "meta", "cpu"]
