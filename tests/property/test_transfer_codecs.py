"""Any mutation of an encoded header, frame header or ticket is refused, or changes nothing."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.block import decode_header, encode_header
from kv_transfer.memory import random_block
from kv_transfer.protocol.frames import (
    FrameHeader,
    FrameRefused,
    choose_class,
    decode_frame_header,
    encode_frame_header,
    plan_frames,
)
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, Codec, KVLayout
from tandem.core.errors import TandemError
from tandem.core.ids import Epoch, StreamId
from tandem.core.tickets import Ticket, TicketInvalid, sign_ticket, verify_ticket
from tandem.core.timeline import TimeRange
from tandem.core.transfer import BlockGrant, FrameClass

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)


embeddings = st.sampled_from(
    [
        {},
        {"embedding": struct.pack("<e", -1.0), "embedder": "0" * 16},
        {"embedding": struct.pack("<3e", 0.6, 0.0, -0.8), "embedder": "0123456789abcdef"},
    ]
)


@st.composite
def block_headers(draw: st.DrawFn) -> BlockHeader:
    layers = draw(st.integers(1, 6))
    start_us = draw(st.integers(-(10**12), 10**12))
    grid = draw(st.sampled_from([(0, 0, 0), (1, 2, 3), (2, 4, 4)]))
    return BlockHeader(
        key=BlockKey(
            StreamId(draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True))), draw(u32)
        ),
        kind=draw(st.sampled_from(BlockKind)),
        geometry=BlockGeometry(
            text_before=draw(st.integers(1, 30)),
            grid_t=grid[0],
            grid_h=grid[1],
            grid_w=grid[2],
            text_after=draw(st.integers(0, 30)),
        ),
        layout=KVLayout(
            layers=layers,
            kv_heads=draw(st.integers(1, 4)),
            head_dim=draw(st.integers(1, 128)),
            dtype=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        ),
        fingerprint=draw(st.from_regex(r"[0-9a-f]{32}", fullmatch=True)),
        time=TimeRange(start_us, start_us + draw(st.integers(0, 10**9))),
        layer_checksums=tuple(draw(st.lists(u64, min_size=layers, max_size=layers))),
        **draw(embeddings),
        codec=draw(st.sampled_from(Codec)),
    )


def mutate(data: st.DataObject, encoded: bytes) -> bytes:
    changed = bytearray(encoded)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed[: data.draw(st.integers(0, len(changed)))] if data.draw(st.booleans()) else changed)


@settings(deadline=None)
@given(block_headers(), st.data())
def test_block_headers(header: BlockHeader, data: st.DataObject) -> None:
    encoded = encode_header(header)
    assert decode_header(encoded) == (header, len(encoded))
    changed = mutate(data, encoded)
    try:
        assert decode_header(changed)[0] == header
    except TandemError:
        assert changed != encoded


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_never_a_block_header(noise: bytes) -> None:
    with pytest.raises(TandemError):
        decode_header(noise)


@settings(deadline=None)
@given(
    st.builds(
        FrameHeader,
        frame_class=st.sampled_from(FrameClass),
        flags=st.integers(0, 1),
        epoch=u32,
        lane_epoch=u32,
        transfer_id=u64,
        attempt=u32,
        seq=u32,
        offset=u64,
        valid_bytes=st.integers(1, 65_536),
        block=u32,
    ),
    st.data(),
)
def test_frame_headers(header: FrameHeader, data: st.DataObject) -> None:
    encoded = encode_frame_header(header)
    assert len(encoded) == 64
    assert decode_frame_header(encoded) == header
    changed = mutate(data, encoded)
    try:
        assert decode_frame_header(changed) == header
    except FrameRefused:
        assert changed != encoded


SECRET = b"0123456789abcdef"


@settings(deadline=None)
@given(u32, st.integers(0, 1 << 40), st.binary(min_size=16, max_size=16), st.data())
def test_tickets(epoch: int, until_s: int, nonce: bytes, data: st.DataObject) -> None:
    ticket = Ticket(
        pair_id="p",
        epoch=Epoch(epoch),
        encoder_id="e-1",
        reasoner_id="r-1",
        not_after_unix_s=until_s,
        nonce=nonce,
    )
    signed = sign_ticket(SECRET, ticket)
    assert verify_ticket(SECRET, signed, until_s) == ticket
    changed = mutate(data, signed)
    if changed != signed:
        with pytest.raises(TicketInvalid):
            verify_ticket(SECRET, changed, 0)
    with pytest.raises(TicketInvalid):
        verify_ticket(b"another secret ..", signed, 0)


@settings(deadline=None)
@given(st.data(), st.sampled_from(FrameClass))
def test_frames_cover_exactly_what_was_granted(data: st.DataObject, largest: FrameClass) -> None:
    sizes = data.draw(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
    headers = [random_header(tokens) for tokens in sizes]
    grants = []
    for index in range(len(headers)):
        layers = data.draw(st.sets(st.integers(0, 3)))
        if layers:
            grants.append(BlockGrant(index=index, layers=tuple(sorted(layers))))
    wanted = [
        (grant.index, layer * size, (layer + 1) * size)
        for grant in grants
        for layer in grant.layers
        for size in [headers[grant.index].payload_bytes // 4]
    ]
    frames = plan_frames(headers, grants, largest)
    spans = [span for frame in frames for span in frame.spans]
    assert joined((s.block, s.start, s.end) for s in spans) == joined(wanted)
    assert [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True] * bool(frames)
    for frame in frames:
        assert 0 < frame.valid_bytes <= frame.frame_class.size_bytes
        assert frame.valid_bytes == sum(span.end - span.start for span in frame.spans)
        assert frame.frame_class <= largest
    padding = sum(frame.frame_class.size_bytes - frame.valid_bytes for frame in frames)
    least = max(FrameClass.S.size_bytes, 0.75 * min(largest, FrameClass.M).size_bytes)
    assert padding < least


def test_a_transfer_is_cut_into_a_few_frames() -> None:
    mib = 1 << 20
    assert choose_class(64 * mib, FrameClass.L) is FrameClass.L
    assert choose_class(16 * mib, FrameClass.L) is FrameClass.L
    assert choose_class(16 * mib - 1, FrameClass.L) is FrameClass.M
    assert choose_class(64 * mib, FrameClass.M) is FrameClass.M
    assert choose_class(2 * mib, FrameClass.L) is FrameClass.M
    assert choose_class(mib, FrameClass.L) is FrameClass.H
    assert choose_class(mib // 8, FrameClass.L) is FrameClass.S
    assert choose_class(64 * mib, FrameClass.S) is FrameClass.S


def random_header(tokens: int) -> BlockHeader:
    header = random_block(0, layers=4, tokens=1, kv_heads=2, head_dim=64).header
    geometry = BlockGeometry(text_before=tokens, grid_t=0, grid_h=0, grid_w=0, text_after=0)
    return replace(header, geometry=geometry)


def joined(spans):  # type: ignore[no-untyped-def]
    result: list[tuple[int, int, int]] = []
    for block, start, end in spans:
        if result and result[-1][0] == block and result[-1][2] == start:
            result[-1] = (block, result[-1][1], end)
        else:
            result.append((block, start, end))
    return result
