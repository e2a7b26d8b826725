"""Decoding in a process of its own: the same pixels; what breaks there costs its own stream one refusal."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_svc.admit import MediaLimits
from encoder_svc.decode import children
from encoder_svc.decode.children import Child, DecoderHost
from encoder_svc.decode.decoders import DecoderLost
from encoder_svc.decode.isolated import MAX_LOSSES, IsolatedDecoders
from encoder_svc.decode.make import MediaKind
from encoder_svc.decode.pictures import PictureFormat, RawPicture, decode_picture
from encoder_svc.decode.source import RawChunk, Refusal
from encoder_svc.decode.talk import Garbled, receive, send
from tandem.core.errors import BadMedia, ErrorCode
from tests.unit.encoder_svc.media import encode, open_source, picture, run, units

LIMITS = MediaLimits()
MP4 = encode(MediaKind.FRAGMENTED_MP4, 4)


@pytest.fixture(scope="module")
def host() -> Iterator[DecoderHost]:
    made = DecoderHost(LIMITS, memory_bytes=256 << 20, cpu_s=1)
    yield made
    made.close()


def png(index: int = 0, size: tuple[int, int] = (64, 48)) -> RawPicture:
    buffer = io.BytesIO()
    Image.fromarray(picture(index, *size)).save(buffer, "PNG")
    return RawPicture(sequence=index, pts_us=0, format=PictureFormat.PNG, data=buffer.getvalue())


def child_of(decoders: IsolatedDecoders) -> Child:
    child = decoders._child
    assert child is not None
    return child


@pytest.mark.parametrize("kind", list(MediaKind)[1:])
def test_video_comes_out_the_same(host: DecoderHost, kind: MediaKind) -> None:
    data = encode(kind, 12)
    items = [RawChunk(at, data[at : at + 900]) for at in range(0, len(data), 900)]
    here = units(run(open_source(kind), items))
    there = units(run(open_source(kind, decoders=IsolatedDecoders(host)), items))
    assert len(here) == len(there) > 8
    for one, other in zip(here, there, strict=True):
        assert one.time == other.time
        assert np.array_equal(one.frames[0], other.frames[0])


@pytest.mark.parametrize("kind", [PictureFormat.PNG, PictureFormat.JPEG])
def test_pictures_come_out_the_same(host: DecoderHost, kind: PictureFormat) -> None:
    image, buffer = Image.fromarray(picture(3)), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned
    image.save(buffer, kind.value, exif=exif)
    raw = RawPicture(sequence=0, pts_us=0, format=kind, data=buffer.getvalue())
    assert np.array_equal(IsolatedDecoders(host).picture(raw, LIMITS), decode_picture(raw, LIMITS))


def test_what_cannot_be_decoded_is_refused_and_the_process_stays(host: DecoderHost) -> None:
    decoders = IsolatedDecoders(host)
    broken = RawPicture(sequence=0, pts_us=0, format=PictureFormat.PNG, data=png().data[:-40])
    decoders.picture(png(), LIMITS)
    pid = child_of(decoders).pid
    with pytest.raises(BadMedia, match="cannot be decoded") as refused:
        decoders.picture(broken, LIMITS)
    assert not isinstance(refused.value, DecoderLost)
    decoders.picture(png(), LIMITS)
    assert child_of(decoders).pid == pid


def test_a_process_that_dies_costs_its_stream_one_picture_and_no_other_anything(host: DecoderHost) -> None:
    mine, other = IsolatedDecoders(host), IsolatedDecoders(host)
    mine.picture(png(), LIMITS)
    other.picture(png(), LIMITS)
    pid = child_of(other).pid
    os.kill(child_of(mine).pid, signal.SIGSEGV)
    with pytest.raises(DecoderLost) as refused:
        mine.picture(png(), LIMITS)
    assert refused.value.code is ErrorCode.BAD_MEDIA
    mine.picture(png(), LIMITS)
    other.picture(png(), LIMITS)
    assert child_of(other).pid == pid


def test_media_that_breaks_every_decoder_is_given_up(host: DecoderHost) -> None:
    decoders = IsolatedDecoders(host)
    for _ in range(MAX_LOSSES):
        child = host.open()
        child._greet()
        decoders._child = child
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(DecoderLost):
            decoders.picture(png(), LIMITS)
    with pytest.raises(BadMedia, match="given up"):
        decoders.picture(png(), LIMITS)
    assert decoders._child is None


def test_a_process_that_hangs_is_ended_by_the_wall_clock(
    host: DecoderHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders = IsolatedDecoders(host)
    decoders.picture(png(), LIMITS)
    pid = child_of(decoders).pid
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(children, "ANSWER_S", 0.2)
    with pytest.raises(DecoderLost, match=r"0\.2 s"):
        decoders.picture(png(), LIMITS)
    monkeypatch.setattr(children, "ANSWER_S", 60.0)
    until_is_gone(pid)


def until_is_gone(pid: int) -> None:
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_picture_that_takes_too_much_memory_is_refused() -> None:
    limits = MediaLimits(max_pixels=1 << 30, max_side=1 << 15)
    small = DecoderHost(limits, memory_bytes=32 << 20, cpu_s=30)
    try:
        bomb = io.BytesIO()
        Image.new("RGB", (5000, 5000)).save(bomb, "PNG", compress_level=1)
        raw = RawPicture(sequence=0, pts_us=0, format=PictureFormat.PNG, data=bomb.getvalue())
        decoders = IsolatedDecoders(small)
        with pytest.raises(DecoderLost, match="memory"):
            decoders.picture(raw, limits)
        decoders.picture(png(), limits)
    finally:
        small.close()


def test_a_video_whose_decoder_is_lost_goes_on_at_the_next_key_frame(host: DecoderHost) -> None:
    kind = MediaKind.H264_ANNEX_B
    data = encode(kind, 40, gop=10, b_frames=0)
    decoders = IsolatedDecoders(host)
    source = open_source(kind, decoders=decoders)
    half = len(data) // 2
    before = run(source, [RawChunk(0, data[:half])], finish=False)
    os.kill(child_of(decoders).pid, signal.SIGKILL)
    rest = [RawChunk(at, data[at : at + 50]) for at in range(half, len(data), 50)]
    after = run(source, rest)
    refusals = [event for event in after if isinstance(event, Refusal)]
    assert [type(refusal.error) for refusal in refusals] == [DecoderLost]
    assert len(units(before)) > 10
    assert len(units(after)) >= 10


def test_what_is_not_decoded_yet_is_split_there_too(host: DecoderHost) -> None:
    """FFmpeg reads nothing of a stream in this process: not even to find its frames, or its codec."""
    kind = MediaKind.H264_ANNEX_B
    data = encode(kind, 20, gop=5, b_frames=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("encoder_svc.decode.splitting.av", None)
        patch.setattr("encoder_svc.decode.video.av", None)
        source = open_source(kind, decoders=IsolatedDecoders(host))
        assert len(units(run(source, [RawChunk(0, data)]))) == 20
        mp4 = open_source(MediaKind.FRAGMENTED_MP4, decoders=IsolatedDecoders(host))
        assert len(units(run(mp4, [RawChunk(0, MP4)]))) == 4


def test_the_kernel_ends_what_takes_too_much_of_a_processor() -> None:
    code = "from encoder_svc.decode.worker import allow_cpu; allow_cpu(0)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGXCPU


def test_a_stream_that_ends_while_it_is_decoded_ends_its_process_and_counts_no_loss(
    host: DecoderHost,
) -> None:
    decoders = IsolatedDecoders(host)
    decoders.picture(png(), LIMITS)
    pid = child_of(decoders).pid
    os.kill(pid, signal.SIGSTOP)  # in the middle of it
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(decoders.picture, png(), LIMITS)
        time.sleep(0.1)
        decoders.close()
        with pytest.raises(BadMedia):
            asked.result(10)
    assert decoders.losses == 0
    until_is_gone(pid)
    with pytest.raises(BadMedia, match="ended"):
        decoders.picture(png(), LIMITS)


def test_when_the_host_is_gone_another_takes_its_place() -> None:
    one = DecoderHost(LIMITS, memory_bytes=256 << 20, cpu_s=1)
    try:
        IsolatedDecoders(one).picture(png(), LIMITS)
        assert one._process is not None
        one._process.kill()
        one._process.wait()
        IsolatedDecoders(one).picture(png(), LIMITS)
    finally:
        one.close()


def test_a_process_can_open_nothing_and_ends_with_its_stream(host: DecoderHost) -> None:
    child = host.open()
    child._greet()
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    for name in ("Max open files", "Max processes", "Max file size", "Max core file size"):
        line = next(line for line in limits.splitlines() if line.startswith(name))
        assert line.split()[-3] == "0", line
    pid = child.pid
    del child
    until_is_gone(pid)


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack("<II", 1 << 21, 0),
        struct.pack("<II", 4, 1 << 31),
        struct.pack("<II", 0, 0),
        struct.pack("<II", 1, 0) + b"\xc1",
        struct.pack("<II", 1, 0) + b"\x01",
        struct.pack("<II", 5, 0) + b"\xdd\xff\xff\xff\xff",
    ],
)
def test_what_a_process_says_is_not_trusted(answer: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(answer)
        with pytest.raises(Garbled):
            receive(here, 100, 1.0)


@pytest.mark.parametrize(
    ("said", "data"),
    [
        (["ok", 10, 10], b"\0" * 299),
        (["ok", -1, -1], b"\0" * 3),
        (["ok", 1 << 20, 1], b""),
        (["ok"], b""),
        (["what"], b""),
        (["bad"], b""),
        (["ok", "x", 1], b"\0"),
    ],
)
def test_a_picture_that_is_none_is_not_taken(host: DecoderHost, said: list[object], data: bytes) -> None:
    here, there = socket.socketpair()
    decoders = IsolatedDecoders(host)
    child = decoders._child = Child(here)
    child.pid = 1 << 30  # nobody's
    with there:
        send(there, said, data)
        with pytest.raises(DecoderLost):
            decoders.picture(png(), LIMITS)


def test_what_a_stream_had_open_is_closed_with_it(host: DecoderHost) -> None:
    """Whoever still refers to it: descriptors do not wait for memory to be tidied."""
    kept = []
    before = len(os.listdir("/proc/self/fd"))
    for index in range(5):
        decoders = IsolatedDecoders(host)
        decoders.picture(png(index), LIMITS)
        decoders.close()
        kept.append((decoders, decoders.picture))
        assert decoders.process is None
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the host's control, where it was only started now
    with pytest.raises(BadMedia, match="has ended"):
        kept[0][0].picture(png(), LIMITS)
