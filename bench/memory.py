"""Hours of memory: a stream of ten hours through the front door, with RAM for a tenth of its blocks.

``rss_over_budget_MB``: most resident memory of the reasoner while it runs, less its RAM budget.
``rss_idle_MB``: resident before it holds a stream, which is what the model's libraries take;
``rss_growth_MB``: the first less the second. ``device_pool_growth``: device memory (pool and run) at ten
hours over that once the view was full. ``ttft_flat_ram``, ``ttft_flat_disk``: time from a question leaving
the client to its first text at ten hours, next to the same question after one minute, for the same number of
retrieved blocks; *ram* with room for everything, *disk* with a tenth of it, a device pool too small to keep
anything (else the minute would never be read from disk), every question asking for other moments, and the
page cache of the data files dropped before each. ``bytes_per_hour_<tier>``: what an hour of stream takes.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import tandem
from tandem.client import PictureFormat
from tandem.client.types import MediaKind, MediaOptions
from tandem.commands.local import local_services
from tandem.core.timeline import MICROSECONDS
from tandem.shapes.words import COLOUR_NAMES, SHAPES
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc, types_pb2

HOURS, QUICK_HOURS = 10.0, 0.5
RECENT_UNITS, RECALLED = 16, 32
"""Small enough that a minute of video has as much to recall as ten hours."""
BLOCK_BYTES, BLOCK_TOKENS = 34_560, 9
MINUTE_FRAMES = 60
QUESTIONS = 15
SETTINGS = {"model": "default", "recent_blocks": RECENT_UNITS, "recalled_blocks": RECALLED, "fps": 1.0}
Row = dict[str, Any]


def run(*, quick: bool = False) -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    return asyncio.run(_run(QUICK_HOURS if quick else HOURS))


async def _run(hours: float) -> list[Row]:
    frames = round(hours * 3600)
    whole = frames * BLOCK_BYTES
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        disk = await _stream(Path(folder), frames, max(whole // 10, 1 << 22), Path(folder) / "blocks")
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        ram = await _stream(Path(folder), frames, whole * 11 // 10 + (1 << 26), None)
    over = (disk.rss_bytes - disk.budget_bytes) / 1e6
    return [
        _row("rss_over_budget_MB", over, "MB", n=disk.samples),
        _row("rss_idle_MB", disk.idle_bytes / 1e6, "MB"),
        _row("rss_growth_MB", over - disk.idle_bytes / 1e6, "MB", n=disk.samples),
        _row("device_pool_growth", disk.device_bytes / disk.device_before, "ratio"),
        _flat("ttft_flat_ram", ram),
        _flat("ttft_flat_disk", disk),
        _row("disk_bytes_per_question", statistics.median(disk.disk_read), "B", n=len(disk.disk_read)),
        _row("bytes_per_hour_ram", disk.details["ram_allocated_bytes"] / hours, "B/h"),
        _row("bytes_per_hour_index", disk.details["index_bytes"] / hours, "B/h"),
        _row("bytes_per_hour_disk", disk.details["disk_used_bytes"] / hours, "B/h"),
        _row("frames_per_second", disk.frames_per_s, "1/s"),
    ]


class Measured:
    """What one stream showed."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.idle_bytes = self.rss_bytes = self.samples = 0
        self.device_before = self.device_bytes = 1
        self.details: dict[str, int] = {}
        self.after_minute: list[float] = []
        self.at_end: list[float] = []
        self.disk_read: list[int] = []
        self.frames_per_s = 0.0

    def note(self, details: dict[str, int]) -> None:
        """What the reasoner says of itself."""
        self.details = details
        self.samples += 1
        self.rss_bytes = max(self.rss_bytes, details["rss_bytes"])


async def _stream(folder: Path, frames: int, ram_bytes: int, blocks: Path | None) -> Measured:
    measured = Measured(ram_bytes)
    options = [
        *("--model", "default", "--threads", "1", "--ram-bytes", str(ram_bytes)),
        *("--view-tokens", str(RECENT_UNITS * BLOCK_TOKENS), "--retrieve-blocks", str(RECALLED)),
        *(("--data-dir", str(blocks), "--pool-bytes", str(1 << 16)) if blocks else ()),
    ]
    async with (
        local_services(folder, *options) as address,
        tandem.connect(address) as client,
        make_channel(address) as channel,
    ):
        stub = client_pb2_grpc.TandemServiceStub(channel)
        measured.note(await _details(stub))
        measured.idle_bytes = measured.rss_bytes
        watching = asyncio.create_task(_watch(stub, measured))
        media = MediaOptions(kind=MediaKind.PICTURES, sample_fps=1.0)
        async with client.watch(media, stream_id="minute") as minute:
            await _push(minute, 0, MINUTE_FRAMES)
            await _published(stub, "minute", MINUTE_FRAMES)
            async with client.watch(media, stream_id="hours") as hours:
                await _push(hours, 0, 4 * MINUTE_FRAMES)
                await _published(stub, "hours", 4 * MINUTE_FRAMES)
                await asyncio.sleep(2.0)
                measured.device_before = (await _details(stub))["device_bytes"]
                began_s = time.perf_counter()
                await _push(hours, 4 * MINUTE_FRAMES, frames)
                await _published(stub, "hours", frames)
                measured.frames_per_s = (frames - 4 * MINUTE_FRAMES) / (time.perf_counter() - began_s)
                await asyncio.sleep(4.0)
                measured.device_bytes = (await _details(stub))["device_bytes"]
                await _ask_both(stub, measured, blocks)
        watching.cancel()
    return measured


async def _watch(stub: Any, measured: Measured) -> None:
    while True:
        measured.note(await _details(stub))
        await asyncio.sleep(1.0)


async def _details(stub: Any) -> dict[str, int]:
    status = await stub.GetStatus(client_pb2.GetStatusRequest())
    service = next(service for service in status.services if service.role == "reasoner")
    return {name: int(value) for name, value in service.details.items() if value.isdigit()}


async def _push(stream: Any, start: int, end: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (64, 56, 56, 3), np.uint8)
    for number in range(start, end):
        await stream.push_picture(
            pictures[number % 64].tobytes(),
            pts_us=number * MICROSECONDS,
            picture_format=PictureFormat.RGB24,
            width=56,
            height=56,
        )


async def _published(stub: Any, stream_id: str, blocks: int) -> None:
    while True:
        listed = await stub.ListStreams(client_pb2.ListStreamsRequest())
        state = next(stream for stream in listed.streams if stream.stream_id == stream_id)
        if state.progress.blocks >= blocks:
            return
        await asyncio.sleep(0.1)


async def _ask_both(stub: Any, measured: Measured, blocks: Path | None) -> None:
    """The same questions to both streams, in turns; the first ones warm up."""
    texts = [f"when was the {c} {s} shown?" for s, c in zip(SHAPES * 9, COLOUR_NAMES * 10, strict=True)]
    for index, text in enumerate(texts[: QUESTIONS + 3]):
        for stream_id, times in (("minute", measured.after_minute), ("hours", measured.at_end)):
            _drop_page_cache(blocks)
            seconds, evidence = await _first_text(stub, stream_id, text)
            per_layer = sum(block.layers for block in evidence.recalled) / 5
            assert per_layer == RECALLED, f"{per_layer} blocks were recalled, not {RECALLED}"
            if index >= 3:
                times.append(1000 * seconds)
                if stream_id == "hours":
                    measured.disk_read.append(evidence.disk_bytes)


async def _first_text(stub: Any, stream_id: str, text: str) -> tuple[float, types_pb2.Evidence]:
    question = types_pb2.Question(
        question_id=f"q{time.monotonic_ns()}", text=text, answer_from_published=True
    )
    began_s = time.perf_counter()
    call = stub.Ask(client_pb2.AskRequest(stream_id=stream_id, question=question))
    first_s = 0.0
    while (response := await call.read()) is not grpc.aio.EOF:
        first_s = first_s or time.perf_counter() - began_s
        if response.WhichOneof("event") == "answer":
            return first_s, response.answer.evidence
    raise AssertionError("the answer has no final record")


def _drop_page_cache(blocks: Path | None) -> None:
    for path in blocks.glob("*/*.tkv") if blocks else ():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _flat(metric: str, measured: Measured) -> Row:
    """Ratio: the minute's time over that at the end, so that 1 is flat and less is slower."""
    values, baseline = measured.at_end, statistics.median(measured.after_minute)
    ratio = statistics.median(m / e for m, e in zip(measured.after_minute, values, strict=True))
    middle = statistics.median(values)
    spread = (max(values) - min(values)) / middle
    return {
        **_row(metric, middle, "ms", n=len(values)),
        "baseline": round(baseline, 3),
        "ratio": round(ratio, 3),
        "spread": round(spread, 3),
    }


def _row(metric: str, value: float, unit: str, n: int = 1) -> Row:
    return {
        "metric": metric,
        "value": round(value, 3),
        "unit": unit,
        "baseline": None,
        "ratio": None,
        "n": n,
        "spread": None,
    }
