"""Blocks carry the embedding of their own picture, over the wire too; without an embedder they carry none."""

from __future__ import annotations

import asyncio

import numpy as np
import torch

from encoder_svc.lanes import LoopConfig
from encoder_svc.loop import EncodeLoop
from encoder_svc.sample import Unit
from kv_transfer.block import Block
from tandem.core.blocks import BlockKind
from tandem.core.timeline import TimeRange
from tandem.shapes.draw import random_pictures
from tandem.shapes.words import COLOUR_NAMES, SHAPES
from tandem.vlm.embedder import Embedder, from_bytes
from tandem.vlm.embedders.pick import load_embedder
from tandem.vlm.model import VisionLanguageModel, VisualUnits
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.unit.encoder_svc.media import Rgb, picture
from tests.unit.encoder_svc.rig import END, make_rig, model, send_pictures
from tests.unit.encoder_svc.test_loop import Taker


def pooled() -> Embedder:
    embedder = load_embedder("pooled", "default")
    assert embedder is not None
    return embedder


def alone(vlm: VisionLanguageModel, embedder: Embedder, rgb: Rgb) -> torch.Tensor:
    """The embedding of one picture, without any stream."""
    frames = torch.from_numpy(rgb.copy())[None, None]
    return embedder.pictures(frames, vlm.see(frames))[0]


async def encode(
    vlm: VisionLanguageModel, embedder: Embedder | None, streams: list[list[tuple[Rgb, ...]]]
) -> list[list[Block]]:
    """The blocks of streams that are encoded together, without their sinks."""
    loop = EncodeLoop(vlm, LoopConfig(window_units=3, run_units=4, batch_units=8), embedder)
    takers = [Taker(f"s{number}") for number in range(len(streams))]
    for taker, units in zip(takers, streams, strict=True):
        loop.open(taker.lane)
        for index, frames in enumerate(units):
            time = TimeRange(index * 1_000_000, (index + 1) * 1_000_000)
            loop.submit(taker.lane, index + 1, Unit(time, frames))
    loop.start()
    blocks = []
    for taker, units in zip(takers, streams, strict=True):
        await taker.until(len(units) + 1)
        assert not taker.errors
        assert taker.blocks[0][1].header.kind is BlockKind.SINK
        assert taker.blocks[0][1].header.embedding == b""
        blocks.append([block for _, block in taker.blocks[1:]])
    await loop.close()
    return blocks


async def test_each_block_has_the_embedding_of_its_own_picture() -> None:
    vlm, embedder = model("default"), pooled()
    # Of different sizes, so that units of a batch are not all seen together.
    streams = [
        [(picture(10 * number + index, *((64, 48) if index % 2 else (80, 60))),) for index in range(9)]
        for number in range(2)
    ]
    for units, blocks in zip(streams, await encode(vlm, embedder, streams), strict=True):
        for (rgb,), block in zip(units, blocks, strict=True):
            mine = alone(vlm, embedder, rgb)
            assert torch.allclose(from_bytes(block.header.embedding), mine, atol=1e-3)


async def test_a_question_finds_what_it_names_among_a_streams_blocks() -> None:
    vlm, embedder = model("default"), pooled()
    things = [(SHAPES.index(shape), COLOUR_NAMES.index(colour)) for shape, colour in NAMED]
    shapes, colours = (np.array(side) for side in zip(*things, strict=True))
    pictures = random_pictures(np.random.default_rng(77), shapes, colours)
    (blocks,) = await encode(vlm, embedder, [[(rgb,) for rgb in pictures]])
    shown = torch.stack([from_bytes(block.header.embedding) for block in blocks])
    best = (shown @ embedder.text("when was the red star shown?")).argmax()
    assert NAMED[int(best)] == ("star", "red")
    stars = (shown @ embedder.text("how many stars were there?")).topk(2).indices.tolist()
    assert sorted(NAMED[index] for index in stars) == [("star", "blue"), ("star", "red")]


NAMED = [
    *(("moon", "red"), ("circle", "blue"), ("star", "blue"), ("heart", "green"), ("star", "red")),
    *(("square", "white"), ("cross", "red"), ("arrow", "pink")),
]


class LastFrame:
    """An embedder that tells which frames it was given: their mean colour."""

    name, dim, fingerprint = "last", 3, "0" * 32

    def pictures(self, frames: torch.Tensor, seen: VisualUnits) -> torch.Tensor:
        assert len(frames) == len(seen.embeds)
        colours = frames[:, -1].float().mean((1, 2))
        return torch.nn.functional.normalize(colours, dim=-1) * (colours.amax(-1, keepdim=True) > 0)

    def text(self, question: str) -> torch.Tensor:
        raise NotImplementedError


async def test_any_embedder_gets_the_frames_and_a_picture_without_a_direction_gets_none() -> None:
    vlm = model("dummy:tiny")
    assert vlm.prompt.frames_per_unit == 2
    red, green, black = (np.full((48, 64, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 9, 0), 0))
    (blocks,) = await encode(vlm, LastFrame(), [[(red, green), (green, red), (red, black)]])
    kept = [block.header.embedding for block in blocks]
    assert [from_bytes(embedding).tolist() for embedding in kept[:2]] == [[0, 1, 0], [1, 0, 0]]
    assert kept[2] == b""


async def test_embeddings_go_over_the_wire_and_change_no_keys() -> None:
    embedder = pooled()
    kept: list[list[Block]] = []
    for of_rig in (embedder, None):
        # One unit a run, so that results do not depend on how fast the pictures came.
        async with make_rig("default", embedder=of_rig, run_units=1, batch_units=1) as rig:
            call = await rig.open("s", types_pb2.MEDIA_KIND_PICTURES)
            await send_pictures(call, range(5))
            await call.send(end=END)
            await asyncio.wait_for(call.over(), 60)
            kept.append(rig.reasoner.shelf.of("s"))
    with_it, without = kept
    assert len(with_it) == len(without) == 6
    assert [block.header.embedding for block in without] == [b""] * 6
    assert with_it[0].header.embedding == b""
    for index, (block, plain) in enumerate(zip(with_it[1:], without[1:], strict=True)):
        mine = alone(model("default"), embedder, picture(index))
        # The service resizes pictures on its way; what is shown is the same.
        assert float(from_bytes(block.header.embedding) @ mine) > 0.99
        assert block.header.layer_checksums == plain.header.layer_checksums
