"""Small video files for the tests of the sources, made on the spot."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 50,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video whose frame i has the grey level 4 * i in its corner, and noise elsewhere."""
    with av.open(str(path), "w", options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options or ({"g": "20"} if codec == "libx264" else {})
        for number in range(frames):
            frame = av.VideoFrame.from_image(_picture(size, number))
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def _picture(size: tuple[int, int], number: int) -> Image.Image:
    noise = random.Random(number).randbytes(size[0] * size[1])
    picture = Image.frombytes("L", size, noise).convert("RGB")
    picture.paste((4 * number % 256,) * 3, (0, 0, 32, 32))
    return picture


def write_audio(path: Path) -> Path:
    """A sound file without video."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate, frame.pts = 8000, 0
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path
