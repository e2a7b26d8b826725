"""Codecs: sizes, how far a number may move, what cannot be written, and headers that say which it is."""

from __future__ import annotations

import struct

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.block import Block, decode_header, encode_header, pack_block, verify_block
from kv_transfer.codecs import Half, NotCodable, decode_half, decode_layer, encode_half
from kv_transfer.header import HeaderUnsupported
from reasoner_svc.retrieve.index import representatives
from tandem.core.blocks import BlockGeometry, BlockKey, BlockKind, Codec, KVLayout
from tandem.core.errors import Incompatible
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.wire.block_headers import header_from_proto, header_to_proto

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HALVES = (Half.KEYS, Half.VALUES)
dtypes, codecs = st.sampled_from([*DTYPES]), st.sampled_from(Codec)


def there_and_back(numbers: torch.Tensor, layout: KVLayout, codec: Codec, half: Half) -> torch.Tensor:
    data = torch.full((layout.half_bytes(numbers.shape[1], codec)[half],), 255, dtype=torch.uint8)
    encode_half(numbers, codec, half, data)
    return decode_half(data, layout, numbers.shape[1], codec, half)


def pack(codec: Codec, dtype: str = "float32", tokens: int = 5) -> tuple[Block, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    layout = KVLayout(layers=3, kv_heads=2, head_dim=4, dtype=dtype)
    sides = torch.randn(6, 2, tokens, 4, generator=generator).to(DTYPES[dtype])
    block = pack_block(
        BlockKey(StreamId("s"), 7),
        BlockKind.VISUAL,
        BlockGeometry(text_before=1, grid_t=1, grid_h=1, grid_w=tokens - 2, text_after=1),
        layout,
        "a" * 32,
        TimeRange(10, 20),
        sides[:3],
        sides[3:],
        codec=codec,
    )
    return block, sides


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 70), dtypes, codecs, st.data())
def test_nothing_moves_further_than_the_codec_says(
    heads: int, tokens: int, dim: int, dtype: str, codec: Codec, data: st.DataObject
) -> None:
    layout = KVLayout(layers=1, kv_heads=heads, head_dim=dim, dtype=dtype)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    size = data.draw(st.sampled_from([0.0, 1e-3, 1.0, 300.0]))
    # Transposed: attention leaves them so.
    numbers = (size * torch.randn(tokens, heads, dim, generator=generator)).to(DTYPES[dtype]).transpose(0, 1)
    for half in HALVES:
        back = there_and_back(numbers, layout, codec, half)
        assert (back.dtype, back.shape) == (numbers.dtype, numbers.shape)
        moved, exact = (back.double() - numbers.double()).abs(), numbers.double()
        rounding = torch.finfo(DTYPES[dtype]).eps  # what the model's own type loses when it is written back
        if codec is Codec.RAW:
            assert torch.equal(back, numbers)
        elif codec is Codec.INT8:
            step = exact.abs().amax(1 if half is Half.KEYS else 2, keepdim=True) / 127
            assert bool((moved <= 0.5001 * step + rounding * exact.abs() + 1e-30).all())
        else:
            eps = torch.finfo(DTYPES[codec]).eps
            tiny = torch.finfo(DTYPES[codec]).smallest_normal * eps
            assert bool((moved <= eps * exact.abs() + tiny).all())


def test_a_channel_of_large_keys_does_not_blur_the_others() -> None:
    layout = KVLayout(layers=1, kv_heads=1, head_dim=8, dtype="float32")
    numbers = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(1))
    numbers[..., 3] *= 1000
    moved = (there_and_back(numbers, layout, Codec.INT8, Half.KEYS) - numbers).abs().amax((0, 1))
    assert moved[3] > 1
    assert moved[[0, 1, 2, 4, 5, 6, 7]].max() < 0.02


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_in_eight_bits_and_kept_as_it_is_when_raw(bad: float) -> None:
    layout = KVLayout(layers=1, kv_heads=1, head_dim=4, dtype="float32")
    numbers = torch.ones(1, 2, 4)
    numbers[0, 1, 2] = bad
    for half in HALVES:
        with pytest.raises(NotCodable):
            there_and_back(numbers, layout, Codec.INT8, half)
        assert torch.equal(
            there_and_back(numbers, layout, Codec.RAW, half).nan_to_num(7.0, 8.0, 9.0),
            numbers.nan_to_num(7.0, 8.0, 9.0),
        )


def test_numbers_too_large_for_float16_become_its_largest() -> None:
    layout = KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="bfloat16")
    numbers = torch.tensor([[[1e6, -1e6]]], dtype=torch.bfloat16)
    back = there_and_back(numbers, layout, Codec.FLOAT16, Half.VALUES)
    assert back.float().abs().tolist() == [[[65536.0, 65536.0]]]  # 65504, as bfloat16 writes it


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_verify_and_their_layers_can_be_read_alone(codec: Codec, dtype: str) -> None:
    block, sides = pack(codec, dtype)
    header = block.header
    verify_block(block)
    assert header.payload_bytes == block.payload.numel() == 3 * header.layer_bytes
    for layer in range(3):
        data = block.payload[layer * header.layer_bytes : (layer + 1) * header.layer_bytes]
        keys, values = decode_layer(data, header.layout, header.tokens, codec)
        assert torch.equal(keys, block.keys()[layer])
        assert torch.equal(values, block.values()[layer])
        assert torch.allclose(keys.float(), sides[layer].float(), atol=0.02, rtol=0.01)
        assert torch.allclose(values.float(), sides[3 + layer].float(), atol=0.02, rtol=0.01)
    means = sides[:3].float().mean(2).flatten(1)
    assert torch.allclose(representatives(block), means, atol=0.02)


@pytest.mark.parametrize("codec", Codec)
def test_headers_name_the_codec_on_disk_and_on_the_wire(codec: Codec) -> None:
    header = pack(codec)[0].header
    assert decode_header(encode_header(header))[0] == header
    assert header_from_proto(header_to_proto(header)) == header


def test_an_unknown_codec_is_a_typed_refusal() -> None:
    header = pack(Codec.INT8)[0].header
    message = header_to_proto(header)
    message.codec = "zip"
    with pytest.raises(Incompatible, match=r"'zip'.*raw, float16, bfloat16, int8"):
        header_from_proto(message)
    message.codec = ""
    assert header_from_proto(message).codec is Codec.RAW
    encoded = encode_header(header)
    with pytest.raises(HeaderUnsupported, match="int9"):
        decode_header(reseal(encoded.replace(b"\xa4int8", b"\xa4int9")))


def reseal(encoded: bytes) -> bytes:
    """With a checksum that holds."""
    return encoded[:-8] + struct.pack("<Q", xxhash.xxh3_64_intdigest(encoded[:-8]))


@pytest.mark.parametrize(("codec", "ratio"), [(Codec.BFLOAT16, 2.0), (Codec.FLOAT16, 2.0), (Codec.INT8, 3.7)])
def test_coded_blocks_are_smaller(codec: Codec, ratio: float) -> None:
    layout = KVLayout(layers=28, kv_heads=4, head_dim=128, dtype="float32")
    assert layout.block_bytes(64) / layout.block_bytes(64, codec) >= ratio
