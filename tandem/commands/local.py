"""Shell: the services of this machine as one child process (`tandem up`), for as long as a command needs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tandem.client import connect
from tandem.core.errors import TandemError, Unavailable

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1
_LOG_LINES = 12


def free_address() -> str:
    """A loopback address nobody listens on. Somebody could take it before we do: then starting fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.asynccontextmanager
async def local_services(run_dir: Path, *options: str) -> AsyncIterator[str]:
    """Start `tandem up` with its files in `run_dir`; yields the address once encoder and reasoner are ready.

    Raises `Unavailable` with the end of its log when it does not come up.
    """
    address = free_address()
    log = run_dir / "up.log"
    # A directory of its own inside: it holds the secret, and `run_dir` may be the user's and open to others.
    private = run_dir / "services"
    command = ("-m", "tandem.cli", "up", "--listen", address, "--run-dir", str(private), *options)
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=out, stderr=out, stdin=asyncio.subprocess.DEVNULL
        )
    try:
        await _until_ready(address, process, log)
        yield address
    finally:
        await _stop(process)


async def _until_ready(address: str, process: asyncio.subprocess.Process, log: Path) -> None:
    state = "nothing answered"
    try:
        async with asyncio.timeout(READY_TIMEOUT_S), connect(address) as t:
            while process.returncode is None:
                try:
                    status = await t.status(timeout_s=2.0)
                    if status.ready:
                        return
                    state = ", ".join(f"{s.role} {s.state}" for s in status.services) or "no service yet"
                except TandemError as error:
                    state = error.message
                await asyncio.sleep(_POLL_S)
        why = f"they ended with code {process.returncode}"
    except TimeoutError:
        why = f"they were not ready after {READY_TIMEOUT_S:g} s ({state})"
    raise Unavailable(f"the local services did not start: {why}; the end of {log}:{_end_of(log)}")


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "".join(f"\n    {line}" for line in lines)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask it to end, then make it end."""
    for number, patience_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, None)):
        if process.returncode is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await process.wait()
