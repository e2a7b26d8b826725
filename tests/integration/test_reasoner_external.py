"""External retrieval through a running reasoner, after a restart too; blocks in smaller codecs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kv_transfer.block import Block, pack_block
from tandem.core.blocks import BlockKind, Codec
from tandem.core.errors import BadQuestion
from tandem.vlm.embedder import embedder_digits, to_bytes, unit_length
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Said, Serving, error_of, read, serve

UNITS, RECENT, WANTED = 24, 5, 3


class Compass:
    """Embeds "<degrees> ..." as a direction: whoever shows about that angle is meant."""

    name = "compass"
    dim = 2

    def __init__(self, fingerprint: str = "c0" * 16) -> None:
        self.fingerprint = fingerprint

    def text(self, question: str) -> Tensor:
        return direction(float(question.split()[0]))


def direction(degrees: float) -> Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return unit_length(torch.stack((angle.cos(), angle.sin())))


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def plain(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def embedded(plain: list[Block], embedder: Compass) -> list[Block]:
    """Block n shows 10 n degrees."""
    blocks = plain[:1]
    for block in plain[1:]:
        (bits,) = to_bytes(direction(10.0 * block.key.number)[None])
        header = replace(block.header, embedding=bits, embedder=embedder_digits(embedder))
        blocks.append(Block(header, block.payload))
    return blocks


def coded(plain: list[Block], codec: Codec) -> list[Block]:
    """The same blocks as an encoder with this codec would send them."""
    out = plain[:1]
    for block in plain[1:]:
        h = block.header
        about = (h.key, h.kind, h.geometry, h.layout, h.fingerprint, h.time)
        out.append(pack_block(*about, block.keys(), block.values(), codec=codec))
    return out


def settings(plain: list[Block], **more: Any) -> dict[str, Any]:
    return {"view_tokens": RECENT * plain[-1].header.tokens, "retrieve_blocks": WANTED, **more}


def call(serving: Serving, text: str = "70 degrees, please", strategy: str = "external") -> Any:
    question = types_pb2.Question(
        question_id="q",
        text=text,
        sampling=types_pb2.Sampling(max_tokens=12),
        retrieval=types_pb2.Retrieval(strategy=strategy),
    )
    return serving.stub.Answer(reasoner_pb2.AnswerRequest(stream_id="cam", question=question))


def recalled(said: Said, blocks: list[Block]) -> list[int]:
    """Numbers of the older blocks that came back, each in every layer."""
    number = {block.header.time.start_us: block.key.number for block in blocks[1:]}
    layers = blocks[-1].header.layout.layers
    assert all(block.layers == layers for block in said.final.evidence.recalled)
    return sorted(number[block.time.start_us] for block in said.final.evidence.recalled)


async def test_what_a_question_means_is_found_before_and_after_a_restart(
    model: VisionLanguageModel, plain: list[Block], tmp_path: Path
) -> None:
    embedder = Compass()
    blocks = embedded(plain, embedder)
    options = settings(plain, data_dir=str(tmp_path))
    async with serve(model, embedder=embedder, **options) as serving:
        await serving.open()
        serving.publish(*blocks)
        assert recalled(await read(call(serving)), blocks) == [6, 7, 8]
        assert recalled(await read(call(serving, "120 degrees")), blocks) == [11, 12, 13]
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
    async with serve(model, embedder=embedder, **options) as serving:
        await serving.open(epoch=2)
        assert recalled(await read(call(serving)), blocks) == [6, 7, 8]


@pytest.mark.parametrize("made_by", [None, Compass("0d" * 16)])
async def test_embeddings_that_cannot_be_compared_are_an_error_and_other_strategies_go_on(
    model: VisionLanguageModel, plain: list[Block], made_by: Compass | None
) -> None:
    blocks = plain if made_by is None else embedded(plain, made_by)
    async with serve(model, embedder=Compass(), **settings(plain)) as serving:
        await serving.open()
        serving.publish(*blocks)
        error = await error_of(call(serving))
        assert isinstance(error, BadQuestion)
        assert "same --embedder" in error.message
        assert (await read(call(serving, strategy="rekv"))).final.evidence.recalled


async def test_blocks_of_two_embedders_in_one_stream_are_told_apart(
    model: VisionLanguageModel, plain: list[Block]
) -> None:
    mine, theirs = Compass(), Compass("0d" * 16)
    blocks = [*embedded(plain, theirs)[:10], *embedded(plain, mine)[10:]]
    async with serve(model, embedder=mine, **settings(plain)) as serving:
        await serving.open()
        serving.publish(*blocks)
        assert recalled(await read(call(serving, "95 degrees")), blocks) == [10, 11, 12]


async def test_strategies_that_compare_blocks_take_both_kinds(
    model: VisionLanguageModel, plain: list[Block]
) -> None:
    mine, theirs = Compass(), Compass("0d" * 16)
    blocks = [*embedded(plain, theirs)[:10], *embedded(plain, mine)[10:]]
    others = ("flash_vstream", "video_streaming")
    async with serve(model, embedder=mine, **settings(plain, other_retrieval=others)) as serving:
        await serving.open()
        serving.publish(*blocks)
        for strategy in others:
            assert (await read(call(serving, strategy=strategy))).final.evidence.recalled


async def test_a_name_too_long_for_a_strategy_is_a_short_error(
    model: VisionLanguageModel, plain: list[Block]
) -> None:
    async with serve(model, **settings(plain)) as serving:
        await serving.open()
        serving.publish(*plain)
        error = await error_of(call(serving, strategy="x" * 100_000))
        assert isinstance(error, BadQuestion)
        assert len(error.message) < 200


@pytest.mark.parametrize("codec", [codec for codec in Codec if codec is not Codec.RAW])
async def test_coded_blocks_are_recalled_from_ram_and_disk_as_they_are_seen_in_view(
    model: VisionLanguageModel, plain: list[Block], codec: Codec, tmp_path: Path
) -> None:
    blocks = coded(plain, codec)
    assert all(block.header.codec is codec for block in blocks if block.header.kind is BlockKind.VISUAL)
    async with serve(model, view_tokens=10**6) as serving:
        await serving.open()
        serving.publish(*blocks)
        expected = await read(call(serving, strategy=""))
    options = settings(plain, retrieve_blocks=UNITS, data_dir=str(tmp_path))
    async with serve(model, **options) as serving:
        await serving.open()
        serving.publish(*blocks)
        assert (await read(call(serving, strategy="rekv"))).tokens == expected.tokens
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
    async with serve(model, **options) as serving:
        await serving.open(epoch=2)
        said = await read(call(serving, strategy="rekv"))
        assert said.final.evidence.disk_bytes > 0
        assert said.tokens == expected.tokens
