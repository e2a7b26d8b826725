"""What callers that show nothing make an orchestrator hold: a few messages, however many they are."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.access import digest
from tandem.wire.channel import make_channel

CALLERS, MESSAGE_BYTES = 100, 15 << 20
MOST_MB = 400
"""Of 1500 that they send."""


def megabytes(pid: int, what: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) // 1024


@pytest.mark.slow
async def test_an_orchestrator_holds_little_of_what_strangers_send(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f'[[token]]\nsha256 = "{digest("x" * 30)}"\n')
    line = [sys.executable, "-m", "orchestrator", "--listen", "127.0.0.1:0", "--encoders", "0"]
    line += ["--reasoners", "0", "--tokens", str(tmp_path / "tokens"), "--run-dir", str(tmp_path / "run")]
    process = await asyncio.create_subprocess_exec(
        *line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while not (tmp_path / "run" / "address").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        address = (tmp_path / "run" / "address").read_text()
        before_mb = megabytes(process.pid, "VmRSS")
        ends = await asyncio.gather(*(send_much(address) for _ in range(CALLERS)))
        assert grpc.StatusCode.OK not in ends
        assert megabytes(process.pid, "VmHWM") - before_mb < MOST_MB
        assert process.returncode is None
    finally:
        process.terminate()
        await process.wait()


async def send_much(address: str) -> Any:
    async with make_channel(address) as channel:
        call = channel.stream_stream("/tandem.v1.RegistryService/Attach")()
        try:
            await call.write(b"\n" + b"\xf0\xff\xff\x07" + b"x" * MESSAGE_BYTES)
            return await call.code()
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            return error
