"""`tandem up` as a process with real services, and what tests of it push and ask."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
from PIL import Image

from orchestrator.rundir import read_address
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc, types_pb2
from tests.integration.orchestrator_fakes import Client

PERIOD_MS = 500
"""Between pictures; two of them make a block of the dummy model."""
START_S = 90.0
"""For services to load their model on a busy machine."""


def picture(index: int) -> bytes:
    image = Image.new("RGB", (56, 56), ((index * 37) % 256, (index * 91) % 256, 128))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Up:
    """`tandem up` in a process of its own."""

    def __init__(self, run_dir: Path, *options: str) -> None:
        self.run_dir = run_dir
        self._log = (run_dir.parent / "up.log").open("wb")
        line = [sys.executable, "-m", "orchestrator.up", "--listen", "127.0.0.1:0", "--run-dir", str(run_dir)]
        # Inside unless it is told otherwise: what is tested is seldom how pictures are decoded.
        line += ["--model", "dummy:tiny-timestamped", "--threads", "1", "--decode-in", "inside", *options]
        self.process = subprocess.Popen(line, stdout=self._log, stderr=subprocess.STDOUT)

    def address(self) -> str:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            address = read_address(self.run_dir)
            if address is not None:
                return address
            time.sleep(0.1)
        raise AssertionError("no address")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self._log.close()


class Front:
    """The front door of a running `up`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: Any = client_pb2_grpc.TandemServiceStub(channel)

    async def status(self) -> client_pb2.GetStatusResponse:
        request = client_pb2.GetStatusRequest()
        answer: client_pb2.GetStatusResponse = await self.stub.GetStatus(
            request, wait_for_ready=True, timeout=START_S
        )
        return answer

    async def pid(self, name: str) -> int:
        """Process id of a ready service, or of the orchestrator."""
        async with asyncio.timeout(START_S):
            while True:
                status = await self.status()
                if name == "orchestrator":
                    return status.build.pid
                for service in status.services:
                    if service.name == name and service.state == "ready":
                        return service.build.pid
                await asyncio.sleep(0.1)

    async def ready(self) -> None:
        await self.pid("encoder-0")
        await self.pid("reasoner-0")

    async def ask(self, stream_id: str) -> client_pb2.Answer:
        """As a second client, also after the stream's end."""
        question = types_pb2.Question(text="What was shown?", sampling=types_pb2.Sampling(max_tokens=8))
        request = client_pb2.AskRequest(stream_id=stream_id, question=question)
        answers = [r.answer async for r in self.stub.Ask(request) if r.WhichOneof("event") == "answer"]
        answer: client_pb2.Answer = answers[0]
        return answer

    async def watch(
        self, stream_id: str, token: str = "", kind: int = types_pb2.MEDIA_KIND_PICTURES, **options: Any
    ) -> Client:
        client = Client(self.stub.Watch(wait_for_ready=True))
        await client.open(stream_id, token, kind, START_S, **options)
        return client


@contextlib.contextmanager
def running_up(run_dir: Path, *options: str) -> Iterator[Up]:
    """`tandem up` with these options, from when its front door has an address."""
    up = Up(run_dir, *options)
    try:
        up.address()
        yield up
    finally:
        up.stop()


@contextlib.asynccontextmanager
async def front_of(up: Up) -> AsyncIterator[Front]:
    """Its front door, once an encoder and a reasoner are ready."""
    async with make_channel(up.address()) as channel:
        front = Front(channel)
        await front.ready()
        yield front


async def push(client: Client, first: int, last: int) -> None:
    for index in range(first, last):
        await client.picture(index * PERIOD_MS, picture(index), format=types_pb2.PICTURE_FORMAT_PNG)
        await asyncio.sleep(0.02)


async def ask(client: Client, question_id: str, budget_ms: int = 90_000) -> client_pb2.Answer:
    sampling = types_pb2.Sampling(max_tokens=8)
    await client.ask(question_id, "What was shown?", sampling=sampling, latency_budget_ms=budget_ms)
    return await client.answer(question_id, START_S)


def h264(frames: int, fps: int, keyframe_every: int) -> list[bytes]:
    """An Annex B stream, one piece a frame."""
    import av

    codec: Any = av.CodecContext.create("libx264", "w")
    codec.width = codec.height = 112
    codec.pix_fmt = "yuv420p"
    codec.time_base = Fraction(1, fps)
    codec.framerate = Fraction(fps)
    codec.options = {"tune": "zerolatency", "x264-params": f"keyint={keyframe_every}:scenecut=0:threads=1"}
    pieces = []
    for index in range(frames):
        shown = Image.new("RGB", (112, 112), ((index * 7) % 256, (index * 31) % 256, 128))
        frame = av.VideoFrame.from_image(shown)
        frame.pts = index
        pieces += [bytes(packet) for packet in codec.encode(frame)]
    return pieces + [bytes(packet) for packet in codec.encode(None)]
