"""Shell: one child process of the local backend: started with its log, ended in order or at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

from tandem.core.lifetime import environment_of_child

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""


async def spawn(line: Sequence[str], log_file: Path, title: str, stdin: int | None = None) -> Process:
    """Start a process in a session of its own that writes to `log_file`; without `stdin` it reads nothing."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as output:
        if "json" not in line:  # there every line is a record
            output.write(f"--- {title}\n".encode())
            output.flush()
        return await asyncio.create_subprocess_exec(
            *line,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=environment_of_child(os.environ),
        )


async def end(process: Process, name: str) -> None:
    """Ask it to end, then make it end; returns when it has."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        process.send_signal(signal.SIGCONT)  # a stopped process cannot act on SIGTERM
    try:
        async with asyncio.timeout(STOP_GRACE_S):
            await process.wait()
    except TimeoutError:
        log.warning("%s does not stop within %g s; killing it", name, STOP_GRACE_S)
        process.kill()
        await process.wait()
