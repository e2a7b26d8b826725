"""Tensor. A block in memory: its header and its payload bytes; packing and verifying.

Knows nothing of how blocks travel or where they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import xxhash

from kv_transfer.header import (
    HeaderCorrupt,
    HeaderInvalid,
    HeaderUnsupported,
    check_header,
    decode_header,
    encode_header,
)
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, KVLayout
from tandem.core.errors import DataLost, InvalidInput
from tandem.core.timeline import TimeRange

__all__ = [
    "Block",
    "BlockCorrupt",
    "HeaderCorrupt",
    "HeaderInvalid",
    "HeaderUnsupported",
    "check_header",
    "decode_header",
    "encode_header",
    "layer_bytes_range",
    "layer_checksum",
    "pack_block",
    "verify_block",
]

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class BlockCorrupt(DataLost):
    """The payload does not match the checksums in its header; `layers` are the wrong ones."""

    def __init__(self, message: str, layers: tuple[int, ...]) -> None:
        super().__init__(message)
        self.layers = layers


@dataclass(frozen=True, slots=True)
class Block:
    """A header and its payload: uint8, one-dimensional, contiguous, `header.payload_bytes` long."""

    header: BlockHeader
    payload: torch.Tensor

    def __post_init__(self) -> None:
        payload, expected = self.payload, self.header.payload_bytes
        if payload.dtype != torch.uint8 or payload.dim() != 1 or not payload.is_contiguous():
            raise InvalidInput("a block's payload must be one-dimensional contiguous uint8")
        if payload.numel() != expected:
            raise InvalidInput(
                f"the payload of {self.header.key} has {payload.numel()} bytes, not {expected}"
            )

    @property
    def key(self) -> BlockKey:
        """The header's key."""
        return self.header.key

    def keys(self, layer: int) -> torch.Tensor:
        """A view of one layer's raw keys, [kv_heads, tokens, head_dim]."""
        return self._half(layer, 0)

    def values(self, layer: int) -> torch.Tensor:
        """A view of one layer's values, [kv_heads, tokens, head_dim]."""
        return self._half(layer, 1)

    def _half(self, layer: int, half: int) -> torch.Tensor:
        layout, tokens = self.header.layout, self.header.tokens
        if not 0 <= layer < layout.layers:
            raise IndexError(f"layer {layer} of a block with {layout.layers} layers")
        size_bytes = layout.layer_bytes(tokens) // 2
        start = (2 * layer + half) * size_bytes
        flat = self.payload[start : start + size_bytes].view(TORCH_DTYPES[layout.dtype])
        return flat.view(layout.kv_heads, tokens, layout.head_dim)


def layer_bytes_range(header: BlockHeader, layer: int) -> tuple[int, int]:
    """Half-open byte range ``[start, end)`` of a layer in the payload."""
    size_bytes = header.layout.layer_bytes(header.tokens)
    return layer * size_bytes, (layer + 1) * size_bytes


def layer_checksum(payload: torch.Tensor, header: BlockHeader, layer: int) -> int:
    """Xxh3-64 of one layer's bytes in a payload that lies in host memory."""
    start, end = layer_bytes_range(header, layer)
    digest: int = xxhash.xxh3_64_intdigest(payload[start:end].numpy().data)
    return digest


def pack_block(
    key: BlockKey,
    kind: BlockKind,
    geometry: BlockGeometry,
    layout: KVLayout,
    fingerprint: str,
    time: TimeRange,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    embedding: bytes = b"",
) -> Block:
    """Copy one span's keys and values (one tensor a layer, [kv_heads, tokens, head_dim]) into a block.

    The tensors may live on any device and need not be contiguous; the payload lies in host memory.
    Raises InvalidInput when a shape or dtype differs from the layout, HeaderInvalid for bad fields.
    """
    payload = torch.empty(layout.block_bytes(geometry.tokens), dtype=torch.uint8)
    draft = BlockHeader(
        key=key,
        kind=kind,
        geometry=geometry,
        layout=layout,
        fingerprint=fingerprint,
        time=time,
        layer_checksums=(0,) * layout.layers,
        embedding=embedding,
    )
    check_header(draft)
    block = Block(draft, payload)
    _check_tensors("keys", keys, draft)
    _check_tensors("values", values, draft)
    for layer, (layer_keys, layer_values) in enumerate(zip(keys, values, strict=True)):
        block.keys(layer).copy_(layer_keys)
        block.values(layer).copy_(layer_values)
    return seal_block(draft, payload)


def seal_block(header: BlockHeader, payload: torch.Tensor) -> Block:
    """The block of these bytes, with the header's checksums computed anew."""
    checksums = tuple(layer_checksum(payload, header, layer) for layer in range(header.layout.layers))
    return Block(replace(header, layer_checksums=checksums), payload)


def verify_block(block: Block) -> None:
    """Compare every layer with its checksum. Raises BlockCorrupt naming the layers that differ."""
    header = block.header
    wrong = tuple(
        layer
        for layer, expected in enumerate(header.layer_checksums)
        if layer_checksum(block.payload, header, layer) != expected
    )
    if wrong:
        raise BlockCorrupt(f"block {header.key} is damaged in layers {list(wrong)}", wrong)


def _check_tensors(name: str, tensors: Sequence[torch.Tensor], header: BlockHeader) -> None:
    layout = header.layout
    shape = (layout.kv_heads, header.tokens, layout.head_dim)
    if len(tensors) != layout.layers:
        raise InvalidInput(f"{len(tensors)} tensors of {name} for {layout.layers} layers")
    for layer, tensor in enumerate(tensors):
        if tuple(tensor.shape) != shape or tensor.dtype != TORCH_DTYPES[layout.dtype]:
            raise InvalidInput(
                f"{name} of layer {layer} are {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {layout.dtype} {shape}"
            )
