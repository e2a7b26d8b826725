"""Callers without a token send the largest messages there are, on many calls: what memory that takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

import tandem
from orchestrator.access import digest
from orchestrator.rundir import read_address
from tandem.client import Security
from tandem.wire.channel import MAX_MESSAGE_BYTES, make_channel
from tandem.wire.lobby import HEAR_S, WAITING
from tests.integration.orchestrator_fakes import World

CAP_BYTES = 256 << 20
"""More than the process had before: a few of the largest messages, however many calls bring one."""
CALLS = 12
TOKEN = "the-token-of-the-admin-0123456789"
LARGEST = b"\x0a" + b"\xf7\xff\xff\x07" + bytes(MAX_MESSAGE_BYTES - 9)
"""Field 1, a text or message of all that is left: the name of a stream, of a service, a hello."""
assert len(LARGEST) <= MAX_MESSAGE_BYTES
DOOR = (
    "/tandem.v1.TandemService/Watch",
    "/tandem.v1.TandemService/Ask",
    "/tandem.v1.RegistryService/Attach",
    "/tandem.v1.RegistryService/DrainService",
    "/grpc.health.v1.Health/Check",
    "/no.such.Service/Method",
)


@dataclass(frozen=True)
class Process:
    pid: int
    door: str
    health: str

    def memory(self, what: str) -> int:
        """A line of its status, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(what)

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("flood")
    tokens, run_dir, log = folder / "tokens.toml", folder / "run", folder / "log"
    tokens.write_text(f'[[token]]\nsha256 = "{digest(TOKEN)}"\nrights = ["admin"]\n')
    line = [sys.executable, "-m", "orchestrator", "--listen", "127.0.0.1:0", "--health", "127.0.0.1:0"]
    line += ["--run-dir", str(run_dir), "--tokens", str(tokens)]
    with log.open("wb") as file, subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT) as running:
        try:
            deadline_s = time.monotonic() + 60
            while (door := read_address(run_dir)) is None and time.monotonic() < deadline_s:
                time.sleep(0.05)
            assert door is not None, log.read_text()
            (folder / "admin").write_text(TOKEN)
            health = asyncio.run(health_of(door, Security(token_file=str(folder / "admin"))))
            yield Process(running.pid, door, health)
        finally:
            running.terminate()
            running.wait(30)


async def health_of(door: str, security: Security) -> str:
    async with tandem.connect(door, security=security) as t:
        status = await t.status()
    return next(one.split()[0] for one in status.listeners if " health " in one)


async def flood(address: str, method: str, seconds: float) -> Counter[str]:
    """How so many calls at a time ended, again and again."""
    until_s, ended = time.monotonic() + seconds, Counter[str]()
    async with make_channel(address) as channel:

        async def call_again() -> None:
            while time.monotonic() < until_s:
                call = channel.stream_stream(method)(timeout=20)
                # The refusal may come while it writes.
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(LARGEST)
                    await call.done_writing()
                ended[(await call.code()).name] += 1

        await asyncio.gather(*(call_again() for _ in range(CALLS)))
    return ended


async def check(process: Process, address: str, method: str, seconds: float, before_bytes: int) -> None:
    ended = await flood(address, method, seconds)
    assert sum(ended.values()) >= CALLS
    # Of calls that are ended while they are still sending, clients say that the core gave up on them.
    assert not {"OK", "UNKNOWN", "DEADLINE_EXCEEDED"} & set(ended), ended
    assert process.memory("VmHWM") - before_bytes < CAP_BYTES, (method, ended)


async def lives(process: Process) -> bool:
    async with make_channel(process.health) as channel:
        ask = health_pb2.HealthCheckRequest().SerializeToString()
        answer = await channel.unary_unary("/grpc.health.v1.Health/Check")(ask, timeout=20)
    return health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING


async def flood_all(process: Process, seconds: float) -> None:
    process.forget_peak()
    before_bytes = process.memory("VmRSS")
    for method in DOOR:
        await check(process, process.door, method, seconds, before_bytes)
    await check(process, process.health, "/grpc.health.v1.Health/Check", seconds, before_bytes)
    assert await lives(process)


async def test_what_nobody_vouches_for_takes_little_memory(process: Process) -> None:
    await flood_all(process, 0.3)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_however_long_it_goes_on(process: Process) -> None:
    await flood_all(process, float(os.environ.get("TANDEM_FLOOD_SECONDS", "20")))
    fds = len(os.listdir(f"/proc/{process.pid}/fd"))
    await flood_all(process, 2.0)
    assert len(os.listdir(f"/proc/{process.pid}/fd")) <= fds + 4


async def test_callers_who_hold_the_gate_keep_no_service_out(tmp_path: Path) -> None:
    async with World(tmp_path) as world, make_channel(world.app.address) as channel:
        attach = channel.stream_stream("/tandem.v1.RegistryService/Attach")
        silent = [attach(timeout=10) for _ in range(WAITING)]
        for call in silent:
            await call.wait_for_connection()
        await asyncio.sleep(0.2)
        assert (await attach(timeout=10).code()).name == "RESOURCE_EXHAUSTED"
        ready = world._ready()
        await world.add("reasoner-1")
        await world.until(lambda: world._ready() > ready, HEAR_S / 2)
        assert not any(call.done() for call in silent)
