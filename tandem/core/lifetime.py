"""Shell. When and how a service's process ends."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PARENT = "TANDEM_PARENT_PID"
CALL = b"go\n"
"""What a process in reserve is told on its standard input when it is needed."""


def environment_of_child(environment: Mapping[str, str]) -> dict[str, str]:
    """For a process that is to die with this one: tells it whose child it is, however late it asks."""
    return {**environment, _PARENT: str(os.getpid())}


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to send SIGTERM to this process when its parent dies.

    If the parent is gone already, this process ends now: `parent_pid` was read at its start, and whoever
    started it by `environment_of_child` has said it before. Linux only; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    parent_pid = int(os.environ.pop(_PARENT, parent_pid))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        sys.exit("the parent process ended during start-up")


def leave(status: int) -> NoReturn:
    """End the process now, with all output written.

    For services that have closed what they held: taking torch and transformers apart module by module costs
    seconds on a busy machine, and whoever supervises the process would take it for one that does not stop.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def until_called(file_descriptor: int = 0) -> bool:
    """Wait in reserve, with everything loaded, until needed: True. False when whoever would call is gone."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=1024)
    pipe = os.fdopen(os.dup(file_descriptor), "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await reader.readline() == CALL
    finally:
        transport.close()
