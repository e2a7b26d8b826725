"""Three live streams, many questions, cancellations at random: nothing leaks, nothing foreign is seen."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import grpc

from kv_transfer.block import Block
from tandem.core.errors import DataLost, LimitExceeded
from tandem.vlm.load import load_model
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Serving, read, serve

STREAMS = ("a", "b", "c")
UNITS = 40


def published(s: Serving, block: Block) -> bool:
    """False when there is no room now."""
    try:
        s.publish(block)
    except LimitExceeded:
        return False
    return True


async def _read_all(call: Any) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass


async def test_live_streams_with_questions_cancelled_at_random() -> None:
    model = load_model("dummy:tiny")
    clips = {
        name: encode_clip(model, make_frames(model, UNITS, seed), name) for seed, name in enumerate(STREAMS)
    }
    spans = {name: [block.header.time for block in clip] for name, clip in clips.items()}
    rng = random.Random(5)
    answered: list[str] = []

    async def feed(s: Serving, name: str) -> None:
        for block in clips[name]:
            while not published(s, block):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)

    async def watcher(s: Serving, name: str) -> None:
        """Watchers one after the other, some over the former, all cancelled at some moment."""
        former = None
        for _ in range(8):
            watching = types_pb2.Watching(mode=rng.choice((1, 2, 3, 4)), segment_units=rng.randint(1, 6))
            call = s.stub.WatchStream(reasoner_pb2.WatchStreamRequest(stream_id=name, watching=watching))
            reading = asyncio.create_task(_read_all(call))
            await asyncio.sleep(rng.uniform(0, 0.2))
            for over in (former, *((call,) if rng.random() < 0.5 else ())):
                if over is not None:
                    over.cancel()
            former = call
            await asyncio.sleep(0)
            reading.cancel()
        assert former is not None
        former.cancel()

    async def question(s: Serving, number: int) -> None:
        name = rng.choice(STREAMS)
        await asyncio.sleep(rng.uniform(0.05, 0.5))
        call = s.call(
            "what was there? " * rng.randint(1, 20),
            stream=name,
            question_id=f"q{number}",
            max_tokens=rng.randint(1, 40),
            temperature=rng.choice((0.0, 1.0)),
            seed=number,
        )
        if rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(0, 0.2))
            call.cancel()
            return
        try:
            final = (await read(call)).final
        except DataLost:
            return
        answered.append(name)
        first = final.evidence.seen[0].start_us
        blocks = [t for t in spans[name][1:] if first <= t.start_us < final.watermark_us]
        assert len(final.evidence.seen) == 1
        assert final.evidence.blocks == len(blocks)
        assert final.watermark_us == blocks[-1].end_us
        for noted in final.evidence.notes:
            assert noted.end_us <= final.watermark_us, "a note about what is not in view yet"
        for gone in final.evicted:
            assert gone.end_us <= first, "evicted before the question, yet in view"

    block_bytes = clips["a"][1].header.payload_bytes
    async with serve(model, ram_bytes=max(65_536, 60 * block_bytes), view_tokens=12 * 4, max_running=5) as s:
        for name in STREAMS:
            await s.open(name)
            s.publish(*clips[name][:2])
            del clips[name][:2]
        await asyncio.gather(
            *(feed(s, name) for name in STREAMS),
            *(watcher(s, name) for name in STREAMS),
            *(question(s, n) for n in range(60)),
        )
        await s.until(lambda: s.reasoner.service.open_watches == 0)
        await s.until(lambda: s.reasoner.engine.stats.questions == 0)
        await s.idle()
        assert s.reasoner.engine.stats.watchers == 0
        assert len(set(answered)) == 3
        assert s.reasoner.store.ram_allocated_bytes <= s.reasoner.config.ram_bytes
        for name in STREAMS:
            await s.close(name)
        stats = await s.reasoner.engine.flush()
        assert (stats.runs, stats.run_bytes) == (0, 0)
        assert s.reasoner.store.ram_allocated_bytes == 0
        assert s.reasoner.store.directory.orphans == 0
        await s.until(lambda: len([t for t in asyncio.all_tasks() if "_answer" in repr(t)]) == 0)
