"""A stream whose past on disk cannot be used begins anew: behind a gap, and as durable as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kv_transfer.block import Block
from tandem.core.timeline import TimeRange
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tests.integration.test_reasoner_memory import damage, written
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import serve

UNITS = 8


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


@pytest.fixture
def other_model() -> VisionLanguageModel:
    """The same sizes, another fingerprint."""
    model = load_model("dummy:tiny")
    model.fingerprint = "f" * 32
    return model


def later(blocks: list[Block], end_us: int) -> list[Block]:
    """What an encoder makes of a stream that goes on at `end_us`."""

    def move(block: Block) -> Block:
        time = block.header.time
        moved = TimeRange(time.start_us + end_us, time.end_us + end_us) if block.header.key.number else time
        return Block(replace(block.header, time=moved), block.payload)

    return [move(block) for block in blocks]


async def test_a_damaged_beginning_costs_what_follows_and_not_the_stream(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        await serving.open()
        serving.publish(*blocks)
        await written(serving)
    damage(tmp_path, blocks[0])
    end_us = blocks[-1].header.time.end_us
    async with serve(model, data_dir=str(tmp_path)) as serving:
        state = (await serving.open(epoch=2)).state
        assert (state.next_block_number, state.blocks) == (0, 0)
        assert (state.watermark_us, state.durable_watermark_us) == (end_us, end_us)
        assert [(part.start_us, part.end_us) for part in state.evicted] == [(0, end_us)]
        serving.publish(*later(blocks, end_us))
        await written(serving)
        said = await serving.ask()
        assert said.final.evidence.blocks == UNITS
    async with serve(model, data_dir=str(tmp_path)) as serving:
        assert (await serving.open(epoch=3)).state.blocks == UNITS


async def test_what_another_model_left_is_a_gap_and_holds_no_durability_back(
    model: VisionLanguageModel, other_model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path), fsync_s=0.05) as serving:
        await serving.open()
        serving.publish(*blocks)
        await written(serving)
    end_us = blocks[-1].header.time.end_us
    async with serve(other_model, data_dir=str(tmp_path), fsync_s=0.05) as serving:
        state = (await serving.open(epoch=2)).state
        assert (state.next_block_number, state.watermark_us) == (0, end_us)
        assert [(part.start_us, part.end_us) for part in state.evicted] == [(0, end_us)]
        new = later(encode_clip(other_model, make_frames(other_model, 3)), end_us)
        serving.publish(*new)
        record = serving.reasoner.streams.get(new[0].header.key.stream)
        await serving.until(lambda: record.durable_us == new[-1].header.time.end_us)
