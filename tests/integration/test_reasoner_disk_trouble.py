"""A disk that fails, budgets smaller than RAM, and streams that cannot be written: each costs only itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kv_transfer.block import Block
from reasoner_svc.store import spill
from tandem.core.blocks import BlockKey
from tandem.core.errors import LimitExceeded, WrongState
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Said, Serving, read, serve

UNITS = 12
SECOND_US = 1_000_000


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def of(blocks: Sequence[Block], stream: str) -> list[Block]:
    return [
        Block(replace(block.header, key=BlockKey(StreamId(stream), block.key.number)), block.payload)
        for block in blocks
    ]


async def durable_us(serving: Serving, stream: str = "cam") -> int:
    epoch = durable_us.epoch = getattr(durable_us, "epoch", 100) + 1  # type: ignore[attr-defined]
    us: int = (await serving.open(stream, epoch)).state.durable_watermark_us
    return us


async def becomes_durable(serving: Serving, until_us: int, stream: str = "cam") -> None:
    async with asyncio.timeout(20):
        while await durable_us(serving, stream) < until_us:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_blocks_of_a_failed_sync_are_written_again(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path), view_tokens=10**6, fsync_s=0.05) as serving:
        await serving.open()
        serving.publish(*blocks[:4])
        await becomes_durable(serving, blocks[3].header.time.end_us)
        assert serving.reasoner.spiller is not None
        files = serving.reasoner.spiller.disk._files
        sync, failed = files.fdatasync, []

        def fails_once(fd: int) -> None:
            if not failed:
                failed.append(fd)
                raise OSError(5, "Input/output error")
            sync(fd)

        files.fdatasync = fails_once  # type: ignore[method-assign]
        serving.publish(*blocks[4:])
        await becomes_durable(serving, blocks[-1].header.time.end_us)
        assert failed
        assert not serving.reasoner.spiller.disk.missing(StreamId("cam"))
    async with serve(model, data_dir=str(tmp_path), view_tokens=10**6) as serving:
        state = (await serving.open(epoch=1000)).state
        assert (state.next_block_number, list(state.evicted)) == (len(blocks), [])


async def test_what_left_the_disk_leaves_ram_too(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RAM holds more than the disk may: blocks whose files were removed must not stay for ever."""
    monkeypatch.setattr(spill, "RETRY_S", 0.05)
    size = blocks[1].header.payload_bytes
    options = {"disk_bytes": 40 * size, "ram_bytes": max(65_536, 60 * size), "retrieve_blocks": 0}
    async with serve(model, data_dir=str(tmp_path), view_tokens=200, fsync_s=0.05, **options) as serving:
        assert serving.reasoner.spiller is not None
        disk = serving.reasoner.spiller.disk
        disk._settings = replace(disk._settings, file_bytes=8 * size)
        await serving.open()
        serving.publish(blocks[0])
        for number in range(1, 300):
            header = blocks[1 + number % 3].header
            at = TimeRange((number - 1) * SECOND_US, number * SECOND_US)
            header = replace(header, key=BlockKey(StreamId("cam"), number), time=at)
            async with asyncio.timeout(20):
                while True:
                    try:
                        serving.publish(Block(header, blocks[1 + number % 3].payload))
                        break
                    except LimitExceeded:
                        await asyncio.sleep(0.01)
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
        held = list(serving.reasoner.store.directory.stream(StreamId("cam")))
        newest = sorted(entry.key.number for entry in held if entry.ram is not None)[1:]
        assert newest == list(range(newest[0], 300)), "older blocks stay in RAM in place of newer ones"


async def test_a_stream_that_cannot_be_written_stops_no_other(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "DEFER_S", 0.2)
    async with serve(model, data_dir=str(tmp_path), view_tokens=10**6, fsync_s=0.05) as serving:
        assert serving.reasoner.spiller is not None
        disk, broken = serving.reasoner.spiller.disk, [True]
        append = disk.append

        def refuses(stream: StreamId, items: Any) -> Any:
            if stream == "bad" and broken:
                raise WrongState("not now")
            return append(stream, items)

        disk.append = refuses  # type: ignore[method-assign]
        for stream in ("bad", "cam"):
            await serving.open(stream)
            serving.publish(*of(blocks, stream))
        await becomes_durable(serving, blocks[-1].header.time.end_us)
        assert await durable_us(serving, "bad") == 0
        broken.clear()
        await becomes_durable(serving, blocks[-1].header.time.end_us, "bad")


async def test_one_questions_reads_do_not_use_up_anothers_time(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    options = {
        "data_dir": str(tmp_path),
        "view_tokens": 2 * blocks[-1].header.tokens,
        "retrieve_blocks": 8,
        "pool_bytes": 1 << 16,
    }
    async with serve(model, **options) as serving:
        for stream in ("slow", "quick"):
            await serving.open(stream)
            serving.publish(*of(blocks, stream))
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
    async with serve(model, **options) as serving:
        for stream in ("slow", "quick"):
            await serving.open(stream, 2)
        disk = serving.reasoner.spiller.disk  # type: ignore[union-attr]
        real = disk.read_layer_many

        def slowly(wants: Any, layer: int) -> Any:
            if wants and wants[0][0].stream == "slow":
                time.sleep(0.3)
            return real(wants, layer)

        disk.read_layer_many = slowly  # type: ignore[method-assign]

        def ask(stream: str, load_ms: int) -> Any:
            question = types_pb2.Question(
                question_id="q",
                text="what is it?",
                sampling=types_pb2.Sampling(max_tokens=4),
                retrieval=types_pb2.Retrieval(strategy="rekv", load_budget_ms=load_ms),
            )
            return read(serving.stub.Answer(reasoner_pb2.AnswerRequest(stream_id=stream, question=question)))

        # Both begin in the same pass.
        serving.reasoner.engine._commands.submit(lambda: time.sleep(0.3))
        slow, quick = await asyncio.gather(ask("slow", 0), ask("quick", 250))
        assert isinstance(quick, Said)
        assert quick.final.evidence.skipped == 0
        assert len(quick.final.evidence.recalled) >= 8
        assert slow.final.evidence.skipped == 0
