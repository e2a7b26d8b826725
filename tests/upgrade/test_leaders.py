"""The orchestrator that leads is replaced by one with no journal of it, while questions are open."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tandem
from orchestrator.app import Orchestrator
from tandem.client import ClientSettings, MediaKind
from tandem.client.types import Answer
from tests.faults import inside
from tests.faults.fleet import free_port
from tests.integration.orchestrator_fakes import FakeEncoder, FakeReasoner
from tests.integration.test_kubernetes_backend import SERVICES, Pair, pair, ready
from tests.integration.test_kubernetes_processes import Processes
from tests.kube.release import RELEASE, release, until
from tests.upgrade.former import former_tree
from tests.upgrade.load import Load

SETTINGS = ClientSettings(backoff_cap_s=0.5)
PERIOD_US = 500_000
PICTURES = 4
WHOLE = "0 500 1000 1500 "
"""What the fake says of them."""


@pytest.fixture(autouse=True)
def _short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.app.STOP_GRACE_S", 0.2)
    monkeypatch.setattr("orchestrator.cluster._CLOSE_GRACE_S", 0.1)


class Watched:
    """A stream at the one of two orchestrators that leads, and its client."""

    def __init__(
        self, both: Pair, first: Orchestrator, second: Orchestrator, client: Any, stream: Any
    ) -> None:
        self._both, self._first, self.second = both, first, second
        self.client, self.stream = client, stream
        self.records: Counter[str] = Counter()

    @property
    def reasoner(self) -> FakeReasoner:
        return self._both.reasoners[f"{RELEASE}-reasoner-0"]

    @property
    def encoder(self) -> FakeEncoder:
        (found,) = (each.servicer for each in self._both.hosted if isinstance(each.servicer, FakeEncoder))
        return found

    async def count(self) -> None:
        async for event in self.stream.events():
            if isinstance(event, Answer):
                self.records[event.question_id] += 1

    async def was_told_once(self, question_id: str) -> None:
        """One final record came, and no other within a moment."""
        await until(lambda: self.records[question_id] > 0)
        await asyncio.sleep(0.3)
        assert self.records[question_id] == 1

    async def replace_leader(self) -> None:
        """It is stopped, as a pod of a rollout is; its run directory goes with it."""
        await self._first.stop()
        self._both.apps.remove(self._first)
        await until(lambda: ready(self.second) == SERVICES)


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    async with pair(folder) as both:
        first = await both.orchestrator("o-0")
        await until(lambda: first.cluster.fence.leads)
        second = await both.orchestrator("o-1")
        await until(lambda: bool(second.cluster.fence.leader))
        for name in sorted(SERVICES):
            await both.serve(name, second)
        await until(lambda: ready(first) == SERVICES)
        async with (
            tandem.connect(second.address, settings=SETTINGS) as client,
            client.watch(MediaKind.PICTURES, stream_id="cam") as stream,
        ):
            found = Watched(both, first, second, client, stream)
            counting = asyncio.create_task(found.count())
            for number in range(PICTURES):
                await stream.push_picture(b"jpeg", pts_us=number * PERIOD_US)
            await until(lambda: stream.progress.blocks == PICTURES)
            yield found
            await stream.end(forget=True)
            counting.cancel()


async def test_open_questions_are_answered_once_by_the_next_leader(tmp_path: Path) -> None:
    """One in the middle of its answer, one that waits for frames, two of somebody who does not feed."""
    async with watched(tmp_path) as it, tandem.connect(it.second.address, settings=SETTINGS) as other:
        it.reasoner.gate.clear()
        begun = it.stream.pose("what?")
        pieces = begun.pieces()
        assert await anext(pieces) == "0 "
        asked = asyncio.create_task(other.ask("cam", "what?"))
        heard: list[Any] = []
        listening = asyncio.create_task(listen(other.ask_stream("cam", "what?"), heard))
        await until(lambda: it.reasoner.active == 3 and len(heard) == 1)
        it.encoder.gate.clear()
        await it.stream.push_picture(b"jpeg", pts_us=PICTURES * PERIOD_US)
        waits = it.stream.pose("what?", latency_budget_s=30.0)
        await asyncio.sleep(0.1)
        assert len(it.reasoner.questions) == 3, "it waits for the frame"

        await it.replace_leader()
        it.reasoner.gate.set()
        text = "0 " + "".join([piece async for piece in pieces])
        answer = await begun.answer
        assert answer.text == text == WHOLE
        assert answer.evidence_blocks == PICTURES
        it.encoder.gate.set()
        assert (await waits.answer).text == WHOLE + "2000 "
        for question in (begun, waits):
            await it.was_told_once(question.question_id)
        # Asked again, they are about all that was there then.
        later = {WHOLE, WHOLE + "2000 "}
        assert (await asyncio.wait_for(asked, 20)).text in later
        await asyncio.wait_for(listening, 20)
        *texts, record = heard
        assert "".join(texts) == record.text
        assert record.text in later
        assert not it.stream.progress.gaps


async def listen(items: AsyncIterator[Any], heard: list[Any]) -> None:
    async for item in items:
        heard.append(item)  # noqa: PERF401 - looked at while it grows


@dataclass
class Door:
    """Where clients come to, whoever leads behind it."""

    address: str


@dataclass
class Elected:
    """What a load asks of a fleet."""

    front: Door


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("former", [False, True], ids=["of this release", "of the release before"])
async def test_leaders_are_killed_and_replaced_under_load(tmp_path: Path, former: bool) -> None:
    """Orchestrators are processes, services are real: every question is answered rightly, and once."""
    tree = former_tree(tmp_path / "former") if former else None
    address = f"127.0.0.1:{free_port()}"
    async with release(tmp_path) as found:
        found.install()
        found.free_lease()
        both = Processes(found, tmp_path)
        services: list[Any] = []
        # The former release gives its clients no record: encoded streams begin anew at a key frame.
        load = Load(Elected(Door(address)), 3, encoded=0 if former else 1)
        try:
            first = await both.start("o-0", tree=tree)
            await until(lambda: both.holder.startswith("o-0/"))
            second = await both.start("o-1", listen=address)
            await until(lambda: (tmp_path / "o-1/address").exists())
            for role, make in (("reasoner", inside.reasoner), ("encoder", inside.encoder)):
                service = make(f"{RELEASE}-{role}-0", both.secret)("127.0.0.1:0", "", address)
                services.append(service)
                await service.start()
            await load.start()
            first.send_signal(signal.SIGKILL)
            await first.wait()
            await until(lambda: both.holder.startswith("o-1/"))
            await load.go_on(3)
            await both.start("o-0")
            await asyncio.sleep(1.0)
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0
            await until(lambda: both.holder.startswith("o-0/"))
            await both.start("o-1", listen=address)
            await load.go_on(3)
            print(await load.check())
        finally:
            await load.close()
            for service in services:
                await end(service)
            for process in both.started:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def end(service: Any) -> None:
    try:
        await service.stop(0.0)
    except TypeError:
        await service.stop()
