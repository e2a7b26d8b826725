"""What decoding in a process of its own costs, beside decoding inside the encoder, in interleaved turns.

``video_<height>_ms``: H.264, a frame of the stream: all are decoded, one in `SAMPLED` becomes pixels.
``picture_<height>_ms``: one JPEG of `PICTURES`, to pixels.
    The baseline is inside; the ratio is baseline over ours. By the clock on the wall, medians of turns.
``video_<height>_cpu_ms``, ``picture_<height>_cpu_ms``: the same as time of a processor, in both processes.
``start_ms``: until the process of a stream is there, with its host running; ``private_MiB``: what it has for
itself then, and ``host_MiB``: what they share.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from PIL import Image

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.annexb import AnnexBDemuxer
from encoder_svc.decode.children import DecoderHost
from encoder_svc.decode.decoders import INSIDE, Decoders
from encoder_svc.decode.isolated import IsolatedDecoders
from encoder_svc.decode.packets import EncodedPacket
from encoder_svc.decode.pictures import PictureFormat, RawPicture

SIZES = {240: 320, 720: 1280, 1080: 1920}
FRAMES, QUICK_FRAMES = 120, 24
TURNS, QUICK_TURNS = 7, 2
SAMPLED, PICTURES = 12, 8
LIMITS = MediaLimits()
SETTINGS = {"frames": FRAMES, "sampled": f"1 in {SAMPLED}", "codec": "h264, one thread"}
Row = dict[str, Any]
Work = Callable[[Decoders], int]
"""Does it once, and says how many frames that were."""


def run(*, quick: bool = False) -> list[Row]:
    """Rows for every size."""
    host = DecoderHost(LIMITS, memory_bytes=1 << 30, cpu_s=10)
    turns = QUICK_TURNS if quick else TURNS
    rows: list[Row] = []
    try:
        rows += _starts(host, turns)
        for height, width in SIZES.items():
            pictures = [_picture(index, width, height) for index in range(QUICK_FRAMES if quick else FRAMES)]
            rows += _compare(f"video_{height}", _video(pictures), host, turns)
            rows += _compare(f"picture_{height}", _jpeg(pictures[0]), host, turns)
    finally:
        host.close()
    return rows


def _compare(name: str, work: Work, host: DecoderHost, turns: int) -> list[Row]:
    found: dict[str, list[tuple[float, float]]] = {"inside": [], "process": []}
    for _ in range(turns):
        found["inside"].append(_timed(work, INSIDE, 0))
        decoders = IsolatedDecoders(host)
        _jpeg(np.zeros((16, 16, 3), np.uint8))(decoders)  # the process is there
        found["process"].append(_timed(work, decoders, _pid(decoders)))
    rows = []
    for which, unit in enumerate(("ms", "cpu_ms")):
        ours, theirs = ([turn[which] for turn in found[how]] for how in ("process", "inside"))
        value, baseline = median(ours), median(theirs)
        rows.append(
            {
                "metric": f"{name}_{unit}",
                "value": value,
                "unit": "ms",
                "baseline": baseline,
                "ratio": baseline / value if value else None,
                "n": turns,
                "spread": max(ours) - min(ours),
            }
        )
    return rows


def _timed(work: Work, decoders: Decoders, pid: int) -> tuple[float, float]:
    """Milliseconds a frame: by the clock, and of a processor."""
    began_s, cpu_s = time.perf_counter(), _cpu_s(pid)
    frames = work(decoders)
    return (time.perf_counter() - began_s) * 1000 / frames, (_cpu_s(pid) - cpu_s) * 1000 / frames


def _cpu_s(pid: int) -> float:
    spent = time.process_time()
    if pid:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def _starts(host: DecoderHost, turns: int) -> list[Row]:
    one = IsolatedDecoders(host)
    _jpeg(np.zeros((16, 16, 3), np.uint8))(one)
    found = []
    for _ in range(turns):
        began_s = time.perf_counter()
        _jpeg(np.zeros((16, 16, 3), np.uint8))(IsolatedDecoders(host))
        found.append((time.perf_counter() - began_s) * 1000)
    private, shared = _memory_mib(_pid(one))
    return [
        {
            "metric": "start_ms",
            "value": median(found),
            "unit": "ms",
            "n": turns,
            "spread": max(found) - min(found),
        },
        {"metric": "private_MiB", "value": private, "unit": "MiB", "n": 1},
        {"metric": "host_MiB", "value": shared, "unit": "MiB", "n": 1},
    ]


def _memory_mib(pid: int) -> tuple[float, float]:
    sizes = {"Private": 0, "Shared": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        kind = line.partition("_")[0]
        if kind in sizes and "Hugetlb" not in line:
            sizes[kind] += int(line.split()[1])
    return sizes["Private"] / 1024, sizes["Shared"] / 1024


def _pid(decoders: IsolatedDecoders) -> int:
    assert decoders.process is not None
    return decoders.process


def _video(pictures: list[np.ndarray[Any, Any]]) -> Work:
    demuxer = AnnexBDemuxer("h264", LIMITS)
    data = _encoded(pictures)
    packets = [it for it in (*demuxer.feed(data), *demuxer.finish()) if isinstance(it, EncodedPacket)]
    setup = demuxer.setup
    assert setup is not None

    def work(decoders: Decoders) -> int:
        video = decoders.video(setup, LIMITS)
        for tag, packet in enumerate(packets):
            for frame in video.decode(packet.data, tag):
                if frame.tag % SAMPLED == 0:
                    video.pixels(frame)
        video.drain()
        return len(packets)

    return work


def _jpeg(picture: np.ndarray[Any, Any]) -> Work:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG")
    raw = RawPicture(sequence=0, pts_us=0, format=PictureFormat.JPEG, data=buffer.getvalue())

    def work(decoders: Decoders) -> int:
        for _ in range(PICTURES):
            decoders.picture(raw, LIMITS)
        return PICTURES

    return work


def _picture(index: int, width: int, height: int) -> np.ndarray[Any, Any]:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([(x + index * 3) % 256, (y + index) % 256, (x + y) % 256], axis=-1).astype(np.uint8)


def _encoded(pictures: list[np.ndarray[Any, Any]]) -> bytes:
    height, width = pictures[0].shape[:2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 50
        stream.codec_context.options = {"preset": "veryfast", "bf": "0"}
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
