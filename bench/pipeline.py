"""The whole path beside the bare model: frames per second in, and time from a question to its first token.

``frames_per_second``: pictures pushed through the front door as fast as it takes them until all are
published, next to the bare forward pass (vision tower and sliding-window prefill, same run length, same
pictures already in memory) in this process; the two take turns. The headline row uses a dummy model large
enough that the forward pass is the work (`dummy:small`); ``frames_per_second_default`` is the embedded model,
whose forward pass is a few milliseconds and so shows the cost of everything else.

``ttft_<N>s``: from the question leaving the client to the first text arriving, over N seconds of published
video, next to transformers' ``generate()`` of one token, which encodes the video anew.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tandem
from encoder_svc.app import DEFAULT_WINDOW_UNITS
from encoder_svc.config import EncoderConfig
from encoder_svc.window import Window
from tandem.client import Client, PictureFormat
from tandem.client.types import MediaKind, MediaOptions
from tandem.commands.local import local_services
from tandem.core.timeline import MICROSECONDS
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.unsplit import stock_inputs, stock_model

SETTINGS = {"picture": "320x240 RGB24", "question": "what colour was the star?", "threads": 1}
QUESTION = "what colour was the star?"
SECONDS = (10, 60, 600)
_TTFT_MODEL = "default"
_FPS_MODELS = {"frames_per_second": "dummy:small", "frames_per_second_default": "default"}
Row = dict[str, Any]


def run(*, quick: bool = False) -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    # Encoder and baseline get one thread each, so that neither borrows the other's core.
    torch.set_num_threads(1)
    rows: list[Row] = []
    for metric, source in _FPS_MODELS.items():
        frames, turns = (64, 2) if quick else (256, 7) if source == "default" else (96, 7)
        rows.append(asyncio.run(_frames_per_second(metric, source, frames, turns)))
    rows += asyncio.run(_first_tokens(SECONDS[:2] if quick else SECONDS, 3 if quick else 7))
    return rows


async def _frames_per_second(metric: str, source: str, frames: int, turns: int) -> Row:
    model = load_model(source)
    pictures = _pictures(frames)
    ours, bare = [], []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as run_dir:
        async with (
            local_services(Path(run_dir), "--model", source, "--threads", "1") as address,
            tandem.connect(address) as client,
        ):
            _bare_forward(model, pictures[: len(pictures) // 4])
            await _push_all(client, model, pictures[: len(pictures) // 4], "warm-up")
            for turn in range(turns):
                bare.append(_seconds(lambda: _bare_forward(model, pictures)))
                began_s = time.perf_counter()
                await _push_all(client, model, pictures, f"turn-{turn}")
                ours.append(time.perf_counter() - began_s)
    rates = [frames / seconds for seconds in ours]
    ratios = [theirs / seconds for theirs, seconds in zip(bare, ours, strict=True)]
    return _row(metric, rates, "1/s", frames / statistics.median(bare), statistics.median(ratios))


def _pictures(frames: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (frames, 240, 320, 3), np.uint8)


@torch.no_grad()
def _bare_forward(model: VisionLanguageModel, pictures: np.ndarray[Any, Any]) -> None:
    """Vision tower and windowed prefill of all pictures, in runs as long as the encoder's."""
    per_unit, run = model.prompt.frames_per_unit, EncoderConfig().run_units
    units = torch.from_numpy(pictures).unflatten(0, (-1, per_unit))
    window = Window(model, model.prompt.window_units or DEFAULT_WINDOW_UNITS)
    window.open()
    for start in range(0, len(units), run):
        seen = model.see(units[start : start + run])
        times_us = [round(_unit_us(model) * (start + i)) for i in range(len(seen.embeds))]
        embeds = model.unit_embeds(seen, times_us)
        step = window.prepare(list(embeds), [model.prompt.geometry(seen.grid)] * len(embeds))
        model.forward(step.embeds, step.positions, step.view)
        window.complete()


def _unit_us(model: VisionLanguageModel) -> float:
    return model.prompt.seconds_per_unit * MICROSECONDS


async def _push_all(
    client: Client, model: VisionLanguageModel, pictures: np.ndarray[Any, Any], stream_id: str
) -> None:
    """Feed a stream and wait until all of it is published."""
    step_us = _unit_us(model) / model.prompt.frames_per_unit
    media = MediaOptions(kind=MediaKind.PICTURES, sample_fps=MICROSECONDS / step_us)
    async with client.watch(media, stream_id=stream_id) as stream:
        await _push(stream, pictures, step_us)
        last = await stream.end(forget=True)
    expected = len(pictures) // model.prompt.frames_per_unit
    assert last.blocks == expected, f"{last.blocks} blocks of {expected} were published"


async def _push(stream: Any, pictures: np.ndarray[Any, Any], step_us: float) -> None:
    for number, picture in enumerate(pictures):
        await stream.push_picture(
            picture.tobytes(),
            pts_us=round(number * step_us),
            picture_format=PictureFormat.RGB24,
            width=picture.shape[1],
            height=picture.shape[0],
        )


async def _first_tokens(lengths: Sequence[int], turns: int) -> list[Row]:
    model, stock = load_model(_TTFT_MODEL), stock_model(_TTFT_MODEL).eval()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as run_dir:
        async with (
            local_services(Path(run_dir), "--model", _TTFT_MODEL, "--threads", "1") as address,
            tandem.connect(address) as client,
        ):
            return [await _first_token(client, model, stock, seconds, turns) for seconds in lengths]


async def _first_token(
    client: Client, model: VisionLanguageModel, stock: Any, seconds: int, turns: int
) -> Row:
    pictures = _pictures(seconds)
    inputs = stock_inputs(
        model, torch.from_numpy(pictures)[:, None], [i * MICROSECONDS for i in range(seconds)], QUESTION
    )
    ours, theirs = [], []
    async with client.watch(MediaKind.PICTURES, stream_id=f"ttft-{seconds}") as stream:
        await _push(stream, pictures, MICROSECONDS)
        await stream.ask(QUESTION)
        for _ in range(turns):
            theirs.append(1000 * _seconds(lambda: _reencode(model, stock, pictures, inputs)))
            began_s = time.perf_counter()
            async for _piece in stream.ask_stream(QUESTION):
                ours.append(1000 * (time.perf_counter() - began_s))
                break
    ratios = [them / us for us, them in zip(ours, theirs, strict=True)]
    baseline = statistics.median(theirs)
    return _row(f"ttft_{seconds}s", ours, "ms", baseline, statistics.median(ratios))


@torch.no_grad()
def _reencode(
    model: VisionLanguageModel, stock: Any, pictures: np.ndarray[Any, Any], inputs: dict[str, Any]
) -> None:
    """What a server without kept KV does for each question: prepare the pictures, encode, prefill, decode."""
    patches, _ = model.pictures.patches(torch.from_numpy(pictures)[:, None])
    stock.generate(**{**inputs, "pixel_values_videos": patches}, max_new_tokens=1, do_sample=False)


def _seconds(work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def _row(metric: str, values: Sequence[float], unit: str, baseline: float, ratio: float) -> Row:
    middle = statistics.median(values)
    return {
        "metric": metric,
        "value": round(middle, 3),
        "unit": unit,
        "baseline": round(baseline, 3),
        "ratio": round(ratio, 3),
        "n": len(values),
        "spread": round((max(values) - min(values)) / middle, 3),
    }
