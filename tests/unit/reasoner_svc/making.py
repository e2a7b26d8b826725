"""Builders for tests: headers and blocks with made-up bytes, and blocks that a real model encoded."""

from __future__ import annotations

import torch

from kv_transfer.block import Block, pack_block, seal_block
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, BlockKind, KVLayout
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.view import Part, View

FINGERPRINT = "0123456789abcdef0123456789abcdef"
LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=8, dtype="float32")
SECOND_US = 1_000_000


def make_header(
    number: int,
    *,
    stream: str = "cam",
    tokens: int = 4,
    layout: KVLayout = LAYOUT,
    seconds: tuple[float, float] | None = None,
) -> BlockHeader:
    """Number 0 is the sink; block n > 0 shows second n - 1, or `seconds`."""
    start_s, end_s = seconds if seconds is not None else (max(number - 1, 0), number)
    visual = number > 0
    return BlockHeader(
        key=BlockKey(StreamId(stream), number),
        kind=BlockKind.VISUAL if visual else BlockKind.SINK,
        geometry=BlockGeometry(
            text_before=0 if visual else tokens,
            grid_t=int(visual),
            grid_h=int(visual),
            grid_w=tokens if visual else 0,
            text_after=0,
        ),
        layout=layout,
        fingerprint=FINGERPRINT,
        time=TimeRange(round(start_s * SECOND_US), round(end_s * SECOND_US)),
        layer_checksums=tuple(range(number, number + layout.layers)),
    )


def make_block(number: int, **options: object) -> Block:
    """A block of random bytes with true checksums."""
    header = make_header(number, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(number)
    floats = torch.randn(header.payload_bytes // 4, generator=generator)
    return seal_block(header, floats.view(torch.uint8))


def make_frames(model: VisionLanguageModel, units: int, seed: int = 0) -> torch.Tensor:
    """uint8 [units, frames_per_unit, 56, 56, 3]"""
    generator = torch.Generator().manual_seed(seed)
    shape = (units, model.prompt.frames_per_unit, 56, 56, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def unit_times_us(model: VisionLanguageModel, units: int) -> list[int]:
    """Start of each unit at the model's own rate."""
    return [round(i * model.prompt.seconds_per_unit * SECOND_US) for i in range(units)]


def encode_clip(model: VisionLanguageModel, frames: torch.Tensor, stream: str = "cam") -> list[Block]:
    """The sink and one block a unit, encoded with everything in view, as an encoder would publish them."""
    prompt, times = model.prompt, unit_times_us(model, len(frames) + 1)
    ids = prompt.sink_tokens()
    sink_geometry = BlockGeometry(text_before=len(ids), grid_t=0, grid_h=0, grid_w=0, text_after=0)
    sink, run = model.new_segment(), model.new_segment()
    view = View(tail=Part(segment=sink))
    done = model.forward(model.embed(ids), prompt.local_positions(sink_geometry), view, capture=True)
    blocks = [_pack(model, stream, 0, BlockKind.SINK, sink_geometry, TimeRange(0, 0), done)]
    placement = prompt.placement()
    seen = model.see(frames)
    geometry = prompt.geometry(seen.grid)
    embeds = model.unit_embeds(seen, times[:-1])
    for unit in range(len(frames)):
        base = torch.tensor(placement.place_units([geometry])[0])[:, None]
        view = View(parts=(Part(segment=sink),), tail=Part(segment=run))
        done = model.forward(embeds[unit], prompt.local_positions(geometry) + base, view, capture=True)
        time = TimeRange(times[unit], times[unit + 1])
        blocks.append(_pack(model, stream, unit + 1, BlockKind.VISUAL, geometry, time, done))
    return blocks


def _pack(
    model: VisionLanguageModel,
    stream: str,
    number: int,
    kind: BlockKind,
    geometry: BlockGeometry,
    time: TimeRange,
    done: object,
) -> Block:
    key = BlockKey(StreamId(stream), number)
    keys, values = done.raw_keys, done.raw_values  # type: ignore[attr-defined]
    return pack_block(key, kind, geometry, model.layout, model.fingerprint, time, keys, values)
