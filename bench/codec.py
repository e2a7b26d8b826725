"""What block codecs save and what they cost, with the embedded default model on one long held-out stream.

Per codec, over all visual blocks of the stream:

``bytes_<codec>``: payload of one block; the ratio is to *raw*.
``error_keys_<codec>``, ``error_values_<codec>``: root mean square of what moved, over that of the numbers.
``encode_<codec>``, ``decode_<codec>``: bytes of the model's own numbers a second, a block at a time, as the
services do it; the baseline is *raw*, a copy in both directions. Medians of interleaved turns.
``right_<codec>``: questions answered right word for word with retrieval (*rekv*); ``same_<codec>``: answered
with the very words of *raw*. The encoder's window is never coded, nor is the sink.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import torch

from bench._streams import Answered, Parts, ask_all, encode
from kv_transfer.block import Block
from kv_transfer.codecs import Half, encode_half
from tandem.core.blocks import BlockKind, Codec
from tandem.shapes.streams import Stream, draw_stream

FRAMES, QUICK_FRAMES = 1000, 120
TURNS, QUICK_TURNS = 15, 3
SEED = 0
SETTINGS = {"model": "default", "strategy": "rekv", "seed": SEED}
Row = dict[str, Any]


def run(*, quick: bool = False) -> list[Row]:
    """Rows for every codec."""
    stream = draw_stream(SEED, QUICK_FRAMES if quick else FRAMES)
    blocks = {codec: _blocks(codec, stream) for codec in Codec}
    raw = blocks[Codec.RAW]
    rows = []
    for codec, coded in blocks.items():
        size, of_raw = coded[0].header.payload_bytes, raw[0].header.payload_bytes
        rows.append(_row(f"bytes_{codec}", size, "B", baseline=of_raw, n=len(coded)))
        for name, half in (("keys", Half.KEYS), ("values", Half.VALUES)):
            rows.append(_row(f"error_{name}_{codec}", _error(raw, coded, half), "fraction", n=len(coded)))
    rows += _speeds(raw, blocks, QUICK_TURNS if quick else TURNS)
    answers = {codec: _answers(codec, stream) for codec in Codec}
    for codec, found in answers.items():
        same = fmean(a.text == b.text for a, b in zip(found, answers[Codec.RAW], strict=True))
        right = fmean(answer.right for answer in found)
        rows.append(_row(f"right_{codec}", right, "fraction", n=len(found)))
        rows.append(_row(f"same_{codec}", same, "fraction", n=len(found)))
    return rows


def _blocks(codec: Codec, stream: Stream) -> list[Block]:
    runs = encode(Parts("default", codec=codec), stream)
    return [block for run in runs for block in run if block.header.kind is BlockKind.VISUAL]


def _answers(codec: Codec, stream: Stream) -> list[Answered]:
    return asyncio.run(ask_all(Parts("default", codec=codec), stream, full=False))["rekv"]


def _error(raw: Sequence[Block], coded: Sequence[Block], half: Half) -> float:
    moved = whole = 0.0
    for exact, other in zip(raw, coded, strict=True):
        numbers, found = (
            (block.keys() if half is Half.KEYS else block.values()).double() for block in (exact, other)
        )
        moved += float((found - numbers).square().sum())
        whole += float(numbers.square().sum())
    return (moved / whole) ** 0.5


def _speeds(raw: Sequence[Block], blocks: dict[Codec, list[Block]], turns: int) -> list[Row]:
    written: dict[Codec, list[float]] = {codec: [] for codec in Codec}
    read: dict[Codec, list[float]] = {codec: [] for codec in Codec}
    sample = raw[: min(200, len(raw))]
    for _ in range(turns):
        for codec, coded in blocks.items():
            written[codec].append(_write_all(sample, codec))
            read[codec].append(_read_all(coded[: len(sample)]))
    amount = sum(block.header.payload_bytes for block in sample) / 1e9
    rows = []
    for name, taken in (("encode", written), ("decode", read)):
        base = amount / median(taken[Codec.RAW])
        for codec, seconds in taken.items():
            rates = [amount / one for one in seconds]
            more = {"baseline": base, "n": turns, "spread": (max(rates) - min(rates)) / median(rates)}
            rows.append(_row(f"{name}_{codec}", median(rates), "GB/s", **more))
    return rows


def _write_all(sample: Sequence[Block], codec: Codec) -> float:
    """Seconds."""
    layout, tokens = sample[0].header.layout, sample[0].header.tokens
    keys_bytes, values_bytes = layout.half_bytes(tokens, codec)
    out = torch.empty(layout.layers, keys_bytes + values_bytes, dtype=torch.uint8)
    began_s = time.perf_counter()
    for block in sample:
        encode_half(block.keys(), codec, Half.KEYS, out[:, :keys_bytes])
        encode_half(block.values(), codec, Half.VALUES, out[:, keys_bytes:])
    return time.perf_counter() - began_s


def _read_all(sample: Sequence[Block]) -> float:
    """Seconds."""
    began_s = time.perf_counter()
    for block in sample:
        for numbers in (block.keys(), block.values()):
            if block.header.codec is Codec.RAW:
                numbers.clone()
    return time.perf_counter() - began_s


def _row(metric: str, value: float, unit: str, **more: Any) -> Row:
    row: Row = {"baseline": None, "n": 1, "spread": None, **more}
    ratio = None if row["baseline"] is None else value / row["baseline"]
    return {"metric": metric, "value": value, "unit": unit, "ratio": ratio, **row}
