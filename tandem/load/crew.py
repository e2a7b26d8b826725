"""Shell: the processes of a run: started, set off at one time, listened to, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram

from tandem.client.security import NO_SECURITY, Security
from tandem.core.errors import Internal
from tandem.load.pace import histogram
from tandem.load.schedule import Schedule, schedule_lines
from tandem.load.trend import Saturation

FRAMES_OF_A_PROCESS = 1500.0
"""Frames and questions a second that one process sends on time with room to spare."""
START_S = 0.5
"""From telling the run's zero to the zero: every process has heard it by then."""
GRACE_S = 20.0
"""Beyond the schedule and the longest answer, for a process to end."""
LINE_LIMIT = 1 << 24
INTERRUPTED = "interrupted"
"""Why a run was stopped early, when whoever started it did."""
_TAIL_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left."""

    events: list[Path]
    """The event files, one a process."""
    histograms: dict[str, HdrHistogram]
    """Of all processes: how late they were (`late`), how long pushes waited (`blocked`); microseconds."""
    frames: int
    stopped_early: str
    """Why; empty when it ran to its end."""


def processes_for(schedule: Schedule, cores: int) -> int:
    """How many processes the schedule's rate of frames and questions needs; never more than cores."""
    frames = sum(planned.fps * (planned.end_s - planned.start_s) for planned in schedule.streams)
    a_second = (frames + len(schedule.questions)) / schedule.workload.total_s
    return max(1, min(cores, len(schedule.streams), math.ceil(a_second / FRAMES_OF_A_PROCESS)))


class Crew:
    """Runs one schedule with some processes. `tell` gets each summary with its process's number."""

    def __init__(
        self,
        schedule: Schedule,
        folder: Path,
        address: str,
        *,
        processes: int = 0,
        tell: Callable[[int, dict[str, Any]], None],
        saturation: Saturation | None = None,
        stop: asyncio.Event | None = None,
        security: Security = NO_SECURITY,
    ) -> None:
        """`folder` gets the schedule and the events; `processes` 0: as many as it needs.

        With `saturation` the run stops once it says that the server falls behind without end; with `stop`
        once that is set.
        """
        self._security = security
        self._schedule, self._folder, self._address, self._tell = schedule, folder, address, tell
        self._count = processes or processes_for(schedule, os.cpu_count() or 1)
        self._saturation, self._stop = saturation, stop or asyncio.Event()
        self._histograms = {"late": histogram(), "blocked": histogram()}
        self._frames = 0
        self._stopped_early = ""

    async def run(self) -> Outcome:
        """Raises `Internal` when a process fails."""
        self._folder.mkdir(parents=True, exist_ok=True)
        schedule_file = self._folder / "schedule.jsonl"
        with schedule_file.open("w", encoding="utf-8") as out:
            out.writelines(f"{line}\n" for line in schedule_lines(self._schedule))
        events = [self._folder / f"events-{number}.jsonl" for number in range(self._count)]
        prefix = f"load-{uuid.uuid4().hex[:6]}"
        async with contextlib.AsyncExitStack() as stack:
            members = []
            for number in range(self._count):
                order = {
                    "schedule": str(schedule_file),
                    "events": str(events[number]),
                    "shard": number,
                    "shards": self._count,
                    "address": self._address,
                    "tls": dataclasses.asdict(self._security.tls),
                    "token_file": self._security.token_file,
                    "prefix": prefix,
                }
                member = _Member(number, self._folder / f"process-{number}.log")
                members.append(await stack.enter_async_context(member))
                await member.say(order)
            for member in members:
                await member.until_ready()
            zero_s = time.monotonic() + START_S
            for member in members:
                await member.say({"zero_s": zero_s})
            await self._listen(members)
        return Outcome(events, self._histograms, self._frames, self._stopped_early)

    async def _listen(self, members: Sequence[_Member]) -> None:
        load = self._schedule.workload
        longest_s = load.total_s + load.answer_timeout_s + GRACE_S + START_S
        try:
            async with asyncio.timeout(longest_s), asyncio.TaskGroup() as group:
                stopping = group.create_task(self._wait_for_stop(members))
                await asyncio.gather(*(self._follow(member, members) for member in members))
                stopping.cancel()
        except TimeoutError as error:
            raise Internal(f"a process of the run did not end within {longest_s:g} s") from error
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _wait_for_stop(self, members: Sequence[_Member]) -> None:
        await self._stop.wait()
        await self._end(members, INTERRUPTED)

    async def _end(self, members: Sequence[_Member], why: str) -> None:
        self._stopped_early = self._stopped_early or why
        for member in members:
            await member.say({"stop": why})

    async def _follow(self, member: _Member, members: Sequence[_Member]) -> None:
        while True:
            told = await member.hear()
            if told["kind"] == "done":
                self._frames += told["frames"]
                for name, encoded in told["histograms"].items():
                    self._histograms[name].add(HdrHistogram.decode(encoded))
                return
            self._tell(member.number, told)
            if self._saturation is None or self._stopped_early:
                continue
            if why := self._saturation.take(member.number, told):
                await self._end(members, why)


class _Member:
    """One process."""

    def __init__(self, number: int, log: Path) -> None:
        self.number, self._log_file = number, log
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> _Member:
        with self._log_file.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tandem.load.worker",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=LINE_LIMIT,
                start_new_session=True,  # Ctrl-C is for us: they end their streams when we close their input
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.stdin:
            self._process.stdin.close()  # whoever is still at work stops
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def say(self, what: dict[str, Any]) -> None:
        """One line to it; one that has ended is past being told anything."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            await self._process.stdin.drain()

    async def hear(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            code, tail = await self._process.wait(), self._log_file.read_text(errors="replace")[-_TAIL_CHARS:]
            raise Internal(f"process {self.number} of the run ended with code {code}: {tail.strip()}")
        told: dict[str, Any] = json.loads(line)
        return told

    async def until_ready(self) -> None:
        """Wait until it has drawn its videos."""
        while (await self.hear())["kind"] != "ready":
            pass
