"""Tensor. A batch of units of several streams: vision tower, embedding, windowed prefill, packing.

Knows neither media nor links. Equal pictures are seen together, all streams are prefilled in one pass; what
runs together changes results by rounding only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder_svc.decode.pictures import Rgb
from encoder_svc.sample import Unit
from encoder_svc.window import Window
from kv_transfer.block import Block, pack_block
from kv_transfer.codecs import NotCodable
from tandem.core.blocks import BlockGeometry, BlockKey, BlockKind, Codec
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.embedder import Embedder, embedder_digits, to_bytes
from tandem.vlm.model import ForwardResult, VisionLanguageModel


@dataclass(frozen=True, slots=True)
class Seen:
    """One unit after the vision tower."""

    embeds: Tensor
    """Embeddings [tokens, hidden] of its block's tokens."""
    embedding: Tensor | None
    """float32 [E] of length 1: its picture for external retrieval; None without an embedder."""
    embedder: str = ""
    """What made the embedding, as headers name it."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive units of one stream."""

    stream: StreamId
    window: Window
    units: tuple[Unit[Rgb], ...]


def unit_size(unit: Unit[Rgb]) -> tuple[int, int]:
    """(height, width) that a unit is seen at: its last frame's, when the source changed in the middle."""
    height, width, _ = unit.frames[-1].shape
    return height, width


def unit_geometry(model: VisionLanguageModel, unit: Unit[Rgb]) -> BlockGeometry:
    """Geometry of the block that a unit becomes; its size was checked when it was decoded."""
    return model.prompt.geometry(model.grid(*unit_size(unit)))


def encode_sink(model: VisionLanguageModel, stream: StreamId, window: Window) -> Block:
    """Block 0 of a new stream; never coded: it is small, and every token attends to it."""
    geometry, result = window.open()
    keys, values = _on_host(result)
    return _pack(model, stream, 0, BlockKind.SINK, geometry, TimeRange(0, 0), keys, values)


def see_runs(
    model: VisionLanguageModel, runs: Sequence[Run], embedder: Embedder | None = None
) -> list[list[Seen]]:
    """Each run's units, seen. Windows stay as they are, also if it raises."""
    seen = _see(model, [unit for run in runs for unit in run.units], embedder)
    of_runs = []
    for run in runs:
        of_runs.append(seen[: len(run.units)])
        del seen[: len(run.units)]
    return of_runs


def prefill_runs(
    model: VisionLanguageModel,
    runs: Sequence[Run],
    seen: Sequence[Sequence[Seen]],
    codec: Codec = Codec.RAW,
) -> list[list[Block] | NotCodable]:
    """The blocks of each run, in order, or why `codec` cannot write them.

    If it raises, the windows are of no use any more.
    """
    geometries = [[unit_geometry(model, unit) for unit in run.units] for run in runs]
    steps = [
        run.window.prepare([unit.embeds for unit in of_units], of_run)
        for run, of_units, of_run in zip(runs, seen, geometries, strict=True)
    ]
    results = model.forward_many(steps)
    blocks: list[list[Block] | NotCodable] = []
    for run, of_units, of_run, result in zip(runs, seen, geometries, results, strict=True):
        run.window.complete()
        try:
            blocks.append(_pack_run(model, run, of_run, result, _embeddings(of_units), codec))
        except NotCodable as error:
            blocks.append(error)
    return blocks


def _see(model: VisionLanguageModel, units: Sequence[Unit[Rgb]], embedder: Embedder | None) -> list[Seen]:
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        alike[unit_size(unit)].append(index)
    found: dict[int, Seen] = {}
    for size, indices in alike.items():
        frames = torch.stack([_frames(units[index], size) for index in indices])
        seen = model.see(frames)
        together = model.unit_embeds(seen, [units[index].time.start_us for index in indices])
        pictures = embedder.pictures(frames, seen) if embedder is not None else [None] * len(indices)
        found.update(
            (index, Seen(of_tokens, picture, embedder_digits(embedder)))
            for index, of_tokens, picture in zip(indices, together, pictures, strict=True)
        )
    return [found[index] for index in range(len(units))]


def _frames(unit: Unit[Rgb], size: tuple[int, int]) -> Tensor:
    """[frames, height, width, 3]; a frame of another size shows what the last one shows."""
    last = unit.frames[-1]
    alike = [frame if frame.shape[:2] == size else last for frame in unit.frames]
    return torch.stack([_tensor(frame) for frame in alike])


def _tensor(rgb: Rgb) -> Tensor:
    # torch has no read-only tensors and warns about arrays that are.
    return torch.from_numpy(rgb if rgb.flags.writeable else rgb.copy())


def _embeddings(seen: Sequence[Seen]) -> list[tuple[bytes, str]]:
    """As headers hold them, with what made them, in one copy from the device."""
    pictures = [unit.embedding for unit in seen if unit.embedding is not None]
    found = to_bytes(torch.stack(pictures)) if pictures else [b""] * len(seen)
    return [(bits, unit.embedder if bits else "") for bits, unit in zip(found, seen, strict=True)]


def _pack_run(
    model: VisionLanguageModel,
    run: Run,
    geometries: Sequence[BlockGeometry],
    result: ForwardResult,
    embeddings: Sequence[tuple[bytes, str]],
    codec: Codec,
) -> list[Block]:
    keys, values = _on_host(result)
    blocks = []
    first = run.window.units - len(geometries)
    at = 0
    for index, geometry in enumerate(geometries):
        span = slice(at, at + geometry.tokens)
        at = span.stop
        time = run.units[index].time
        number = first + index + 1
        block = _pack(
            model,
            run.stream,
            number,
            BlockKind.VISUAL,
            geometry,
            time,
            keys[:, :, span],
            values[:, :, span],
            codec,
            *embeddings[index],
        )
        blocks.append(block)
    return blocks


def _on_host(result: ForwardResult) -> tuple[Tensor, Tensor]:
    """Raw keys and values [layers, kv_heads, tokens, head_dim] in one copy each."""
    assert result.raw_keys is not None, "the forward pass did not capture keys"
    assert result.raw_values is not None, "the forward pass did not capture values"
    return result.raw_keys.cpu(), result.raw_values.cpu()


def _pack(
    model: VisionLanguageModel,
    stream: StreamId,
    number: int,
    kind: BlockKind,
    geometry: BlockGeometry,
    time: TimeRange,
    keys: Tensor,
    values: Tensor,
    codec: Codec = Codec.RAW,
    embedding: bytes = b"",
    embedder: str = "",
) -> Block:
    key = BlockKey(stream, number)
    about = (key, kind, geometry, model.layout, model.fingerprint, time)
    return pack_block(*about, keys, values, codec=codec, embedding=embedding, embedder=embedder)
