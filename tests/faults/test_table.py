"""The whole table with real processes: every one, and every pair of them, killed, frozen, cut off, starved.

``TANDEM_FAULTS_JSON=FILE`` keeps what was measured, one line a scenario; `docs/recovery.md` quotes it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import tandem
from tandem.client import MediaKind, Sampling
from tandem.commands.drain import ask_to_leave
from tests.faults.fleet import Fleet, Process, fleet
from tests.faults.run import PERIOD_MS, QUESTION, SETTINGS, Feed, Outcome, check_whole, play, reference
from tests.faults.scenarios import ENCODER, REASONER, SCENARIOS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("faults")) as made:
        await made.add(ENCODER)
        await made.add(REASONER)
        await made.ready(ENCODER, REASONER)
        yield made


def keep(outcome: Outcome) -> None:
    print(outcome.line())
    if path := os.environ.get("TANDEM_FAULTS_JSON"):
        with Path(path).open("a") as file:
            file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_fault_costs_time_and_nothing_else(world: Fleet, name: str) -> None:
    await world.ready(ENCODER, REASONER)
    keep(await play(world, SCENARIOS[name], name))


@pytest.mark.parametrize("role", ["encoder", "reasoner"])
async def test_a_service_is_upgraded_under_a_stream(world: Fleet, role: str) -> None:
    """The next one is started, the former is asked to leave, and ends with status 0 when nothing is on it."""
    former, later = f"{role}-0", f"{role}-1"
    await world.ready(ENCODER, REASONER)
    await world.add(later)
    await world.ready(later)
    async with (
        tandem.connect(world.front.address, settings=SETTINGS) as client,
        client.watch(MediaKind.PICTURES, stream_id=f"upgrade-{role}") as stream,
    ):
        feed = Feed(stream, 0.03)
        feed.start()
        await world.until(lambda _: stream.progress.blocks >= 6, 60)
        summary = await world.stream(stream.stream_id)
        assert summary is not None
        leaver = summary.encoder if role == "encoder" else summary.reasoner
        stays = later if leaver == former else former
        question = stream.pose(QUESTION, sampling=Sampling(max_tokens=64))
        told = await ask_to_leave(world.direct, leaver, world.secret_file, 20.0)
        assert told.has_successor
        member = world.members[leaver]
        assert isinstance(member, Process)
        assert await member.ended(25) == 0
        assert (await question.answer).error is None
        left_us = feed.pushed * PERIOD_MS * 1000
        await world.until(lambda _: stream.progress.watermark_us > left_us, 30)
        await feed.stop()
        answer = await stream.ask(QUESTION, sampling=Sampling(max_tokens=8), latency_budget_s=30.0)
        check_whole(answer, stream.progress, feed.pushed, 0)
        summary = await world.stream(stream.stream_id)
        assert summary is not None
        assert stays in {summary.encoder, summary.reasoner}
        await stream.end(forget=True)
    assert answer.text == await reference(world, feed.pushed)
    await member.start()
    await world.ready(leaver)
