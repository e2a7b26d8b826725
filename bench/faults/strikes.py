"""Shell. What is done to a system: one function a kind of step. Each returns once it is done."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from bench.faults.inputs import try_all
from bench.faults.load import Feed, video
from bench.faults.raw import Raw, ending, opening
from bench.faults.system import ORCHESTRATOR, System, descriptors
from tandem.client import MediaKind, connect
from tandem.core.timeline import MICROSECONDS
from tandem.wire.channel import make_channel, parse_address

DAMAGED_EVERY = 4096
"""Bytes from one flipped bit to the next."""


@dataclass(slots=True)
class Struck:
    """What was done, and what it found."""

    first_s: float | None = None
    """When the first step began, on the clock of `time.monotonic`."""
    pids: dict[str, int] = field(default_factory=dict)
    """Before it."""
    spoiled: bool = False
    """Blocks on disk were damaged on purpose: losing them is right."""
    wrong: list[str] = field(default_factory=list)
    """What did not turn out as it must."""


@dataclass(slots=True)
class Scene:
    """What a step may lay hands on."""

    system: System
    feed: Feed
    struck: Struck


async def strike(scene: Scene, do: str, options: Mapping[str, Any]) -> None:
    """Do one step."""
    if scene.struck.first_s is None:
        scene.struck.pids = await scene.system.ready()
        scene.struck.first_s = time.monotonic()
    await STEPS[do](scene, **options)


async def _signal(scene: Scene, service: str, send: str) -> None:
    if service == "its-encoder":
        async with connect(scene.system.address) as t:
            service = next(s.encoder for s in await t.streams() if s.stream_id == scene.feed.stream.stream_id)
    with contextlib.suppress(ProcessLookupError):
        os.kill(scene.struck.pids[service], signal.Signals[send])


async def _inside(scene: Scene, service: str, command: str) -> None:
    for name, pid in scene.struck.pids.items():
        if service in {name, "all"}:
            scene.system.command(pid, command)


async def _wait(scene: Scene, seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _ask(scene: Scene) -> None:
    """A question that is open while the next step is done."""
    scene.feed.ask(video().about(scene.feed.pushed))


async def _reset(scene: Scene, times: int = 1, every_s: float = 0.3) -> None:
    for _ in range(times):
        scene.system.proxy.reset()
        if times > 1:
            await asyncio.sleep(every_s)


async def _stall(scene: Scene) -> None:
    scene.system.proxy.stall()


async def _slow(scene: Scene, bytes_per_s: float, delay_s: float) -> None:
    scene.system.proxy.bytes_per_s, scene.system.proxy.delay_s = bytes_per_s, delay_s


async def _damage(scene: Scene, how: str) -> None:
    scene.struck.spoiled = True
    if how == "delete":
        shutil.rmtree(scene.system.blocks)
        return
    suffix = "sqlite" if how == "catalogue" else "tkv"
    files = [path for path in scene.system.blocks.rglob(f"*{suffix}*") if path.is_file()]
    if not files:
        scene.struck.wrong.append(f"there was no file of blocks to damage (*{suffix}*)")
    for path in files:
        _spoil(path, how)


def _spoil(path: Path, how: str) -> None:
    size = path.stat().st_size
    if how in {"truncate", "empty"}:
        os.truncate(path, size // 2 if how == "truncate" else 0)
        return
    with path.open("r+b") as file:
        for at in range(min(DAMAGED_EVERY // 2, size // 2), size, DAMAGED_EVERY):
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x10]))


async def _disk_is_behind(scene: Scene) -> None:
    """That there was no room for everything: else nothing was tried."""
    await asyncio.sleep(1.0)
    durable_us = scene.feed.stream.progress.durable_watermark_us
    if not 0 < durable_us < (scene.feed.pushed - 4) * MICROSECONDS:
        scene.struck.wrong.append(f"durable up to {durable_us} us: the disk was not full in mid-stream")


async def _another_stream(scene: Scene) -> None:
    """A stream that is opened only now, played and asked."""
    name = f"later-{scene.feed.stream.stream_id}"
    async with connect(scene.system.address) as t, t.watch(MediaKind.PICTURES, stream_id=name) as stream:
        later = Feed(stream)
        await later.push(12)
        await later.answers()
        if not all(asked.is_right for asked in later.asked):
            scene.struck.wrong.append("a stream that was opened afterwards is not answered right")
        await stream.end(forget=True)


async def _use_up_descriptors(scene: Scene, left: int, connections: int, seconds: float) -> None:
    pid = scene.struck.pids[ORCHESTRATOR]
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    most = descriptors(pid) + left
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))
    host, port = parse_address(scene.system.address)
    opened: list[asyncio.StreamWriter] = []
    try:
        for _ in range(connections):
            with contextlib.suppress(OSError):
                opened.append((await asyncio.open_connection(host, port))[1])
        await asyncio.sleep(seconds)
        if (held := descriptors(pid)) < most - 1:
            scene.struck.wrong.append(f"the descriptors were not used up: {held} of {most}")
    finally:
        for writer in opened:
            writer.transport.abort()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def _flood(scene: Scene, streams: int, within_s: float) -> None:
    """Open so many streams at once; those that are let in are ended again."""
    codes: dict[str, int] = {}
    began_s = time.monotonic()
    async with make_channel(scene.system.address) as channel:

        async def one(number: int) -> None:
            code = await ending(channel, opening(f"flood-{number}"), then=[_END])
            codes[code] = codes.get(code, 0) + 1

        await asyncio.gather(*(one(number) for number in range(streams)))
    took_s = time.monotonic() - began_s
    if set(codes) - {"ok", "limit_exceeded", "unavailable"}:
        scene.struck.wrong.append(f"the flood was answered with {codes}")
    if not codes.get("limit_exceeded"):
        scene.struck.wrong.append(f"nothing of the flood was refused: {codes}")
    if took_s > within_s:
        scene.struck.wrong.append(f"the flood took {took_s:.1f} s, at most {within_s:g} s are declared")


_END = b"\x32\x02\x08\x01"
"""`WatchRequest.end` with `forget`, as bytes."""


async def _strangers(scene: Scene) -> None:
    """Whatever connects and does not speak gRPC is hung up on, or is at least harmless."""
    noise = random.Random(7).randbytes(4096)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[:500]
    request = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
    status = await scene.system.status()
    addresses = [scene.system.address, *(s.address for s in status.services if s.address)] if status else []
    for address in addresses:
        for data in (noise, hello, request, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise, b""):
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(5):
                    reader, writer = await asyncio.open_connection(*parse_address(address))
                    try:
                        writer.write(data)
                        if data:
                            await reader.read(1 << 16)
                    finally:
                        writer.transport.abort()


async def _churn(scene: Scene, calls: int) -> None:
    """Calls that are opened and cancelled as fast as they can be, in the style of the HTTP/2 rapid reset."""
    async with make_channel(scene.system.address) as channel:
        for number in range(calls):
            raw = Raw(channel)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                if number % 2:
                    await raw.call.write(opening(f"churn-{number % 8}"))
            raw.call.cancel()


async def _bad_inputs(scene: Scene) -> None:
    assert scene.system.channel is not None
    scene.struck.wrong += await try_all(scene.system.channel, scene.system.address)


async def _random(scene: Scene, draw: int) -> None:
    """One of the faults that a stream must survive whole."""
    random_ = random.Random(f"at random, {draw}")
    scene.struck.pids = await scene.system.ready()
    do, options = random_.choice(_DRAWN)
    await STEPS[do](scene, **options)


_DRAWN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("signal", {"service": "encoder-0", "send": "SIGKILL"}),
    ("signal", {"service": "reasoner-0", "send": "SIGKILL"}),
    ("signal", {"service": "encoder-0", "send": "SIGSTOP"}),
    ("signal", {"service": "reasoner-0", "send": "SIGTERM"}),
    ("reset", {}),
    ("reset", {"times": 3}),
)


STEPS: dict[str, Callable[..., Awaitable[None]]] = {
    "signal": _signal,
    "inside": _inside,
    "wait": _wait,
    "ask": _ask,
    "reset": _reset,
    "stall": _stall,
    "slow": _slow,
    "damage": _damage,
    "disk-is-behind": _disk_is_behind,
    "another-stream": _another_stream,
    "use-up-descriptors": _use_up_descriptors,
    "flood": _flood,
    "strangers": _strangers,
    "churn": _churn,
    "bad-inputs": _bad_inputs,
    "random": _random,
}
