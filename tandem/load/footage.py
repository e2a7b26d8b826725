"""Tensor (numpy, PyAV): videos whose events are known, drawn and encoded once and shared by all streams."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from tandem.load.schedule import PlannedStream
from tandem.load.workload import size_of
from tandem.shapes.events import Timeline
from tandem.shapes.video import Clip, render_clip

SEEDS = 70_000
"""Added to a clip's number: videos that no test or demo draws."""
PACE = 0.3
JPEG_QUALITY = 85
_TINY = (16, 12)


@dataclass(frozen=True, slots=True)
class Footage:
    """One encoded video that can be played again and again. Frame i is due at i / fps seconds."""

    codec: str
    fps: float
    frames: tuple[bytes, ...]
    """Encoded; those of a codec with a memory begin with a key frame and its headers."""

    def frame(self, index: int) -> bytes:
        """Frame `index`, counted over all repeats."""
        return self.frames[index % len(self.frames)]

    def pts_us(self, index: int) -> int:
        """Its time in the stream, in microseconds."""
        return round(index * 1_000_000 / self.fps)

    def offset(self, index: int) -> int:
        """Bytes before frame `index`."""
        repeats, rest = divmod(index, len(self.frames))
        whole = sum(map(len, self.frames)) * repeats if repeats else 0
        return whole + sum(map(len, self.frames[:rest]))

    def frame_at(self, offset: int) -> tuple[int, int]:
        """Which frame holds the byte at `offset`, and how many of its bytes are before it."""
        repeats, rest = divmod(offset, sum(map(len, self.frames)))
        for number, data in enumerate(self.frames):
            if rest < len(data):
                return repeats * len(self.frames) + number, rest
            rest -= len(data)
        raise AssertionError(offset)


class Library:
    """Draws what streams need, each video once."""

    def __init__(self) -> None:
        self._encoded: dict[tuple[int, int, float, str, str], Footage] = {}

    def footage(self, planned: PlannedStream) -> Footage:
        """The video of a stream."""
        key = (planned.clip, planned.clip_s, planned.fps, planned.size, planned.codec)
        if key not in self._encoded:
            width, height = size_of(planned.size)
            clip = render_clip(
                SEEDS + planned.clip, planned.clip_s, width, height, fps=planned.fps, start=0, pace=PACE
            )
            frames = tuple(_jpegs(clip) if planned.codec == "jpeg" else _h264(clip))
            self._encoded[key] = Footage(planned.codec, planned.fps, frames)
        return self._encoded[key]

    def __len__(self) -> int:
        return len(self._encoded)


def timeline_of(clip: int, clip_s: int) -> Timeline:
    """What the video shows when; the same at every size and rate."""
    width, height = _TINY
    return render_clip(SEEDS + clip, clip_s, width, height, fps=1.0, start=0, pace=PACE).timeline


def _jpegs(clip: Clip) -> Iterator[bytes]:
    """Few different pictures, so few different bytes, however many frames."""
    encoded = []
    for picture in clip.pictures:
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "JPEG", quality=JPEG_QUALITY)
        encoded.append(out.getvalue())
    return (encoded[index] for index in clip.shown)


def _h264(clip: Clip) -> Iterator[bytes]:
    """One access unit a frame: no reordering, headers in band, a key frame at least every two seconds."""
    rate = Fraction(clip.fps).limit_denominator(1000)
    codec = av.CodecContext.create("libx264", "w")
    codec.options = {"crf": "23", "preset": "veryfast", "tune": "zerolatency", "threads": "1"}
    codec.height, codec.width = clip.pictures.shape[1:3]
    codec.pix_fmt, codec.framerate, codec.time_base = "yuv420p", rate, 1 / rate
    codec.gop_size = max(1, math.floor(2 * clip.fps))
    for number, picture in enumerate(clip):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = number, 1 / rate
        for packet in codec.encode(frame):
            yield bytes(packet)
    for packet in codec.encode(None):
        yield bytes(packet)
