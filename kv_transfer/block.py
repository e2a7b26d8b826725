"""Tensor. A block in memory: its header and its payload bytes; packing and verifying.

Knows nothing of how blocks travel or where they are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import xxhash

from kv_transfer.codecs import TORCH_DTYPES, Half, decode_half, encode_half
from kv_transfer.header import (
    HeaderCorrupt,
    HeaderInvalid,
    HeaderUnsupported,
    check_header,
    decode_header,
    encode_header,
)
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, Codec, KVLayout
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
    trace: str = field(default="", compare=False)
    """Trace context that goes with its offer to a peer; empty: it is not traced. Never stored."""

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

    def keys(self) -> torch.Tensor:
        """Raw keys of all layers, [layers, kv_heads, tokens, head_dim]; a view where the codec is RAW."""
        return self._decoded(Half.KEYS)

    def values(self) -> torch.Tensor:
        """Values of all layers, [layers, kv_heads, tokens, head_dim]; a view where the codec is RAW."""
        return self._decoded(Half.VALUES)

    def coded(self, half: Half) -> torch.Tensor:
        """A view of the bytes of all layers' keys or values as they are written, [layers, bytes]."""
        header = self.header
        keys_bytes, _ = header.layout.half_bytes(header.tokens, header.codec)
        layers = self.payload.view(header.layout.layers, header.layer_bytes)
        return layers[:, :keys_bytes] if half is Half.KEYS else layers[:, keys_bytes:]

    def _decoded(self, half: Half) -> torch.Tensor:
        header = self.header
        return decode_half(self.coded(half), header.layout, header.tokens, header.codec, half)


def layer_bytes_range(header: BlockHeader, layer: int) -> tuple[int, int]:
    """Half-open byte range ``[start, end)`` of a layer in the payload."""
    size_bytes = header.layer_bytes
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
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    codec: Codec = Codec.RAW,
    embedding: bytes = b"",
    embedder: str = "",
) -> Block:
    """Copy one span's keys and values, [layers, kv_heads, tokens, head_dim] each, into a block.

    The tensors may live on any device and need not be contiguous; the payload lies in host memory.
    Raises InvalidInput when a shape or dtype differs from the layout or the codec cannot write a number,
    HeaderInvalid for bad fields.
    """
    payload = torch.empty(layout.block_bytes(geometry.tokens, codec), dtype=torch.uint8)
    draft = BlockHeader(
        key=key,
        kind=kind,
        geometry=geometry,
        layout=layout,
        fingerprint=fingerprint,
        time=time,
        layer_checksums=(0,) * layout.layers,
        embedding=embedding,
        embedder=embedder,
        codec=codec,
    )
    check_header(draft)
    block = Block(draft, payload)
    for half, numbers in ((Half.KEYS, keys), (Half.VALUES, values)):
        _check_shape(half.name.lower(), numbers, draft)
        encode_half(numbers, codec, half, block.coded(half))
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


def _check_shape(name: str, numbers: torch.Tensor, header: BlockHeader) -> None:
    layout = header.layout
    shape = (layout.layers, layout.kv_heads, header.tokens, layout.head_dim)
    if tuple(numbers.shape) != shape or numbers.dtype != TORCH_DTYPES[layout.dtype]:
        raise InvalidInput(
            f"{name} are {numbers.dtype} {tuple(numbers.shape)}, expected {layout.dtype} {shape}"
        )
