"""Shell: one process in reserve: it has loaded its model and waits for the one that works to be lost."""

from __future__ import annotations

import asyncio
import logging
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

from orchestrator.backends.process import end, spawn
from orchestrator.waiting import stop
from tandem.core.lifetime import CALL

log = logging.getLogger(__name__)


class Reserve:
    """The reserve of one service: empty, being filled, or there."""

    def __init__(self, line: Sequence[str], log_file: Path, name: str) -> None:
        """`line` starts the service at once; with one option more it waits."""
        self._line = [*line, "--standby"]
        self._log_file = log_file
        self._name = name
        self._process: Process | None = None
        self._filling: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of who waits, or None."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def fill(self) -> None:
        """Have one wait, unless one does. Called when the service works: loading does not slow its start."""
        if self.pid is None and (self._filling is None or self._filling.done()):
            self._filling = asyncio.create_task(self._fill(), name=f"reserve {self._name}")

    async def take(self) -> Process | None:
        """The one that waits, told to work; one that still loads will begin then. None when there is none."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None or process.stdin is None:
            return None
        try:
            process.stdin.write(CALL)
            await process.stdin.drain()
            process.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            return None
        log.info("the reserve of %s takes over", self._name)
        return process

    async def close(self) -> None:
        """End it."""
        if self._filling is not None:
            await stop(self._filling)
        if self._process is not None:
            await end(self._process, f"the reserve of {self._name}")

    async def _fill(self) -> None:
        self._process = await spawn(self._line, self._log_file, f"{self._name}, in reserve, starts", PIPE)
