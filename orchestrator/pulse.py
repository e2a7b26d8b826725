"""Pure but for `beat_forever`: the beats that an orchestrator writes into a pipe; their lack is a freeze.

Whoever started it holds the other end: a process that hangs or was stopped keeps its connections and its
port, and nobody else would end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

PERIOD_S = 0.5
FROZEN_S = 10.0
"""Longer than any pause of a busy event loop; clients and services notice after less."""
START_S = 60.0
"""Until the first beat."""


class Pulse:
    """What is known of one start of a process. Times are of a monotonic clock."""

    def __init__(self, now_s: float) -> None:
        self._heard_s = self._looked_s = now_s
        self._patience_s = START_S

    def beat(self, now_s: float) -> None:
        """A beat came."""
        self._heard_s, self._patience_s = now_s, FROZEN_S

    def is_frozen(self, now_s: float) -> bool:
        """True when it should be ended. Time in which nobody looked is not held against it."""
        unwatched_s = now_s - self._looked_s
        self._looked_s = now_s
        if unwatched_s > FROZEN_S / 2:
            self._heard_s += unwatched_s
        return now_s - self._heard_s > self._patience_s


async def beat_forever(file_descriptor: int) -> None:
    """Write a beat every `PERIOD_S` for as long as the event loop turns; until cancelled."""
    os.set_blocking(file_descriptor, False)
    while True:
        # Full: whoever reads is stopped itself. Broken: it is gone, and so are we soon.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(file_descriptor, b".")
        await asyncio.sleep(PERIOD_S)
