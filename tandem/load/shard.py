"""Shell: one process's part of a run: its streams, its questions, and samples of how they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from tandem.client import Client, ClientSettings, connect
from tandem.client.security import NO_SECURITY, Security
from tandem.core.errors import TandemError
from tandem.core.watching import Watching, WatchMode
from tandem.load.asking import Asker
from tandem.load.feeding import StreamRun
from tandem.load.footage import Library
from tandem.load.log import EventLog
from tandem.load.pace import Pace, histogram
from tandem.load.schedule import Schedule
from tandem.load.statistics import at_a_moment

SAMPLE_S = 0.1
TICK_S = 0.5
SECOND_CLIENTS = 4
"""Connections of a process's second askers."""

Tell = Callable[[dict[str, Any]], None]


class Shard:
    """Runs a part of a schedule against an address. `tell` gets a summary twice a second."""

    def __init__(
        self,
        schedule: Schedule,
        library: Library,
        *,
        address: str,
        prefix: str,
        log: EventLog,
        pace: Pace,
        number: int = 0,
        security: Security = NO_SECURITY,
    ) -> None:
        """`prefix` comes before the streams' names, so that runs do not meet at the server; `number` tells
        the samples of the run's processes apart.
        """
        self._number, self._security = number, security
        self._schedule, self._address, self._pace, self._log = schedule, address, pace, log
        load = schedule.workload
        watching = Watching(mode=WatchMode(load.notes)) if load.notes else None
        self._runs = {
            planned.stream: StreamRun(
                planned,
                library.footage(planned),
                stream_id=f"{prefix}-{planned.stream}",
                make_client=self._client_of(planned.slow_pause_s),
                watching=watching,
                patience_s=load.answer_timeout_s,
                pace=pace,
                log=log,
            )
            for planned in schedule.streams
        }

    async def run(self, tell: Tell) -> None:
        """Everything, to the end; cancel it to stop early: then streams are still ended."""
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self._second_client()) for _ in range(SECOND_CLIENTS)]
            asker = Asker(self._schedule.workload, self._runs, clients, self._pace, self._log)
            sampler = asyncio.create_task(self._sample(asker, tell))
            work = [asyncio.create_task(run.run()) for run in self._runs.values()]
            work.append(asyncio.create_task(asker.run(self._schedule.questions)))
            try:
                await asyncio.gather(*work)
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
                sampler.cancel()
                await asyncio.gather(sampler, return_exceptions=True)

    def histograms(self) -> dict[str, str]:
        """What is kept of every frame, encoded so that processes' can be added up."""
        blocked = histogram()
        for run in self._runs.values():
            blocked.add(run.blocked)
        return {
            "late": self._pace.lateness.encode().decode("ascii"),
            "blocked": blocked.encode().decode("ascii"),
        }

    def frames(self) -> int:
        """Frames sent so far."""
        return sum(run.frames for run in self._runs.values())

    async def _sample(self, asker: Asker, tell: Tell) -> None:
        number = 0
        while True:
            await asyncio.sleep(max(0.0, number * SAMPLE_S - self._pace.now_s()))
            # A sample that was missed is not made up for: its time is gone.
            number = max(number + 1, int(self._pace.now_s() / SAMPLE_S) + 1)
            lags = {
                name: max(0.0, run.live_edge_s - run.ear.watermark_us / 1e6)
                for name, run in self._runs.items()
                if run.is_feeding and run.live_edge_s > 0
            }
            unseen = sum(len(run.ear.unseen) for run in self._runs.values() if not run.is_over)
            self._log.write("sample", process=self._number, lags=lags, questions=asker.open, unseen=unseen)
            if number % round(TICK_S / SAMPLE_S) == 0:
                tell(self._tick(asker, lags, unseen))

    def _tick(self, asker: Asker, lags: dict[str, float], unseen: int) -> dict[str, Any]:
        firsts, asker.first_tokens_s = asker.first_tokens_s, []
        over = [run for run in self._runs.values() if run.failure is not None]
        return {
            "kind": "tick",
            "t": self._pace.now_s(),
            "open": len(lags),
            "failed_streams": len(over),
            "frames": self.frames(),
            "lags_s": list(at_a_moment(lags.values())),
            "questions": asker.open,
            "unseen": unseen,
            "asked": asker.asked,
            "answered": asker.answered,
            "failed": asker.failed,
            "first_tokens_s": firsts[:200],
            "late_p99_s": self._pace.lateness.get_value_at_percentile(99) / 1e6,
        }

    def _client_of(self, read_pause_s: float) -> Callable[[], Client]:
        """A camera's client: a connection of its own."""
        settings = ClientSettings(read_pause_s=read_pause_s)
        return lambda: connect(self._address, settings=settings, security=self._security)

    def _second_client(self) -> Client:
        return connect(self._address, security=self._security)


async def run_shard(shard: Shard, tell: Tell, stop: asyncio.Event) -> None:
    """Run it until it is over or `stop` is set."""
    running, stopping = asyncio.create_task(shard.run(tell)), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not running.done():
            running.cancel()
    with contextlib.suppress(asyncio.CancelledError, TandemError):
        await running
