"""Shell. Runs scenarios: starts the system a scenario wants, plays, strikes, and collects what was seen."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from bench.faults.load import PERIOD_S, Asked, Feed, video
from bench.faults.strikes import Scene, Struck, strike
from bench.faults.system import ORCHESTRATOR, System
from bench.faults.table import Scenario
from bench.faults.verdict import Reply, Seen, Verdict, judge
from tandem.client import MediaKind, connect
from tandem.client.stream import Stream
from tandem.core.errors import TandemError
from tandem.core.timeline import MICROSECONDS

SHM = Path("/dev/shm")
END_S = 150.0
"""For a stream to be watched to its end after the last picture."""
START_S = 8.0
"""Declared times are for a machine on which the system starts in this time; on a busier one they stretch as
its start did. What was measured is reported as it was."""
BYSTANDER_FRAMES = 12
DURABLE_S = 10.0
LEFT_S = 5.0
"""What is in shared memory for so long was left there: a socket to meet at goes when the two have met."""
Say = Callable[[str], None]


async def run_all(scenarios: Sequence[Scenario], say: Say, patience: float = 1.0) -> list[Verdict]:
    """Run them, those that can share a system one after another on one. In the order given."""
    verdicts: dict[str, Verdict] = {}
    shared: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        key = f"{scenario.system} {scenario.name}" if scenario.own else scenario.system
        shared.setdefault(key, []).append(scenario)
    for group in shared.values():
        for verdict in await _run_group(group, say, patience):
            verdicts[verdict.scenario] = verdict
    return [verdicts[scenario.name] for scenario in scenarios]


async def _run_group(group: Sequence[Scenario], say: Say, patience: float) -> list[Verdict]:
    kind = group[0].system
    if kind == "small-disk" and not await _can_mount():
        why = "no file system can be mounted here without being root"
        return [_skipped(scenario, why) for scenario in group]
    before = names_in(SHM)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="tandem-faults-", ignore_cleanup_errors=True) as folder:
        began_s = time.monotonic()
        async with System(kind, Path(folder)) as system:
            start_s = time.monotonic() - began_s
            patience = max(patience, start_s / START_S)
            say(f"system {kind!r} is ready after {start_s:.1f} s; declared times count {patience:.1f}-fold")
            await _warm_up(system)
            for scenario in group:
                say(f"{scenario.name}: {scenario.what}")
                verdict = judge(scenario, await _observe(system, scenario), patience)
                say(_line(verdict))
                verdicts.append(verdict)
    if left := await left_in(SHM, before):
        finding = f"left in {SHM}: {', '.join(left)}"
        say(f"after {verdicts[-1].scenario}: {finding}")
        verdicts[-1] = replace(verdicts[-1], findings=(*verdicts[-1].findings, finding))
    return verdicts


def _skipped(scenario: Scenario, why: str) -> Verdict:
    return Verdict(scenario=scenario.name, findings=(), wrong_answers=0, lost_durable=0, skipped=why)


async def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait() == 0


async def _warm_up(system: System) -> None:
    """One short stream, after which the system holds what it holds at rest."""
    async with _watching(system.front, "warm-up") as feed:
        await feed.push(BYSTANDER_FRAMES)
        await feed.answers()
        await feed.stream.end(forget=True)
    await asyncio.sleep(0.5)
    await system.learn_rest()


@asynccontextmanager
async def _watching(address: str, name: str) -> AsyncIterator[Feed]:
    async with connect(address) as t, t.watch(MediaKind.PICTURES, stream_id=name) as stream:
        feed = Feed(stream)
        listener = asyncio.create_task(feed.listen())
        try:
            yield feed
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)


async def _observe(system: System, scenario: Scenario) -> Seen:
    struck = Struck()
    ended, durable_us, bystander = "", 0, None
    stream: Stream | None = None
    watch = _Watch(system)
    async with _watching(system.address, f"beside-{scenario.name}") as beside:
        await beside.push(BYSTANDER_FRAMES // 2)
        async with _watching(system.front, scenario.name) as feed:
            stream = feed.stream
            scene = Scene(system, feed, struck)
            try:
                struck_at = min((step.at for step in scenario.steps), default=scenario.frames)
                await feed.push(struck_at)
                await _until_published(
                    feed, struck_at, durable=bool(scenario.steps) and system.kind != "memory"
                )
                await feed.answers()  # what is open when it is struck was asked by a step
                durable_us = stream.progress.durable_watermark_us
                watcher = asyncio.create_task(watch.run(struck, feed))
                for step in scenario.steps:
                    await feed.push(step.at)
                    await strike(scene, step.do, step.options)
                await feed.push(scenario.frames)
                feed.ask(video().about(scenario.frames))
                await feed.answers()
                await _until_published(feed, scenario.frames, patience_s=END_S)
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
                async with asyncio.timeout(END_S):
                    await stream.end(forget=True)
            except TandemError as error:
                ended = error.code.value
            except TimeoutError:
                ended = "no end"
        system.proxy.heal()
        bystander = await _asked_at_last(beside)
    left = await system.at_rest()
    return Seen(
        replies=[_reply(asked) for asked in feed.asked],
        gaps=stream.progress.gaps,
        durable_us=durable_us,
        end_us=feed.pushed * MICROSECONDS,
        watermark_us=stream.progress.watermark_us,
        spoiled=struck.spoiled,
        detect_s=watch.detected_after(struck, feed),
        resume_s=_since(struck, feed.moved_past(struck_at * MICROSECONDS)),
        load_s=watch.load_s,
        bystander=bystander,
        left=left,
        found=struck.wrong,
        ended=ended,
    )


async def _until_published(
    feed: Feed, frames: int, *, durable: bool = False, patience_s: float = DURABLE_S
) -> None:
    """Until so many frames are published, and on disk where there is one; a full disk takes none."""
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            while True:
                progress = feed.stream.progress
                end_us = progress.durable_watermark_us if durable else progress.watermark_us
                if end_us >= frames * MICROSECONDS:
                    return
                await asyncio.sleep(PERIOD_S / 5)


async def _asked_at_last(beside: Feed) -> Reply:
    """The stream beside it goes on to its end and is asked."""
    try:
        async with asyncio.timeout(END_S):
            await beside.push(BYSTANDER_FRAMES)
            await beside.answers()
            reply = _reply(beside.asked[0])
            await beside.stream.end(forget=True)
    except TandemError as error:
        return Reply("", beside.asked[0].known.answer if beside.asked else "", False, error.code.value)
    except TimeoutError:
        return Reply("", "", False, "no end")
    return reply


def _reply(asked: Asked) -> Reply:
    answer = asked.answer
    if answer is None:
        code = asked.error.code.value if asked.error else "no record"
        return Reply("", asked.known.answer, False, code)
    return Reply(
        text=answer.text,
        known=asked.known.answer,
        right=asked.is_right,
        error=answer.error.code.value if answer.error else "",
        gaps=answer.gaps,
        seen=(*answer.evidence, *(block.time for block in answer.recall.blocks)),
        asked_us=answer.asked_us,
        watermark_us=answer.watermark_us,
        lost_in_recall=answer.recall.lost,
    )


def _since(struck: Struck, at_s: float | None) -> float | None:
    return None if struck.first_s is None or at_s is None else max(at_s - struck.first_s, 0.0)


class _Watch:
    """Looks at what runs while a scenario plays: when a loss is noticed, how long a start takes."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._noticed_s: float | None = None
        self._starting: dict[str, float] = {}
        self.load_s: float | None = None

    async def run(self, struck: Struck, feed: Feed) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(0.03)
            if struck.first_s is None:
                continue
            status = await self._system.status()
            now_s = time.monotonic()
            if status is None:
                self._starting.setdefault(ORCHESTRATOR, now_s)
                self._noticed_s = self._noticed_s or now_s
                continue
            for service in status.services:
                changed = service.build.pid != struck.pids.get(service.name)
                if service.state != "ready" or changed:
                    self._noticed_s = self._noticed_s or now_s
                if service.state != "ready":
                    self._starting.setdefault(service.name, now_s)
                elif service.name in self._starting:
                    took_s = now_s - self._starting.pop(service.name)
                    self.load_s = max(self.load_s or 0.0, took_s)

    def detected_after(self, struck: Struck, feed: Feed) -> float | None:
        """From the first step until anybody noticed: the orchestrator, or the client."""
        noticed = [at_s for at_s in (self._noticed_s, *feed.lost_at_s) if at_s is not None]
        return _since(struck, min(noticed)) if noticed else None


def names_in(directory: Path) -> set[str]:
    """What is there of ours, or of another system of ours on this machine."""
    return {path.name for path in directory.glob("tandem*")}


async def left_in(directory: Path, before: set[str], patience_s: float = LEFT_S) -> list[str]:
    """What came since and stays; what other systems on this machine have there comes and goes."""
    until_s = time.monotonic() + patience_s
    left = names_in(directory) - before
    while left and time.monotonic() < until_s:
        await asyncio.sleep(0.1)
        left &= names_in(directory)
    return sorted(left)


def _line(verdict: Verdict) -> str:
    times = [
        f"{word} {value:.2f} s"
        for word, value in (
            ("noticed after", verdict.detect_s),
            ("resumed after", verdict.resume_s),
            ("of it start of a process", verdict.load_s),
        )
        if value is not None
    ]
    outcome = "as declared" if verdict.passed else "NOT AS DECLARED: " + "; ".join(verdict.findings)
    return "    " + ", ".join([outcome, *times])
