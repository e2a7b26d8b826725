"""The encoder service over real gRPC and a real link, with a reasoner that only stores."""

from __future__ import annotations

import pytest
import torch

from encoder_svc.decode.make import MediaKind
from tandem.core.blocks import BlockKind
from tandem.core.errors import WrongState
from tandem.wire.gen.tandem.v1 import encoder_pb2, types_pb2
from tests.unit.encoder_svc.media import cut, encode, reference_frames
from tests.unit.encoder_svc.rig import END, make_rig, send_pictures

KINDS = {
    MediaKind.H264_ANNEX_B: types_pb2.MEDIA_KIND_H264_ANNEX_B,
    MediaKind.H265_ANNEX_B: types_pb2.MEDIA_KIND_H265_ANNEX_B,
    MediaKind.FRAGMENTED_MP4: types_pb2.MEDIA_KIND_FRAGMENTED_MP4,
    MediaKind.MPEG_TS: types_pb2.MEDIA_KIND_MPEG_TS,
}


async def test_pictures_become_published_blocks() -> None:
    async with make_rig() as rig:
        call = await rig.open("s", types_pb2.MEDIA_KIND_PICTURES)
        await send_pictures(call, range(12))
        await call.send(end=END)
        await call.over()
        blocks = rig.reasoner.shelf.of("s")
        assert [block.key.number for block in blocks] == list(range(13))
        assert blocks[0].header.kind is BlockKind.SINK
        assert [b.header.time.start_us for b in blocks[1:]] == [i * 1_000_000 for i in range(12)]
        last = call.ended.progress
        assert (last.watermark_us, last.next_block_number, last.frames_waiting) == (12_000_000, 13, 0)
        assert last.consumed_position == 12
        assert not call.gaps
        assert not call.refused
        assert 0 < last.lag_ms < 60_000


@pytest.mark.parametrize("kind", list(KINDS))
async def test_an_encoded_stream_gives_the_blocks_of_its_pictures(kind: MediaKind) -> None:
    data = encode(kind, 50, fps=5)
    frames = reference_frames(kind, data)
    async with make_rig(run_units=1, batch_units=1) as rig:
        call = await rig.open("pictures", types_pb2.MEDIA_KIND_PICTURES)
        for index, frame in enumerate(frames):
            await call.send(
                picture=types_pb2.Picture(
                    sequence=index,
                    pts_us=index * 200_000,
                    format=types_pb2.PICTURE_FORMAT_RGB24,
                    data=frame.tobytes(),
                    width=64,
                    height=48,
                )
            )
        await call.send(end=END)
        await call.over()
        media = types_pb2.MediaOptions(kind=KINDS[kind], nominal_fps=5)
        call = await rig.open("bytes", KINDS[kind], media=media)
        for chunk in cut(data, 5):
            await call.send(chunk=types_pb2.Chunk(offset=chunk.offset, data=chunk.data))
        await call.send(end=END)
        await call.over()
        left, right = rig.reasoner.shelf.of("pictures"), rig.reasoner.shelf.of("bytes")
        assert len(left) == len(right) == 11
        for a, b in zip(left, right, strict=True):
            assert a.header.time == b.header.time
            assert torch.equal(a.payload, b.payload)


async def test_a_stream_taken_up_from_blocks_is_the_same_bit_for_bit() -> None:
    kind = MediaKind.FRAGMENTED_MP4
    data = encode(kind, 100, fps=5)
    chunks = cut(data, 5)
    async with make_rig(run_units=1, batch_units=1) as rig:
        whole = await rig.open("whole", KINDS[kind])
        for chunk in chunks:
            await whole.send(chunk=types_pb2.Chunk(offset=chunk.offset, data=chunk.data))
        await whole.send(end=END)
        await whole.over()

        first = await rig.open("cut", KINDS[kind])
        for chunk in chunks[: len(chunks) * 2 // 3]:
            await first.send(chunk=types_pb2.Chunk(offset=chunk.offset, data=chunk.data))
        await first.until(lambda c: c.progress and c.progress[-1].next_block_number >= 10)
        first.cancel()
        held = rig.reasoner.shelf.of("cut")
        position = first.progress[-1].safe_position
        assert position > 0
        again = await rig.open(
            "cut",
            KINDS[kind],
            resume=encoder_pb2.EncodeRequest.Resume(
                next_block_number=len(held),
                from_us=held[-1].header.time.end_us,
                decoder_header=first.header,
                position=position,
            ),
        )
        for chunk in cut(data[position:], 9, offset=position):
            await again.send(chunk=types_pb2.Chunk(offset=chunk.offset, data=chunk.data))
        await again.send(end=END)
        await again.over()
        left, right = rig.reasoner.shelf.of("whole"), rig.reasoner.shelf.of("cut")
        assert len(left) == len(right) == 21
        for a, b in zip(left, right, strict=True):
            assert a.header.time == b.header.time
            assert torch.equal(a.payload, b.payload), a.key
        assert not again.gaps


async def test_a_new_stream_of_a_known_id_counts_its_epochs_anew() -> None:
    async with make_rig() as rig:
        first = await rig.open("s", types_pb2.MEDIA_KIND_PICTURES, epoch=1_000, incarnation="one")
        await send_pictures(first, range(2))
        await first.send(end=END)
        await first.over()
        again = await rig.open("s", types_pb2.MEDIA_KIND_PICTURES, epoch=1_000, incarnation="one")
        with pytest.raises(WrongState, match="has passed"):
            await again.over()
        rig.reasoner.shelf.blocks.clear()
        second = await rig.open("s", types_pb2.MEDIA_KIND_PICTURES, epoch=1, incarnation="two")
        await second.until(lambda call: call.opened)
        await second.send(end=END)
        await second.over()
