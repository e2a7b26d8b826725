"""Encoded streams that are broken: what can be decoded is used, the rest is declared, the stream goes on."""

from __future__ import annotations

import ctypes
import itertools
import random

import numpy as np
import pytest

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.annexb import AnnexBDemuxer
from encoder_svc.decode.make import MediaKind
from encoder_svc.decode.mp4 import Mp4Demuxer
from encoder_svc.decode.packets import CodecSetup, EncodedPacket
from encoder_svc.decode.source import RawChunk, Refusal, SourceEvent
from encoder_svc.decode.splitting import FrameSplitter
from encoder_svc.decode.video import VideoDecoder
from encoder_svc.sample import Hole
from tandem.core.errors import BadMedia, TandemError
from tandem.core.timeline import Gap, GapReason, TimeRange
from tests.unit.encoder_svc.media import CONTAINERS, cut, encode, open_source, run, units

KINDS = list(CONTAINERS)
CONTEXT_AT = 24
"""Where PyAV's object holds FFmpeg's: behind the two words of every object and its table of methods."""
STREAMS = {kind: encode(kind, 100, fps=10) for kind in KINDS}


def refusals(events: list[SourceEvent]) -> list[TandemError]:
    return [event.error for event in events if isinstance(event, Refusal)]


def holes(events: list[SourceEvent]) -> list[Gap]:
    return [event.gap for event in events if isinstance(event, Hole)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_stream_gives_what_came(kind: MediaKind) -> None:
    data = STREAMS[kind][: len(STREAMS[kind]) * 6 // 10]
    events = run(open_source(kind, fps=10, nominal_fps=10), list(cut(data, 1)))
    assert 30 < len(units(events)) < 90
    assert all(isinstance(error, BadMedia) for error in refusals(events))
    if kind is MediaKind.FRAGMENTED_MP4:
        assert refusals(events)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_bytes_are_a_gap_and_decoding_goes_on_at_a_key_frame(kind: MediaKind) -> None:
    data = STREAMS[kind]
    third = len(data) // 3
    items = [*cut(data[:third], 1), *cut(data[2 * third :], 2, offset=2 * third)]
    source = open_source(kind, fps=10, nominal_fps=10)
    events = run(source, list(items))
    found = units(events)
    # Without a clock, how long the hole was is a guess from the bytes that are missing.
    assert found[-1].time.end_us >= 8_000_000
    assert 40 <= len(found) < 90
    (gap,) = holes(events)
    assert gap.reason in {GapReason.BACKLOG_FULL, GapReason.UNDECODABLE}
    assert gap.range.duration_us > 1_000_000
    before = [unit for unit in found if unit.time.end_us <= gap.range.start_us]
    after = [unit for unit in found if unit.time.start_us >= gap.range.end_us]
    assert len(before) + len(after) == len(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_damaged_bytes_never_break_the_source(kind: MediaKind, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(STREAMS[kind])
    begin = 2000 if kind is MediaKind.FRAGMENTED_MP4 else 1000
    for _ in range(20):
        data[rng.randrange(begin, len(data))] = rng.randrange(256)
    at = rng.randrange(begin, len(data) - 200)
    data[at : at + 100] = rng.randbytes(100)
    events = run(open_source(kind, fps=10, nominal_fps=10), list(cut(bytes(data), seed)))
    assert units(events)
    times = [unit.time for unit in units(events)]
    assert all(a.end_us <= b.start_us for a, b in itertools.pairwise(times))
    assert all(isinstance(error, TandemError) for error in refusals(events))
    assert len(refusals(events)) < 60


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_garbage_is_refused_once(kind: MediaKind, seed: int) -> None:
    data = random.Random(seed).randbytes(2_500_000)
    events = run(open_source(kind), list(cut(data, seed, 200_000)))
    assert not units(events)
    assert 1 <= len(refusals(events)) <= 3
    assert all(isinstance(error, BadMedia) for error in refusals(events))


@pytest.mark.parametrize("kind", KINDS)
def test_zero_bytes_cost_nothing(kind: MediaKind) -> None:
    chunks = cut(STREAMS[kind], 1)
    items = [chunks[0], RawChunk(chunks[1].offset, b""), *chunks[1:]]
    events = run(open_source(kind, fps=10, nominal_fps=10), list(items))
    assert len(units(events)) == 100
    assert [type(error) for error in refusals(events)] == [BadMedia]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_all_is_refused_or_silent(kind: MediaKind) -> None:
    events = run(open_source(kind), [])
    assert not units(events)


def test_an_mp4_that_is_not_fragmented_says_how_to_make_it_so() -> None:
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    events = run(open_source(MediaKind.FRAGMENTED_MP4), list(cut(buffer.getvalue(), 1)))
    (error,) = refusals(events)
    assert "frag_keyframe" in error.message


def test_a_codec_that_nobody_knows_is_refused_once() -> None:
    data = STREAMS[MediaKind.FRAGMENTED_MP4].replace(b"avc1", b"zzzz")
    events = run(open_source(MediaKind.FRAGMENTED_MP4), list(cut(data, 1)))
    (error,) = refusals(events)
    assert isinstance(error, BadMedia)
    assert "codec" in error.message


def test_a_video_over_the_limit_is_refused() -> None:
    limits = MediaLimits(max_pixels=1000)
    for kind in KINDS:
        source = open_source(kind, limits=limits)
        events = run(source, list(cut(STREAMS[kind], 1)))
        assert not units(events)
        assert refusals(events)


def test_other_codecs_in_containers() -> None:
    data = encode(MediaKind.FRAGMENTED_MP4, 20, fps=5, codec="mpeg4", b_frames=0, options={"bf": "0"})
    assert len(units(run(open_source(MediaKind.FRAGMENTED_MP4, fps=5), list(cut(data, 1))))) == 20
    data = encode(MediaKind.MPEG_TS, 20, fps=25, codec="mpeg2video", b_frames=0, options={})
    assert len(units(run(open_source(MediaKind.MPEG_TS), list(cut(data, 1))))) == 20


def test_bytes_behind_a_packet_in_memory_change_nothing() -> None:
    data = encode(MediaKind.FRAGMENTED_MP4, 20, fps=5, codec="mpeg4", b_frames=0, options={"bf": "0"})
    demuxer = Mp4Demuxer(MediaLimits())
    packets = [item for item in demuxer.feed(data) if isinstance(item, EncodedPacket)]
    assert demuxer.setup is not None
    rng = random.Random(1)
    for _ in range(200):
        decoder = VideoDecoder(demuxer.setup, MediaLimits())
        behind = rng.randbytes(64)
        views = [memoryview(packet.data + behind)[: len(packet.data)] for packet in packets]
        frames = [frame for tag, view in enumerate(views) for frame in decoder.decode(view, tag)]
        assert len(frames) == 20
        assert all(frame.whole for frame in frames)


def test_zeros_lie_behind_every_piece_that_is_parsed() -> None:
    class Parser:
        def parse(self, piece: memoryview) -> list[object]:
            fed.append(bytes(piece))
            behind.append(bytes(piece.obj)[len(piece) :])  # type: ignore[arg-type]
            return []

    fed: list[bytes] = []
    behind: list[bytes] = []
    splitter = FrameSplitter("h264")
    demuxer = AnnexBDemuxer("h264", MediaLimits(), splitter=splitter)
    splitter._parser = Parser()  # type: ignore[assignment]
    data = b"\xff" * 70_000
    demuxer.feed(data)
    demuxer.finish()
    assert b"".join(fed) == data
    assert fed[-1] == b""  # flushes the parser
    assert behind == [bytes(64)] * 3


def test_zeros_lie_behind_the_setup() -> None:
    """Read where FFmpeg has it: PyAV tells only the length without the padding."""
    extradata = (b"\xff" * 7 + b"\0") * 541
    decoder = VideoDecoder(CodecSetup("mpeg4", extradata), MediaLimits())
    context = ctypes.c_void_p.from_address(id(decoder._context) + CONTEXT_AT).value
    assert context is not None
    fields = ctypes.string_at(context, 256)
    sizes = range(8, 256, 4)
    (at,) = [at for at in sizes if int.from_bytes(fields[at : at + 4], "little") == len(extradata)]
    address = int.from_bytes(fields[at - 8 : at], "little")
    assert ctypes.string_at(address, len(extradata) + 64) == extradata + bytes(64)


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "gray", "yuv420p10le"])
def test_other_pixel_formats(pix_fmt: str) -> None:
    data = encode(MediaKind.H264_ANNEX_B, 5, pix_fmt=pix_fmt)
    found = units(run(open_source(MediaKind.H264_ANNEX_B), list(cut(data, 1))))
    assert len(found) == 5
    assert found[0].frames[0].shape == (48, 64, 3)
    assert found[0].frames[0].dtype == np.uint8


def test_odd_sizes() -> None:
    data = encode(MediaKind.H264_ANNEX_B, 5, pix_fmt="yuv444p", size=(63, 47))
    found = units(run(open_source(MediaKind.H264_ANNEX_B), list(cut(data, 1))))
    assert found[0].frames[0].shape == (47, 63, 3)


def test_a_change_of_size_in_the_middle() -> None:
    data = encode(MediaKind.H264_ANNEX_B, 10) + encode(MediaKind.H264_ANNEX_B, 10, size=(96, 64))
    shapes = [
        unit.frames[0].shape for unit in units(run(open_source(MediaKind.H264_ANNEX_B), list(cut(data, 1))))
    ]
    assert shapes == [(48, 64, 3)] * 10 + [(64, 96, 3)] * 10


def test_a_stream_that_begins_in_the_middle_waits_for_a_key_frame() -> None:
    data = STREAMS[MediaKind.MPEG_TS]
    begin = (len(data) // 4) // 188 * 188 + 50
    items = [RawChunk(chunk.offset, chunk.data) for chunk in cut(data[begin:], 1)]
    events = run(open_source(MediaKind.MPEG_TS, fps=10), list(items))
    assert 40 < len(units(events)) < 90
    assert units(events)[0].time.start_us == 0


def test_the_clock_of_a_transport_stream_may_wrap() -> None:
    data = encode(MediaKind.MPEG_TS, 50, fps=10, first_pts=((1 << 33) // 9000) - 25)
    events = run(open_source(MediaKind.MPEG_TS, fps=10), list(cut(data, 1)))
    assert [unit.time.start_us for unit in units(events)] == [index * 100_000 for index in range(50)]


def test_an_announced_gap_is_passed() -> None:
    kind = MediaKind.H264_ANNEX_B
    data = encode(kind, 20, fps=10, gop=10)
    gap = Gap(TimeRange(2_000_000, 9_000_000), GapReason.BACKLOG_FULL)
    later = encode(kind, 20, fps=10, gop=10)
    items = [*cut(data, 1), gap, *cut(later, 2, offset=len(data) + 5000)]
    events = run(open_source(kind, fps=10, nominal_fps=10), list(items))
    times = [unit.time.start_us for unit in units(events)]
    # Where a frame ends shows only when the next one begins: the last one before the hole is lost with it.
    assert times == [i * 100_000 for i in range(19)] + [9_000_000 + i * 100_000 for i in range(20)]
    lost = Gap(TimeRange(1_900_000, 2_000_000), GapReason.BACKLOG_FULL)
    assert holes(events) == [lost, gap]
