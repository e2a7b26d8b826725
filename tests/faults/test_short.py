"""A few faults with real services in this process; the orchestrator is a process of its own and is killed.

`test_table.py` has the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import tandem
from tandem.client import MediaKind
from tests.faults import inside
from tests.faults.fleet import Fleet, Inside, fleet
from tests.faults.run import (
    PERIOD_MS,
    QUESTION,
    SETTINGS,
    Feed,
    check_whole,
    kill,
    play,
    reference,
)
from tests.faults.scenarios import ENCODER, ORCHESTRATOR, REASONER, SCENARIOS

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("faults")) as made:
        await made.add(ENCODER, inside=inside.encoder(ENCODER, made.secret_file))
        await made.add(REASONER, inside=inside.reasoner(REASONER, made.secret_file))
        await made.ready(ENCODER, REASONER)
        yield made


async def test_a_fault_costs_time_and_nothing_else(world: Fleet) -> None:
    """The orchestrator is replaced while an encoder cannot be reached: the services hold what there is."""
    name = "encoder-cut-off-orchestrator-killed"
    print((await play(world, SCENARIOS[name], name)).line())


async def test_others_can_ask_about_a_stream_before_its_client_is_back(world: Fleet) -> None:
    async with tandem.connect(world.front.address, settings=SETTINGS) as client:
        async with client.watch(MediaKind.PICTURES, stream_id="left") as stream:
            feed = Feed(stream)
            for _ in range(8):
                await feed.push()
            before = await stream.ask(QUESTION, sampling=tandem.client.Sampling(max_tokens=8))
            await asyncio.sleep(0.7)  # the journal is written twice a second
            await stream.abandon()
        await kill(world, ORCHESTRATOR)
        async with asyncio.timeout(20):
            while (found := await world.stream("left")) is None or found.state != "live":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not found.attached
        answer = await client.ask("left", QUESTION, sampling=tandem.client.Sampling(max_tokens=8))
        assert (answer.text, answer.evidence_blocks) == (before.text, 4)


async def test_a_reasoner_that_leaves_takes_no_block_and_no_answer_with_it(world: Fleet) -> None:
    """Runs last: the stream moves to another reasoner, which fetches its blocks from the one that leaves."""
    await world.add("reasoner-1", inside=inside.reasoner("reasoner-1", world.secret_file))
    await world.ready("reasoner-1")
    former, later = world.members[REASONER], world.members["reasoner-1"]
    assert isinstance(former, Inside)
    assert isinstance(later, Inside)
    async with (
        tandem.connect(world.front.address, settings=SETTINGS) as client,
        client.watch(MediaKind.PICTURES, stream_id="moves") as stream,
    ):
        feed = Feed(stream, 0.03)
        feed.start()
        async with asyncio.timeout(30):
            while stream.progress.blocks < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        placed = await world.stream("moves")
        assert placed is not None
        leaver = former if placed.reasoner == REASONER else later
        stays = later if leaver is former else former
        held = len(leaver.app.store.directory)
        open_question = stream.pose(QUESTION, sampling=tandem.client.Sampling(max_tokens=64))
        leaver.app.leaving.ask()
        left = await asyncio.wait_for(leaver.app.leave(), 20)
        assert left > 0, "its time ran out before the stream was gone"
        moved_us = feed.pushed * PERIOD_MS * 1000
        assert len(stays.app.store.directory) >= held
        assert (await open_question.answer).error is None
        async with asyncio.timeout(30):
            while stream.progress.watermark_us <= moved_us:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await feed.stop()
        sampling = tandem.client.Sampling(max_tokens=8)
        answer = await stream.ask(QUESTION, sampling=sampling, latency_budget_s=30.0)
        check_whole(answer, stream.progress, feed.pushed, 0)
        summary = await world.stream("moves")
        assert summary is not None
        assert summary.reasoner == stays.name
        await stream.end(forget=True)
    assert answer.text == await reference(world, feed.pushed)
