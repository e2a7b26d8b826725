"""Real media files for tests, made with FFmpeg's encoders."""

from __future__ import annotations

import io
import random
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.decoders import INSIDE, Decoders
from encoder_svc.decode.make import Beginning, MediaKind, make_source
from encoder_svc.decode.source import Item, RawChunk, Source, SourceEvent
from encoder_svc.sample import Grid, Sampler, Unit

Rgb = NDArray[np.uint8]

CONTAINERS = {
    MediaKind.H264_ANNEX_B: ("h264", "libx264"),
    MediaKind.H265_ANNEX_B: ("hevc", "libx265"),
    MediaKind.FRAGMENTED_MP4: ("mp4", "libx264"),
    MediaKind.MPEG_TS: ("mpegts", "libx264"),
}
LIMITS = MediaLimits()


def picture(index: int, width: int = 64, height: int = 48) -> Rgb:
    """A picture that tells its index: brightness, and a bar that moves."""
    rgb = np.full((height, width, 3), (index * 7) % 200, np.uint8)
    rgb[:, index % width : index % width + 4] = (255, 40, 90)
    return rgb


def encode(
    kind: MediaKind,
    frames: int = 60,
    *,
    fps: int = 25,
    gop: int = 10,
    b_frames: int = 2,
    size: tuple[int, int] = (64, 48),
    codec: str = "",
    first_pts: int = 0,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> bytes:
    """A stream of `frames` pictures."""
    container_format, default_codec = CONTAINERS[kind]
    codec = codec or default_codec
    buffer = io.BytesIO()
    mux = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if container_format == "mp4" else {}
    with av.open(buffer, "w", format=container_format, options=mux) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, pix_fmt, gop
        extra = options or {}
        if codec == "libx265":
            params = f"log-level=none:keyint={gop}:bframes={b_frames}:pools=none"
            stream.codec_context.options = {"x265-params": params, "preset": "ultrafast", **extra}
        else:
            stream.codec_context.options = {"bf": str(b_frames), "preset": "veryfast", **extra}
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = index + first_pts, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def reference_frames(kind: MediaKind, data: bytes) -> list[Rgb]:
    """The pictures as FFmpeg's own demuxer and decoder give them."""
    with av.open(io.BytesIO(data), format=CONTAINERS[kind][0]) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def cut(data: bytes, seed: int, largest: int = 700, offset: int = 0) -> list[RawChunk]:
    """The bytes in chunks of random sizes."""
    rng = random.Random(seed)
    chunks = []
    at = 0
    while at < len(data):
        size = rng.randint(1, largest)
        chunks.append(RawChunk(offset + at, data[at : at + size]))
        at += size
    return chunks


def open_source(
    kind: MediaKind,
    *,
    fps: float = 25.0,
    nominal_fps: float = 25.0,
    frames_per_unit: int = 1,
    from_us: int | None = None,
    beginning: Beginning | None = None,
    gap_after_us: int = 2_000_000,
    limits: MediaLimits = LIMITS,
    decoders: Decoders = INSIDE,
) -> Source:
    """A source that samples at `fps`."""
    sampler: Sampler[Rgb] = Sampler(Grid.of(fps, frames_per_unit), from_us=from_us, gap_after_us=gap_after_us)
    start = beginning or Beginning()
    return make_source(kind, sampler, start, nominal_fps, limits, lambda height, width: None, decoders)


def run(source: Source, items: list[Item], *, finish: bool = True) -> list[SourceEvent]:
    """All events of the items."""
    events: list[SourceEvent] = []

    def work() -> None:
        more = True
        while more:
            found, more = source.advance()
            events.extend(found)

    for item in items:
        source.feed(item)
        work()
    if finish:
        source.finish()
        work()
    return events


def units(events: list[SourceEvent]) -> list[Unit[Rgb]]:
    """The units among the events."""
    return [event for event in events if isinstance(event, Unit)]
