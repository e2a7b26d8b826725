"""Three live streams, all watched, four workers on every question, questions cancelled at random.

Twenty seconds, or as many as the environment variable TANDEM_SOAK_SECONDS says: ten minutes before a release.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random

import pytest

from kv_transfer.block import Block
from tandem.core.blocks import BlockKey
from tandem.core.errors import DataLost
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.load import load_model
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tests.integration.test_reasoner_stress import _read_all, published
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Serving, read, serve

SECONDS = float(os.environ.get("TANDEM_SOAK_SECONDS", "20"))
MODES = {"a": 1, "b": 3, "c": 4}
"""Watch mode of each stream: notes, in turns, concurrent."""
UNITS, PERIOD_S, WINDOW = 24, 0.05, 12
SECOND_US = 1_000_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 120)]


def again(block: Block, name: str, number: int) -> Block:
    """The same bytes as a later block of the stream."""
    time = TimeRange((number - 1) * SECOND_US, number * SECOND_US)
    header = dataclasses.replace(block.header, key=BlockKey(StreamId(name), number), time=time)
    return dataclasses.replace(block, header=header)


async def test_watchers_and_answerers_at_once() -> None:
    model, rng = load_model("dummy:tiny"), random.Random(7)
    clips = {n: encode_clip(model, make_frames(model, UNITS, seed), n) for seed, n in enumerate(MODES)}
    loop, answered, cancelled, older = asyncio.get_running_loop(), dict.fromkeys(MODES, 0), 0, 0
    ends_s = loop.time() + SECONDS
    block = clips["a"][1].header

    async def feed(s: Serving, name: str) -> None:
        number = 2
        while loop.time() < ends_s:
            if published(s, again(clips[name][1 + number % UNITS], name, number)):
                number += 1
            await asyncio.sleep(PERIOD_S)

    async def ask(s: Serving, lane: int) -> None:
        nonlocal cancelled, older
        asked = 0
        while loop.time() < ends_s:
            name, asked = rng.choice(list(MODES)), asked + 1
            team = types_pb2.Workers(count=4, max_tokens=rng.randint(4, 24))
            call = s.call("what?", stream=name, question_id=f"q{lane}-{asked}", workers=team, max_tokens=6)
            if rng.random() < 0.4:
                await asyncio.sleep(rng.uniform(0, 0.3))
                call.cancel()
                cancelled += 1
                continue
            try:
                final = (await read(call)).final
            except DataLost:  # what it asked about left memory while it waited for its turn
                continue
            answered[name] += 1
            seen, recalled = final.evidence.seen, final.evidence.recalled
            # A unit is a second: what is in view is whole, in order, and ends at the watermark.
            assert seen[-1].end_us == final.watermark_us
            assert sum(one.end_us - one.start_us for one in seen) == final.evidence.blocks * SECOND_US
            window_us = (final.evidence.blocks - len(recalled)) * SECOND_US
            assert 0 < window_us <= WINDOW * SECOND_US
            assert all(one.time.end_us <= final.watermark_us - window_us for one in recalled)
            older += len(recalled)
            assert all(noted.end_us <= final.watermark_us for noted in final.evidence.notes)

    settings = {"view_tokens": WINDOW * block.tokens, "max_running": 16, "retrieve_blocks": 3}
    async with serve(model, ram_bytes=max(65_536, 200 * block.payload_bytes), **settings) as s:
        calls = []
        for name, mode in MODES.items():
            await s.open(name)
            s.publish(*clips[name][:1], again(clips[name][1], name, 1))
            watching = types_pb2.Watching(mode=mode, segment_units=4)
            request = reasoner_pb2.WatchStreamRequest(stream_id=name, watching=watching)
            calls.append(s.stub.WatchStream(request))
        readers = [asyncio.create_task(_read_all(call)) for call in calls]
        await asyncio.gather(*(feed(s, name) for name in MODES), *(ask(s, lane) for lane in range(4)))
        for call in calls:
            call.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await s.until(lambda: s.reasoner.service.open_watches == 0)
        while (await s.reasoner.engine.flush()).questions:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await s.idle()
        assert s.reasoner.engine.stats.watchers == 0
        for name in MODES:
            await s.close(name)
        stats = await s.reasoner.engine.flush()
        assert (stats.runs, stats.run_bytes, stats.leases, stats.tail_bytes) == (0, 0, 0, 0)
        assert s.reasoner.store.ram_allocated_bytes == 0
        assert s.reasoner.store.directory.orphans == 0
    assert all(answered.values()), answered
    assert cancelled
    assert older, "nothing older came back: a weak test"
