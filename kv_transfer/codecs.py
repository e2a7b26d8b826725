"""Tensor. How keys and values are written in a payload and read back, one half of a layer at a time.

A block is coded once, by the encoder, and stays as it is on the wire, in RAM and on disk: nothing is coded
twice, so errors do not add up, and one checksum holds everywhere. Whoever attends to it decodes it.

H key/value heads, N tokens, D head dimension; K and V are [H, N, D]. Any dimensions before these (layers,
blocks) are coded together, which for small blocks is many times faster than one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from tandem.core.blocks import SCALE_BYTES, Codec, KVLayout
from tandem.core.errors import InvalidInput

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_INT8_LARGEST = 127
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


class Half(IntEnum):
    """The two halves of a layer, in their order."""

    KEYS = 0
    VALUES = 1


_ROUNDS = 1.5 * 2**23
"""Adding and taking away this rounds a float32 to the nearest integer. `Tensor.round` wakes torch's threads
for a few thousand numbers already, which on busy cores takes a hundred times longer than the rounding."""
_SCALED_OVER = {Half.KEYS: -2, Half.VALUES: -1}
"""Keys have one scale a channel, over tokens; values one a token, over channels."""


class NotCodable(InvalidInput):
    """Numbers that this codec cannot write: infinite, or not a number."""


def encode_half(numbers: Tensor, codec: Codec, half: Half, out: Tensor) -> None:
    """Write K or V [..., H, N, D] to `out`, uint8 [..., bytes of the half]; neither need be contiguous.

    Too large numbers become the codec's largest. Raises NotCodable where INT8 finds one that is not finite.
    """
    if codec is Codec.INT8:
        _encode_int8(numbers, half, out)
        return
    dtype = numbers.dtype if codec is Codec.RAW else TORCH_DTYPES[codec]
    if dtype is not numbers.dtype and torch.finfo(dtype).max < torch.finfo(numbers.dtype).max:
        # In float32: bfloat16 would round the bound itself up, beyond what float16 can hold.
        numbers = numbers.to(torch.float32).clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    _split(out.view(dtype), numbers.shape[-3:]).copy_(numbers)


def decode_half(data: Tensor, layout: KVLayout, tokens: int, codec: Codec, half: Half) -> Tensor:
    """K or V [..., H, N, D] in the layout's element type, of uint8 [..., bytes of the half]; RAW: a view."""
    shape = layout.kv_heads, tokens, layout.head_dim
    if codec is Codec.RAW:
        return _split(data.view(TORCH_DTYPES[layout.dtype]), shape)
    if codec is Codec.INT8:
        return _decode_int8(data, shape, half).to(TORCH_DTYPES[layout.dtype])
    return _split(data.view(TORCH_DTYPES[codec]), shape).to(TORCH_DTYPES[layout.dtype])


def decode_layer(data: Tensor, layout: KVLayout, tokens: int, codec: Codec) -> tuple[Tensor, Tensor]:
    """K and V [..., H, N, D] of a layer's bytes, uint8 [..., bytes of the layer]."""
    keys_bytes, _ = layout.half_bytes(tokens, codec)
    return (
        decode_half(data[..., :keys_bytes], layout, tokens, codec, Half.KEYS),
        decode_half(data[..., keys_bytes:], layout, tokens, codec, Half.VALUES),
    )


def _encode_int8(numbers: Tensor, half: Half, out: Tensor) -> None:
    """Scales, then the numbers, then zeros. Nobody is off by more than half of its scale."""
    exact = numbers.to(torch.float32)
    largest = exact.abs().amax(dim=_SCALED_OVER[half], keepdim=True)
    if not bool(largest.isfinite().all()):
        raise NotCodable("keys or values that are infinite or not a number cannot be written in eight bits")
    scales = (largest / _INT8_LARGEST).clamp(min=_SMALLEST_SCALE)
    coded = (exact / scales).clamp_(-_INT8_LARGEST, _INT8_LARGEST).add_(_ROUNDS).sub_(_ROUNDS)
    split = SCALE_BYTES * scales.shape[-3:].numel()
    end = split + numbers.shape[-3:].numel()
    _split(out[..., :split].view(torch.float32), scales.shape[-3:]).copy_(scales)
    _split(out[..., split:end].view(torch.int8), numbers.shape[-3:]).copy_(coded)
    out[..., end:].zero_()


def _decode_int8(data: Tensor, shape: tuple[int, int, int], half: Half) -> Tensor:
    scaled = list(shape)
    scaled[_SCALED_OVER[half]] = 1
    split = SCALE_BYTES * math.prod(scaled)
    scales = _split(data[..., :split].view(torch.float32), scaled)
    coded = _split(data[..., split : split + math.prod(shape)].view(torch.int8), shape)
    return coded.to(torch.float32) * scales


def _split(flat: Tensor, shape: Sequence[int]) -> Tensor:
    """The last dimension as several; a view."""
    return flat.view(*flat.shape[:-1], *shape)
