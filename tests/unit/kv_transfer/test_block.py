"""Blocks: packing, views, checksums; the header as bytes."""

from __future__ import annotations

import dataclasses
import struct

import msgpack
import pytest
import torch
import xxhash

from kv_transfer.block import Block, BlockCorrupt, pack_block, verify_block
from kv_transfer.header import (
    MAGIC,
    MAX_EMBEDDING_BYTES,
    MAX_HEADER_BYTES,
    MAX_LAYERS,
    VERSION,
    HeaderCorrupt,
    HeaderInvalid,
    HeaderUnsupported,
    decode_header,
    encode_header,
)
from kv_transfer.memory import random_block
from tandem.core.blocks import BlockGeometry, BlockKey, BlockKind, KVLayout
from tandem.core.errors import InvalidInput
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange

EMBEDDER = "0123456789abcdef"


def pack(dtype: torch.dtype, name: str, layers: int = 3) -> tuple[Block, torch.Tensor, torch.Tensor]:
    # Not contiguous, as attention leaves them.
    keys = torch.randn(layers, 5, 2, 4).to(dtype).transpose(1, 2)
    values = torch.randn(layers, 2, 5, 4).to(dtype)
    block = pack_block(
        BlockKey(StreamId("s"), 7),
        BlockKind.VISUAL,
        BlockGeometry(text_before=1, grid_t=1, grid_h=1, grid_w=3, text_after=1),
        KVLayout(layers=layers, kv_heads=2, head_dim=4, dtype=name),
        "a" * 32,
        TimeRange(10, 20),
        keys,
        values,
    )
    return block, keys, values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_views_are_what_was_packed(dtype: torch.dtype) -> None:
    block, keys, values = pack(dtype, str(dtype).removeprefix("torch."))
    for layer in range(3):
        assert torch.equal(block.keys()[layer], keys[layer])
        assert torch.equal(block.values()[layer], values[layer])
    assert block.keys().data_ptr() == block.payload.data_ptr(), "views copy nothing"
    verify_block(block)


def test_payload_is_layer_major() -> None:
    block, keys, values = pack(torch.float32, "float32", layers=2)
    expected = b"".join(
        t.contiguous().numpy().tobytes() for pair in zip(keys, values, strict=True) for t in pair
    )
    assert block.payload.numpy().tobytes() == expected


def test_damage_is_found_and_its_layer_named() -> None:
    block, _, _ = pack(torch.float32, "float32")
    block.values()[1].flatten()[3] += 1
    with pytest.raises(BlockCorrupt) as caught:
        verify_block(block)
    assert caught.value.layers == (1,)


def test_wrong_shapes_are_refused() -> None:
    geometry = BlockGeometry(text_before=0, grid_t=0, grid_h=0, grid_w=0, text_after=5)
    layout = KVLayout(layers=1, kv_heads=2, head_dim=4, dtype="float32")
    good = torch.zeros(1, 2, 5, 4)
    for keys in (good[:0], good.expand(2, -1, -1, -1), torch.zeros(1, 2, 6, 4), good[0], good.half()):
        with pytest.raises(InvalidInput):
            pack_block(
                BlockKey(StreamId("s"), 0),
                BlockKind.TEXT,
                geometry,
                layout,
                "0" * 32,
                TimeRange(0, 0),
                keys,
                good,
            )
    header = random_block(1).header
    for payload in (torch.zeros(3, dtype=torch.uint8), torch.zeros(header.payload_bytes // 4)):
        with pytest.raises(InvalidInput):
            Block(header, payload)


def test_header_goes_round() -> None:
    header = random_block(5).header
    data = encode_header(header)
    assert decode_header(data + b"payload") == (header, len(data))
    assert data[:4] == MAGIC


def test_header_cut_off_anywhere_is_refused() -> None:
    data = encode_header(random_block(5).header)
    for length in range(len(data)):
        with pytest.raises(HeaderCorrupt):
            decode_header(data[:length])


def forge(fields: dict[str, object], version: int = VERSION) -> bytes:
    body = msgpack.packb(fields)
    data = struct.pack("<4sHHI", MAGIC, version, 0, len(body)) + body
    return data + struct.pack("<Q", xxhash.xxh3_64_intdigest(data))


def fields_of(number: int = 1) -> dict[str, object]:
    data = encode_header(random_block(number).header)
    fields = msgpack.unpackb(data[12:-8])
    assert isinstance(fields, dict)
    return fields


BAD_FIELDS = [
    ("stream", "../etc", HeaderInvalid),
    ("stream", 5, HeaderInvalid),
    ("number", -1, HeaderInvalid),
    ("number", True, HeaderInvalid),
    ("kind", 9, HeaderInvalid),
    ("text_before", -1, HeaderInvalid),
    ("grid", [1, 2], HeaderInvalid),
    ("grid", [0, 1, 16], HeaderInvalid),
    ("grid", "abc", HeaderInvalid),
    ("layers", 3, HeaderInvalid),
    ("layers", 1 << 40, HeaderInvalid),
    ("kv_heads", 0, HeaderInvalid),
    ("dtype", "complex64", HeaderInvalid),
    ("fingerprint", "Z" * 32, HeaderInvalid),
    ("fingerprint", "0" * 31, HeaderInvalid),
    ("end_us", -5, HeaderInvalid),
    ("tokens", 17, HeaderInvalid),
    ("payload_bytes", 1, HeaderInvalid),
    ("codec", "zstd", HeaderUnsupported),
    ("layer_xxh3", b"1234567", HeaderInvalid),
    ("layer_xxh3", "text", HeaderInvalid),
    ("stream", "x" * 300, HeaderCorrupt),
    ("grid", [[[1]]], HeaderInvalid),
    ("embedding", "text", HeaderInvalid),
    ("embedding", [1.0], HeaderInvalid),
    ("embedding", struct.pack("<e", 1.0) + b"\0", HeaderInvalid),
    ("embedding", struct.pack("<2e", 1.0, 1.0), HeaderInvalid),
    ("embedding", struct.pack("<2e", 0.0, 0.0), HeaderInvalid),
    ("embedding", struct.pack("<2e", 1.0, float("nan")), HeaderInvalid),
    ("embedding", struct.pack("<2e", 1.0, float("inf")), HeaderInvalid),
    ("embedder", "0" * 16, HeaderInvalid),
    ("embedder", 7, HeaderInvalid),
    ("embedding", struct.pack("<4097e", 1.0, *[0.0] * 4096), HeaderCorrupt),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_FIELDS)
def test_wrong_values_are_refused_though_the_checksum_is_right(
    name: str, value: object, error: type[Exception]
) -> None:
    assert decode_header(forge(fields_of()))[0] == random_block(1).header
    with pytest.raises(error):
        decode_header(forge(fields_of() | {name: value}))


def test_unknown_versions_and_fields_are_refused() -> None:
    for version in (0, VERSION + 1):
        with pytest.raises(HeaderUnsupported, match=f"version {version}"):
            decode_header(forge(fields_of(), version=version))
    with pytest.raises(HeaderCorrupt):
        decode_header(forge(fields_of() | {"extra": 1}))
    fewer = fields_of()
    del fewer["codec"]
    with pytest.raises(HeaderCorrupt):
        decode_header(forge(fewer))


def test_older_versions_are_read_as_without_an_embedding() -> None:
    fields = fields_of()
    assert fields.pop("embedder") == ""
    second = forge({**fields, "embedding": struct.pack("<e", 1.0)}, version=2)
    assert decode_header(second) == (random_block(1).header, len(second))
    assert fields.pop("embedding") == b""
    first = forge(fields, version=1)
    assert decode_header(first) == (random_block(1).header, len(first))
    for version in (2, 3):
        with pytest.raises(HeaderCorrupt):
            decode_header(forge(fields, version=version))
    for version in (1, 2):
        with pytest.raises(HeaderCorrupt):
            decode_header(forge(fields_of(), version=version))


def test_the_largest_embedding_fits_a_header_with_the_most_layers() -> None:
    embedding = struct.pack("<4096e", *[1 / 64] * 4096)
    assert len(embedding) == MAX_EMBEDDING_BYTES
    block = random_block(1, layers=MAX_LAYERS, kv_heads=1, tokens=1, head_dim=1)
    header = dataclasses.replace(block.header, embedding=embedding, embedder=EMBEDDER)
    data = encode_header(header)
    assert len(data) < MAX_HEADER_BYTES
    assert decode_header(data) == (header, len(data))
    longer = struct.pack("<4097e", 1.0, *[0.0] * 4096)
    with pytest.raises(HeaderInvalid, match="8194 bytes"):
        encode_header(dataclasses.replace(header, embedding=longer))


def test_the_embedding_is_under_the_header_checksum() -> None:
    embedding = struct.pack("<2e", 0.6, 0.8)
    data = encode_header(dataclasses.replace(random_block(1).header, embedding=embedding, embedder=EMBEDDER))
    at = data.index(embedding)
    with pytest.raises(HeaderCorrupt, match="checksum"):
        decode_header(data[:at] + embedding[2:] + embedding[:2] + data[at + 4 :])


def test_an_embedding_and_what_made_it_go_together() -> None:
    header, embedding = random_block(1).header, struct.pack("<2e", 0.6, 0.8)
    for wrong in ("", "0" * 15, "0" * 17, "0" * 15 + "g", "0" * 15 + "A"):
        with pytest.raises(HeaderInvalid, match="embedder"):
            encode_header(dataclasses.replace(header, embedding=embedding, embedder=wrong))
    with pytest.raises(HeaderInvalid, match="embedder"):
        encode_header(dataclasses.replace(header, embedder=EMBEDDER))


def test_packing_keeps_the_embedding() -> None:
    embedding = struct.pack("<2e", 0.6, 0.8)
    block, keys, values = pack(torch.float32, "float32")
    header = block.header
    again = pack_block(
        *(header.key, header.kind, header.geometry, header.layout, header.fingerprint, header.time),
        keys,
        values,
        embedding=embedding,
        embedder=EMBEDDER,
    )
    assert again.header == dataclasses.replace(header, embedding=embedding, embedder=EMBEDDER)
    verify_block(again)


def test_impossible_headers_are_not_encoded() -> None:
    header = random_block(1).header
    with pytest.raises(HeaderInvalid):
        encode_header(dataclasses.replace(header, layer_checksums=(1, 2)))
    with pytest.raises(HeaderInvalid):
        encode_header(dataclasses.replace(header, fingerprint="short"))
