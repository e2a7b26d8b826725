"""Each bad input has its typed error; that stream goes on where it can, and all others do."""

from __future__ import annotations

from typing import Any

import pytest

from encoder_svc.decode.make import MediaKind
from tandem.core.errors import (
    DataLost,
    Incompatible,
    InvalidInput,
    LimitExceeded,
    PermissionRefused,
    TandemError,
    Unavailable,
    WrongState,
)
from tandem.wire.gen.tandem.v1 import encoder_pb2, types_pb2
from tests.unit.encoder_svc.media import cut, encode
from tests.unit.encoder_svc.rig import END, Call, Rig, make_rig, png, send_pictures
from tests.unit.encoder_svc.test_pictures import png_header

PICTURES = types_pb2.MEDIA_KIND_PICTURES


def a_picture(sequence: int, **fields: Any) -> types_pb2.Picture:
    usual = {
        "pts_us": sequence * 1_000_000,
        "format": types_pb2.PICTURE_FORMAT_PNG,
        "data": png(sequence),
    }
    return types_pb2.Picture(sequence=sequence, **(usual | fields))


BAD_PICTURES = {
    "zero bytes": ({"data": b""}, "bad_media"),
    "garbage": ({"data": b"garbage"}, "bad_media"),
    "40 megapixels": ({"data": png_header(8000, 5000)}, "bad_media"),
    "pts goes back": ({"pts_us": 10}, "bad_timestamp"),
    "pts is negative": ({"pts_us": -5}, "bad_timestamp"),
    "unknown format": ({"format": 99}, "invalid_input"),
    "aspect ratio over 200": (
        {
            "format": types_pb2.PICTURE_FORMAT_RGB24,
            "width": 3000,
            "height": 2,
            "data": b"\0" * 18000,
        },
        "bad_media",
    ),
}


async def test_bad_pictures_are_refused_alone() -> None:
    async with make_rig() as rig:
        other = await rig.open("other", PICTURES)
        for name, (fields, code) in BAD_PICTURES.items():
            stream = name.replace(" ", "-")
            call = await rig.open(stream, PICTURES)
            await send_pictures(call, range(3))
            await call.send(picture=a_picture(3, **fields))
            await send_pictures(call, range(4, 6))
            await call.send(end=END)
            await call.over()
            assert [(r.error.code, r.position) for r in call.refused] == [(code, 3)], name
            assert len(rig.reasoner.shelf.of(stream)) == 1 + 5, name
            assert call.ended.progress.watermark_us == 6_000_000
        await send_pictures(other, range(3))
        await other.send(end=END)
        await other.over()
        assert not other.refused


@pytest.mark.parametrize("kind", [types_pb2.MEDIA_KIND_FRAGMENTED_MP4, types_pb2.MEDIA_KIND_MPEG_TS])
async def test_bytes_that_are_no_video_are_refused_and_the_call_ends_in_order(kind: int) -> None:
    async with make_rig() as rig:
        call = await rig.open("s", kind)
        await call.send(chunk=types_pb2.Chunk(offset=0, data=b"no video" * 300_000))
        await call.send(chunk=types_pb2.Chunk(offset=2_400_000, data=b"no video" * 10))
        await call.send(end=END)
        await call.over()
        assert [refused.error.code for refused in call.refused] == ["bad_media"]
        assert call.ended.progress.consumed_position == 2_400_080
        assert len(rig.reasoner.shelf.of("s")) == 1


async def test_a_truncated_video_is_used_as_far_as_it_goes() -> None:
    data = encode(MediaKind.FRAGMENTED_MP4, 60, fps=5)
    async with make_rig() as rig:
        call = await rig.open("s", types_pb2.MEDIA_KIND_FRAGMENTED_MP4)
        for chunk in cut(data[: len(data) * 6 // 10], 1):
            await call.send(chunk=types_pb2.Chunk(offset=chunk.offset, data=chunk.data))
        await call.send(end=END)
        await call.over()
        assert [refused.error.code for refused in call.refused] == ["bad_media"]
        assert 4 <= len(rig.reasoner.shelf.of("s")) <= 10


def bad_openings(rig: Rig) -> dict[str, tuple[dict[str, Any], type[TandemError]]]:
    return {
        "stream id": ({"stream_id": "a b"}, InvalidInput),
        "no kind": ({"media": types_pb2.MediaOptions()}, InvalidInput),
        "rate": ({"media": types_pb2.MediaOptions(kind=PICTURES, sample_fps=-1)}, InvalidInput),
        "nan": ({"media": types_pb2.MediaOptions(kind=PICTURES, sample_fps=float("nan"))}, InvalidInput),
        "reasoner name": ({"reasoner_name": ""}, InvalidInput),
        "reasoner address": ({"reasoner_address": "nowhere"}, InvalidInput),
        "reasoner is down": ({"reasoner_name": "down", "reasoner_address": "127.0.0.1:1"}, Unavailable),
        "ticket": ({"ticket": b"forged"}, PermissionRefused),
        "epoch": ({"epoch": 0}, WrongState),
        "header": ({"resume": encoder_pb2.EncodeRequest.Resume(decoder_header=b"junk")}, InvalidInput),
        "blocks that are not there": (
            {"resume": encoder_pb2.EncodeRequest.Resume(next_block_number=1 << 62)},
            InvalidInput,
        ),
    }


async def test_bad_openings_have_typed_errors() -> None:
    async with make_rig(connect_patience_s=0.3) as rig:
        first = await rig.open("s", PICTURES)
        await first.until(lambda call: call.opened)
        for name, (fields, expected) in bad_openings(rig).items():
            call = await rig.open("s" if name == "epoch" else "x", PICTURES, **fields)
            with pytest.raises(TandemError) as caught:
                await call.over()
            assert isinstance(caught.value, expected), (name, caught.value)
        await send_pictures(first, range(2))
        await first.send(end=END)
        await first.over()


async def test_messages_that_cannot_come_now_end_the_call() -> None:
    async with make_rig() as rig:
        call = Call(rig.stub)
        await call.send(end=END)
        with pytest.raises(InvalidInput, match="first message"):
            await call.over()
        call = await rig.open("s", PICTURES)
        await call.send(open=encoder_pb2.EncodeRequest.Open())
        with pytest.raises(InvalidInput, match="cannot come"):
            await call.over()
        call = await rig.open("s", PICTURES)
        await call.send(chunk=types_pb2.Chunk(offset=0, data=b"x"))
        with pytest.raises(InvalidInput, match="takes pictures"):
            await call.over()
        call = await rig.open("s", PICTURES)
        await call.done_writing()
        with pytest.raises(InvalidInput, match="without an end"):
            await call.over()
        assert rig.app.servicer.streams == 0


async def test_a_newer_placement_replaces_the_older() -> None:
    async with make_rig() as rig:
        old = await rig.open("s", PICTURES)
        await old.until(lambda call: call.opened)
        new = await rig.open("s", PICTURES)
        with pytest.raises(TandemError):
            await old.over()
        await send_pictures(new, range(2))
        await new.send(end=END)
        await new.over()


async def test_a_full_service_says_so() -> None:
    async with make_rig(max_streams=1) as rig:
        first = await rig.open("one", PICTURES)
        await first.until(lambda call: call.opened)
        second = await rig.open("two", PICTURES)
        with pytest.raises(LimitExceeded):
            await second.over()
        first.cancel()


async def test_a_reasoner_of_another_model_is_incompatible() -> None:
    async with make_rig(reasoner_fingerprint="0" * 32) as rig:
        call = await rig.open("s", PICTURES)
        with pytest.raises(Incompatible):
            await call.over()


async def test_a_reasoner_without_room_stops_the_media_and_room_lets_it_go_on() -> None:
    async with make_rig(outbox_blocks=3, send_timeout_s=1.0) as rig:
        rig.reasoner.shelf.full = True
        call = await rig.open("s", PICTURES)
        await send_pictures(call, range(12))
        await call.send(end=END)
        await call.until(lambda c: c.progress and c.progress[-1].frames_waiting)
        progress = call.progress[-1]
        assert progress.consumed_position <= 4
        assert progress.watermark_us == 0
        rig.reasoner.shelf.full = False
        await call.over()
        assert len(rig.reasoner.shelf.of("s")) == 13


async def test_what_the_reasoner_refuses_for_good_ends_the_call_with_its_reason() -> None:
    async with make_rig() as rig:
        call = await rig.open("s", PICTURES)
        await call.until(lambda c: c.opened)
        rig.reasoner.shelf.refusal = WrongState("placed anew")
        await send_pictures(call, range(2))
        with pytest.raises(WrongState, match="placed anew"):
            await call.over()


async def test_a_lost_link_ends_the_call_and_a_new_one_goes_on() -> None:
    async with make_rig() as rig:
        call = await rig.open("s", PICTURES)
        await send_pictures(call, range(3))
        await call.until(lambda c: c.progress and c.progress[-1].next_block_number == 4)
        await rig.reasoner.links[0].close("the test wants it")
        await send_pictures(call, range(3, 5))
        with pytest.raises(Unavailable, match="fresh ticket"):
            await call.over()
        held = rig.reasoner.shelf.of("s")
        again = await rig.open(
            "s",
            PICTURES,
            resume=encoder_pb2.EncodeRequest.Resume(
                next_block_number=len(held),
                from_us=held[-1].header.time.end_us,
                decoder_header=call.header,
                position=call.progress[-1].safe_position,
            ),
        )
        await send_pictures(again, range(call.progress[-1].safe_position, 6))
        await again.send(end=END)
        await again.over()
        assert [block.key.number for block in rig.reasoner.shelf.of("s")] == list(range(7))


async def test_evicted_blocks_do_not_stop_a_resume() -> None:
    async with make_rig() as rig:
        call = await rig.open(
            "s",
            PICTURES,
            resume=encoder_pb2.EncodeRequest.Resume(next_block_number=50, from_us=49_000_000, position=49),
        )
        await send_pictures(call, range(49, 52))
        await call.send(end=END)
        await call.over()
        assert [block.key.number for block in rig.reasoner.shelf.of("s")] == [50, 51, 52]


def test_data_lost_is_not_hopeless() -> None:
    assert not issubclass(DataLost, InvalidInput)
