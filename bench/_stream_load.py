"""Many streams of pictures, sent at times that were fixed before, from a process of its own.

Frame k of stream i is due at ``start + (k + i / streams) / fps`` whatever became of the frames before it, and
every lag is counted from when it was due: a server that stalls cannot slow the load down, nor hide in it.

    python -m bench._stream_load --address 127.0.0.1:7420 --streams 100 --seconds 10

Prints ``started`` and ``ended`` lines around the measured interval, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tandem.load.statistics import distribution
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc, types_pb2

PERIOD_US = 1_000_000
OPENING_AT_ONCE = 64
STREAMS_A_CHANNEL = 250
"""One connection each to the front door: HTTP/2 windows and locks are the connection's."""


@dataclass(slots=True)
class Seen:
    """What one process saw in the measured interval."""

    sent: int = 0
    published: int = 0
    lags_s: list[float] = field(default_factory=list)
    """From when a frame was due to the news that it is published."""
    sent_late_s: list[float] = field(default_factory=list)
    """From when a frame was due to when the call took it."""


class _Plan:
    """When each frame of each stream is due. Set once all streams are open."""

    def __init__(self, streams: int, fps: float) -> None:
        self.streams, self.fps = streams, fps
        self.start_s = 0.0

    def due_s(self, stream: int, frame: int) -> float:
        """On the clock of `time.perf_counter`."""
        return self.start_s + (frame + stream / self.streams) / self.fps


class _Stream:
    """One camera."""

    def __init__(self, stub: Any, number: int, plan: _Plan, picture: bytes, seen: Seen) -> None:
        self._number, self._plan, self._picture, self._seen = number, plan, picture, seen
        self._call = stub.Watch()
        self._published = 0
        self._measured = range(0)

    async def open(self) -> None:
        media = types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES)
        opening = client_pb2.WatchRequest.Open(stream_id=f"load-{self._number}", media=media)
        await self._call.write(client_pb2.WatchRequest(open=opening))
        first = await self._call.read()
        assert first.WhichOneof("event") == "welcome", first

    async def run(self, measured: range) -> None:
        """Send every frame until the end of `measured`; those in it count."""
        self._measured = measured
        reader = asyncio.create_task(self._read())
        for frame in range(measured.stop):
            due_s = self._plan.due_s(self._number, frame)
            await asyncio.sleep(due_s - time.perf_counter())
            picture = types_pb2.Picture(
                sequence=frame,
                pts_us=frame * PERIOD_US,
                data=self._picture,
                format=types_pb2.PICTURE_FORMAT_JPEG,
            )
            await self._call.write(client_pb2.WatchRequest(picture=picture))
            if frame in measured:
                self._seen.sent += 1
                self._seen.sent_late_s.append(time.perf_counter() - due_s)
        await asyncio.sleep(1.0)
        self._call.cancel()
        await asyncio.gather(reader, return_exceptions=True)

    async def _read(self) -> None:
        while isinstance(message := await self._call.read(), client_pb2.WatchResponse):
            if message.WhichOneof("event") == "progress":
                now_s = time.perf_counter()
                done = message.progress.watermark_us // PERIOD_US
                for frame in range(self._published, done):
                    if frame in self._measured:
                        self._seen.published += 1
                        self._seen.lags_s.append(now_s - self._plan.due_s(self._number, frame))
                self._published = max(self._published, done)


async def play(
    address: str, streams: int, fps: float, warm_s: float, seconds: float, picture_bytes: int
) -> Seen:
    """Open all streams, then send; `fps` 0 leaves them open and silent for so many seconds."""
    seen, plan = Seen(), _Plan(streams, fps)
    channels = [make_channel(address) for _ in range(-(-streams // STREAMS_A_CHANNEL))]
    stubs: list[Any] = [client_pb2_grpc.TandemServiceStub(channel) for channel in channels]
    picture = bytes(range(256)) * (picture_bytes // 256)
    opened = [_Stream(stubs[i % len(stubs)], i, plan, picture, seen) for i in range(streams)]
    gate = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one(stream: _Stream) -> None:
        async with gate:
            await stream.open()

    await asyncio.gather(*map(open_one, opened))
    plan.start_s = time.perf_counter() + 0.5
    marks = asyncio.create_task(_mark(plan.start_s + warm_s, seconds))
    if fps:
        measured = range(round(warm_s * fps), round((warm_s + seconds) * fps))
        await asyncio.gather(*(stream.run(measured) for stream in opened))
    await marks
    for channel in channels:
        await channel.close(None)
    return seen


async def _mark(start_s: float, seconds: float) -> None:
    for word, at_s in (("started", start_s), ("ended", start_s + seconds)):
        await asyncio.sleep(at_s - time.perf_counter())
        print(word, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Play and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--warm", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--picture-bytes", type=int, default=10240)
    args = parser.parse_args(argv)
    seen = asyncio.run(
        play(args.address, args.streams, args.fps, args.warm, args.seconds, args.picture_bytes)
    )
    lags_s, late_s = distribution(seen.lags_s), distribution(seen.sent_late_s)
    figures = {
        "sent": seen.sent,
        "published": seen.published,
        "lag_p50_s": lags_s.get("p50", 0.0),
        "lag_p99_s": lags_s.get("p99", 0.0),
        "sent_late_p99_s": late_s.get("p99", 0.0),
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
