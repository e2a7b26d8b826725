"""Runs one scenario against a fleet: feeds, hurts, measures, and checks what must hold."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

import tandem
from bench.faults.table import Scenario
from tandem.client import ClientSettings, MediaKind, PictureFormat
from tandem.client.types import Answer, ConnectionLost, Sampling
from tandem.core.errors import TandemError
from tests.faults.fleet import Fleet, Inside, Process, now_s
from tests.faults.scenarios import OPEN_ENDS, RESUME_S, hit, waits_s

PERIOD_MS = 500
"""Of stream time between pictures; two make a block of the model."""
PACE_S = 0.1
FRAMES_AFTER = 8
PROXIED = ("cut", "starve", "heal")
"""Steps that a service's proxies do."""
QUESTION = "What was shown?"
SETTINGS = ClientSettings(backoff_cap_s=1.0, open_timeout_s=60.0)


@dataclass
class Outcome:
    """What was measured, in seconds from the fault."""

    name: str
    detect_s: float | None = None
    """Until the orchestrator, or the client for the orchestrator, knew."""
    resume_s: float = 0.0
    """Until a frame that was pushed after the fault was retrievable."""
    start_s: dict[str, float] = field(default_factory=dict)
    """From the start of a process that was killed until it was attached or listening: imports, model, all."""
    question: str = ""
    """How a question that was open ended."""

    def line(self) -> str:
        starts = ", ".join(f"{name} {took:.1f}" for name, took in self.start_s.items()) or "-"
        detect = "-" if self.detect_s is None else f"{self.detect_s:.2f}"
        return f"{self.name}: detect {detect}, resume {self.resume_s:.2f}, start {starts}, {self.question}"


def picture(index: int) -> bytes:
    image = Image.new("RGB", (56, 56), ((index * 37) % 256, (index * 91) % 256, 128))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Feed:
    """Pushes pictures at a steady pace until it is told to stop."""

    def __init__(self, stream: Any, pace_s: float = PACE_S) -> None:
        self._stream = stream
        self._pace_s = pace_s
        self.pushed = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self.push()
            await asyncio.sleep(self._pace_s)

    async def push(self) -> None:
        index, self.pushed = self.pushed, self.pushed + 1
        pts_us = index * PERIOD_MS * 1000
        await self._stream.push_picture(picture(index), pts_us=pts_us, picture_format=PictureFormat.PNG)

    def cancel(self) -> None:
        """At once, after a failure."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """With a whole number of blocks pushed."""
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self.pushed % 2:
            await self.push()


async def reference(fleet: Fleet, frames: int) -> str:
    """What an undisturbed stream of so many frames is answered."""
    async with tandem.connect(fleet.front.address, settings=SETTINGS) as client:
        name = f"reference-{frames}-{now_s():.0f}"
        async with client.watch(MediaKind.PICTURES, stream_id=name) as stream:
            feed = Feed(stream)
            for _ in range(frames):
                await feed.push()
            text = (await stream.ask(QUESTION, sampling=Sampling(max_tokens=8), latency_budget_s=60.0)).text
            await stream.end(forget=True)
            return text


async def play(fleet: Fleet, scenario: Scenario, stream_id: str) -> Outcome:
    """The whole scenario, checks included."""
    outcome = Outcome(scenario.name)
    async with (
        tandem.connect(fleet.front.address, settings=SETTINGS) as client,
        client.watch(MediaKind.PICTURES, stream_id=stream_id) as stream,
    ):
        losses = asyncio.create_task(_first_loss(stream))
        feed = Feed(stream)
        feed.start()
        await _until(lambda: stream.progress.blocks >= 3, 60)
        asked = asyncio.create_task(_ask(stream, 48))
        await asyncio.sleep(0.05)
        durable_us = stream.progress.durable_watermark_us or 0
        boots = await fleet.boots()
        hurting = asyncio.create_task(hurt(fleet, scenario, boots, outcome))
        await asyncio.sleep(0)  # it has done all before its first wait
        hit_s, hit_us = now_s(), feed.pushed * PERIOD_MS * 1000
        detecting = asyncio.create_task(_detect(fleet, scenario, boots, losses, hit_s))
        await _until(lambda: stream.progress.watermark_us > hit_us, 120)
        outcome.resume_s = now_s() - hit_s
        await hurting
        detecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            outcome.detect_s = await detecting
        outcome.question = _check_question(await asked)
        await asyncio.sleep(FRAMES_AFTER * PACE_S)
        await feed.stop()
        answer = await stream.ask(QUESTION, sampling=Sampling(max_tokens=8), latency_budget_s=60.0)
        check_whole(answer, stream.progress, feed.pushed, durable_us)
        await stream.end(forget=True)
        losses.cancel()
    assert answer.text == await reference(fleet, feed.pushed), "another answer than undisturbed"
    slowest_s = max(outcome.start_s.values(), default=0.0)
    assert outcome.resume_s - slowest_s <= RESUME_S + waits_s(scenario), outcome.line()
    return outcome


def check_whole(answer: Answer, progress: Any, frames: int, durable_us: int) -> None:
    """All frames are in view, none twice, nothing is declared missing."""
    seen = [(part.start_us, part.end_us) for part in answer.evidence]
    assert seen == [(0, frames * PERIOD_MS * 1000)], (seen, progress.gaps)
    assert answer.evidence_blocks == frames // 2, "a block is missing, or there twice"
    assert progress.gaps == (), progress.gaps
    assert seen[0][1] >= durable_us


async def hurt(fleet: Fleet, scenario: Scenario, boots: dict[str, str], outcome: Outcome) -> None:
    """Its steps, one after the other; what is killed is started again meanwhile. `boots` are from before."""
    async with asyncio.TaskGroup() as starting:
        for step in scenario.steps:
            name = step.options.get("service", "")
            if step.do == "wait":
                await asyncio.sleep(step.options["seconds"])
            elif step.do == "signal":
                number = signal.Signals[step.options["send"]]
                _process(fleet, name).send(number)
                if number == signal.SIGKILL:
                    starting.create_task(start_again(fleet, name, boots, outcome))
            elif step.do in PROXIED:
                for proxy in fleet.proxies[name]:
                    getattr(proxy, step.do)()
            else:
                assert step.do == "ask", step  # a question is open in every row


def _process(fleet: Fleet, name: str) -> Process:
    member = fleet.members[name]
    assert not isinstance(member, Inside), f"{name} runs in this process"
    return member


async def kill(fleet: Fleet, name: str) -> None:
    """SIGKILL, and its start again."""
    _process(fleet, name).send(signal.SIGKILL)
    await start_again(fleet, name, {}, Outcome(name))


async def start_again(fleet: Fleet, name: str, boots: dict[str, str], outcome: Outcome) -> None:
    """As whoever runs the services would."""
    member = _process(fleet, name)
    await member.ended(10)
    began_s = now_s()
    await member.start()
    if name == "orchestrator":
        while await fleet.call("GetStatus", _status_request()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    else:
        while (await fleet.boots()).get(name, "") in {"", boots.get(name, "")}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    outcome.start_s[name] = now_s() - began_s


def _status_request() -> Any:
    from tandem.wire.gen.tandem.v1 import client_pb2

    return client_pb2.GetStatusRequest()


async def _ask(stream: Any, tokens: int) -> Answer | TandemError:
    try:
        answer: Answer = await stream.ask(
            QUESTION, sampling=Sampling(max_tokens=tokens), latency_budget_s=20.0
        )
    except TandemError as error:
        return error
    return answer if answer.error is None else answer.error


def _check_question(ended: Answer | TandemError) -> str:
    if isinstance(ended, TandemError):
        assert ended.code.value in OPEN_ENDS, ended
        return f"question: {ended.code.value}"
    return "question: answered"


async def _first_loss(stream: Any) -> float:
    events: AsyncIterator[Any] = stream.events()
    async for event in events:
        if isinstance(event, ConnectionLost):
            return now_s()
    return 0.0


async def _detect(
    fleet: Fleet, scenario: Scenario, boots: dict[str, str], losses: asyncio.Task[float], hit_s: float
) -> float | None:
    names = hit(scenario)
    if "orchestrator" in names:
        return await asyncio.shield(losses) - hit_s
    while True:
        states, now = await fleet.states(), await fleet.boots()
        if any(states.get(name) != "ready" or now.get(name) != boots.get(name) for name in names):
            return now_s() - hit_s
        await asyncio.sleep(0.02)


async def _until(condition: Any, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - a test looks at what has no event
            await asyncio.sleep(0.01)
