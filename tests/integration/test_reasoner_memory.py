"""Older video comes back into view: from RAM and from disk, after a restart, and never damaged."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from kv_transfer.block import Block
from tandem.core.errors import BadQuestion, InvalidInput, LimitExceeded
from tandem.core.ids import StreamId
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Said, Serving, error_of, read, serve

UNITS = 24


@pytest.fixture(scope="module", params=("dummy:tiny", "dummy:tiny-timestamped"))
def model(request: pytest.FixtureRequest) -> VisionLanguageModel:
    return load_model(request.param)


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def recent(blocks: list[Block], units: int) -> int:
    """`view_tokens` that hold the last `units`."""
    return units * blocks[-1].header.tokens


async def ask(serving: Serving, strategy: str = "", blocks: int = 0, load_ms: int = 0) -> Said:
    return await read(call(serving, strategy, blocks, load_ms))


def call(serving: Serving, strategy: str = "", blocks: int = 0, load_ms: int = 0, **limits: Any) -> Any:
    wish = types_pb2.Retrieval(strategy=strategy, blocks=blocks, load_budget_ms=load_ms, **limits)
    question = types_pb2.Question(
        question_id="q", text="what is it?", sampling=types_pb2.Sampling(max_tokens=12), retrieval=wish
    )
    return serving.stub.Answer(reasoner_pb2.AnswerRequest(stream_id="cam", question=question))


async def full_attention(model: VisionLanguageModel, blocks: list[Block]) -> Said:
    async with serve(model, view_tokens=10**6) as serving:
        await serving.open()
        serving.publish(*blocks)
        return await ask(serving)


async def written(serving: Serving) -> None:
    await serving.until(lambda: serving.reasoner.store.unwritten == 0)


async def test_recalling_everything_is_full_attention(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    expected = await full_attention(model, blocks)
    async with serve(model, view_tokens=recent(blocks, 5), retrieve_blocks=UNITS) as serving:
        await serving.open()
        serving.publish(*blocks)
        for strategy in ("rekv", "uniform"):
            said = await ask(serving, strategy)
            assert said.tokens == expected.tokens
            evidence = said.final.evidence
            assert (evidence.blocks, evidence.strategy) == (UNITS, strategy)
            assert len(evidence.recalled) == UNITS - 5
            assert all(block.layers == model.layout.layers for block in evidence.recalled)
            assert said.final.usage.context_tokens == expected.final.usage.context_tokens
        older = serving.reasoner.store.directory.stream(StreamId("cam"))[1 : UNITS - 4]
        assert [entry.reads for entry in older] == [2] * len(older), "once a question, not once a layer"
        nothing_older = await ask(serving, "recent")
        assert nothing_older.final.evidence.blocks == 5


async def test_what_left_ram_comes_back_from_disk(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    expected = await full_attention(model, blocks)
    size = blocks[-1].header.payload_bytes
    async with serve(
        model,
        view_tokens=recent(blocks, 5),
        retrieve_blocks=UNITS,
        ram_bytes=max(65_536, 6 * size),
        data_dir=str(tmp_path),
    ) as serving:
        await serving.open()
        for block in blocks:
            await publish(serving, block)
        await written(serving)
        said = await ask(serving)
        assert said.tokens == expected.tokens
        assert said.final.evidence.disk_bytes > 0
        assert not said.final.evicted
        again = await ask(serving)
        assert again.tokens == expected.tokens
        assert again.final.evidence.disk_bytes == 0, "the same blocks were read twice"
        assert serving.reasoner.store.ram_allocated_bytes <= max(65_536, 6 * size)


def folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()]


def data_files(root: Path) -> list[Path]:
    return list(root.glob("*/*.tkv"))


def damage(root: Path, block: Block) -> None:
    """Flip one bit of a block where it lies on disk."""
    payload = block.payload.numpy().tobytes()
    for path in root.glob("*/*.tkv"):
        data = bytearray(path.read_bytes())
        at = bytes(data).find(payload)
        if at >= 0:
            data[at + 5] ^= 1
            path.write_bytes(data)
            return
    raise AssertionError("the block is on no disk")


async def publish(serving: Serving, block: Block) -> None:
    """As an encoder would: again when there is no room yet."""
    while True:
        try:
            return serving.publish(block)
        except LimitExceeded:
            await asyncio.sleep(0.01)


async def test_a_stream_goes_on_after_a_restart(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    expected = await full_attention(model, blocks)
    settings = {"view_tokens": recent(blocks, 5), "retrieve_blocks": UNITS, "data_dir": str(tmp_path)}
    async with serve(model, **settings) as serving:
        await serving.open()
        serving.publish(*blocks[: UNITS - 3])
        await written(serving)
    async with serve(model, **settings) as serving:
        state = (await serving.open(epoch=2)).state
        assert state.next_block_number == UNITS - 3
        assert state.watermark_us == blocks[UNITS - 4].header.time.end_us
        serving.publish(*blocks[UNITS - 3 :])
        said = await ask(serving)
        assert said.tokens == expected.tokens
        assert said.final.evidence.blocks == UNITS
        await serving.close()
        assert not folders(tmp_path), "closing a stream deletes it"


async def test_a_damaged_block_is_left_out_and_told(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    settings = {"view_tokens": recent(blocks, 5), "retrieve_blocks": UNITS, "data_dir": str(tmp_path)}
    async with serve(model, **settings) as serving:
        await serving.open()
        serving.publish(*blocks)
        await written(serving)
    damage(tmp_path, blocks[4])
    async with serve(model, **settings) as serving:
        await serving.open(epoch=2)
        said = await ask(serving)
        assert said.final.evidence.lost >= 1
        bad_us = blocks[4].header.time.start_us
        layers = {block.time.start_us: block.layers for block in said.final.evidence.recalled}
        # The flipped bit lies in its first layer; others may have been read before the loss was known.
        assert layers.pop(bad_us, 0) < model.layout.layers
        assert set(layers.values()) == {model.layout.layers}, "the others are whole"
        again = await ask(serving)
        times = {block.time.start_us for block in again.final.evidence.recalled}
        assert bad_us not in times
        assert [r.start_us for r in again.final.evicted] == [bad_us]


async def test_an_unknown_strategy_is_refused(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model, view_tokens=recent(blocks, 5), retrieve_blocks=4) as serving:
        await serving.open()
        serving.publish(*blocks)
        error = await error_of(call(serving, "by-magic"))
        assert isinstance(error, BadQuestion)
        assert "rekv" in error.message
        layers = model.layout.layers
        for asked, limit in ((3, 3), (9, 4)):  # the reasoner's own limit holds too
            evidence = (await ask(serving, blocks=asked)).final.evidence
            # Each layer chooses its own: the limit holds for each of them.
            assert sum(block.layers for block in evidence.recalled) == limit * layers
            assert all(block.layers <= layers for block in evidence.recalled)
            assert evidence.blocks == 5 + len(evidence.recalled)


@pytest.mark.parametrize("fsync_s", [0.0, 0.05, -1.0])
async def test_it_is_told_what_is_durable(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path, fsync_s: float
) -> None:
    async with serve(model, data_dir=str(tmp_path), fsync_s=fsync_s) as serving:
        state = (await serving.open()).state
        assert state.HasField("durable_watermark_us")
        assert (state.durable_watermark_us, state.disk_bytes) == (0, 0)
        serving.publish(*blocks)
        async with asyncio.timeout(20):
            while state.durable_watermark_us < blocks[-1].header.time.end_us:
                state = (await serving.open()).state
                await asyncio.sleep(0.02)
        assert state.disk_bytes >= sum(block.header.payload_bytes for block in blocks)
    async with serve(model) as serving:
        assert not (await serving.open()).state.HasField("durable_watermark_us")


async def opened(serving: Serving, epoch: int, incarnation: str = "", *, fresh: bool = False) -> int:
    request = reasoner_pb2.OpenStreamRequest(
        stream_id="cam", epoch=epoch, incarnation=incarnation, fresh=fresh
    )
    number: int = (await serving.stub.OpenStream(request)).state.next_block_number
    return number


async def test_a_fresh_stream_does_not_use_what_had_its_name(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        assert await opened(serving, 1, fresh=True) == 0
        serving.publish(*blocks[:9])
        await written(serving)
    async with serve(model, data_dir=str(tmp_path)) as serving:
        assert await opened(serving, 1, fresh=True) == 0
        assert not data_files(tmp_path)
        serving.publish(*blocks[:5])
        assert await opened(serving, 1, fresh=True) == 5, "a repeated call changes nothing"
        assert await opened(serving, 2) == 5
        assert await opened(serving, 3, fresh=True) == 0


@pytest.mark.parametrize("disk", [False, True])
async def test_another_incarnation_takes_nothing_over(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path, *, disk: bool
) -> None:
    settings = {"data_dir": str(tmp_path)} if disk else {}
    async with serve(model, **settings) as serving:
        assert await opened(serving, 1, "one", fresh=True) == 0
        serving.publish(*blocks[:9])
        assert await opened(serving, 1, "one", fresh=True) == 9, "a repeated call changes nothing"
        assert await opened(serving, 2, "one", fresh=True) == 9, "it is this one's"
        assert await opened(serving, 2, "two", fresh=True) == 0, "at the same epoch too"
        assert await opened(serving, 1, "three") == 0, "and at a smaller one"
        serving.publish(*blocks[:3])
        assert await opened(serving, 2, "three") == 3
        assert isinstance(await error_of(open_call(serving, "no id")), InvalidInput)


def open_call(serving: Serving, incarnation: str) -> Any:
    return serving.stub.OpenStream(
        reasoner_pb2.OpenStreamRequest(stream_id="cam", epoch=9, incarnation=incarnation)
    )


async def test_what_another_incarnation_has_on_disk_is_set_aside_and_not_deleted(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        await opened(serving, 1, "one", fresh=True)
        serving.publish(*blocks[:9])
        await written(serving)
        await serving.stub.CloseStream(reasoner_pb2.CloseStreamRequest(stream_id="cam", keep_disk=True))
        assert await opened(serving, 1, "one") == 9
    written_bytes = sum(path.stat().st_size for path in data_files(tmp_path))
    async with serve(model, data_dir=str(tmp_path)) as serving:
        assert await opened(serving, 1, "one", fresh=True) == 9, "whatever the caller remembers"
    async with serve(model, data_dir=str(tmp_path)) as serving:
        assert await opened(serving, 1, "two") == 0
        assert not data_files(tmp_path)
        assert sum(path.stat().st_size for path in data_files(tmp_path / "s-cam")) == written_bytes
        assert serving.reasoner.spiller is not None
        assert serving.reasoner.spiller.disk.used_bytes >= written_bytes, "it counts"
        serving.publish(*blocks[:3])
        await written(serving)
    async with serve(model, data_dir=str(tmp_path)) as serving:
        assert await opened(serving, 2, "two") == 3
        await serving.close()
        assert not folders(tmp_path), "it goes with the stream"


async def test_an_opening_whose_caller_left_can_be_repeated(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        await serving.open()
        serving.publish(*blocks[:5])
        await written(serving)
    async with serve(model, data_dir=str(tmp_path)) as serving:
        for timeout_s in (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016):
            request = reasoner_pb2.OpenStreamRequest(stream_id="cam", epoch=2)
            with suppress(grpc.aio.AioRpcError):
                await serving.stub.OpenStream(request, timeout=timeout_s)
        assert (await serving.open(epoch=3)).state.next_block_number == 5
        await asyncio.gather(serving.close(), serving.close(), serving.open("other"))
        assert not [folder for folder in folders(tmp_path) if folder.name == "s-cam"]


async def test_a_question_says_how_much_comes_back(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(
        model, view_tokens=recent(blocks, 5), retrieve_blocks=12, other_retrieval=("rekv_cosine",)
    ) as serving:
        await serving.open()
        serving.publish(*blocks)
        layers, tokens = model.layout.layers, blocks[-1].header.tokens

        async def loaded(**limits: Any) -> float:
            """Older blocks in view, in the mean over layers."""
            said = await read(call(serving, "rekv", **limits))
            return sum(block.layers for block in said.final.evidence.recalled) / layers

        assert await loaded() == 12
        assert await loaded(tokens=3 * tokens) == 3
        assert 11 <= await loaded(chunk=4) <= 12, "the newest chunk has three"
        assert await loaded(mass=1e-9) == 1, "the best alone has that share"
        cosine = await read(call(serving, "rekv_cosine"))
        assert cosine.final.evidence.strategy == "rekv_cosine"
        for mass in (-0.1, 1.1, float("nan")):
            assert isinstance(await error_of(call(serving, mass=mass)), BadQuestion)
