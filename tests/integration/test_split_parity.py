"""Fidelity (design 5.1, 5.6): the split pipeline gives the tokens that transformers' `generate()` gives.

Everything runs for real: three processes, blocks over the wire, pictures and encoded streams, and an encoder
that is killed in mid-stream, also while the notes of a watcher are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from reasoner_svc.notes.box import ThoughtBox
from tandem.client import MediaKind, MediaOptions, Thought, Watching, WatchMode
from tandem.client.types import Progress
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.shapes.draw import jpeg_roundtrip
from tandem.shapes.evaluate import held_out_clip
from tandem.shapes.events import Event, Timeline
from tandem.shapes.video import scene
from tandem.shapes.words import SHAPES
from tests.integration.split import PICTURES, SECOND_US, Split, push_raw, split
from tests.unit.reasoner_svc.making import encode_clip
from tests.unit.reasoner_svc.test_notes import feed as feed_blocks
from tests.unit.reasoner_svc.test_notes import note, running

pytestmark = pytest.mark.timeout(300)
CLIPS, CLIPS_BY_DEFAULT = 20, 5
QUESTIONS = 5
NOISE_QUESTIONS = (
    "What is this?",
    "And what was before it, do you know?",
    "When?",
)
"""Together sensitive to each unit of `noise(14)` and its place."""
NOTE_UNITS = 2
NOTES = Watching(
    mode=WatchMode.CONCURRENT, segment_units=NOTE_UNITS, note_tokens=48, prompt="And what is it now?"
)
ENCODED = (
    *((seed, MediaKind.H264_ANNEX_B) for seed in range(3, 7)),
    (7, MediaKind.H265_ANNEX_B),
    (8, MediaKind.FRAGMENTED_MP4),
    (9, MediaKind.MPEG_TS),
)
"""Held-out clips and what they are pushed as."""
EACH_KIND = ENCODED[3:]
CONTAINERS = {
    MediaKind.H264_ANNEX_B: ("h264", "libx264"),
    MediaKind.H265_ANNEX_B: ("hevc", "libx265"),
    MediaKind.FRAGMENTED_MP4: ("mp4", "libx264"),
    MediaKind.MPEG_TS: ("mpegts", "libx264"),
}


def pictures_of(timeline: Timeline, seed: int, events: int) -> np.ndarray[Any, Any]:
    """The frames of a held-out clip at camera size: uint8 [frames, 240, 320, 3]."""
    rng = np.random.default_rng([7, seed, events])
    scenes = np.stack([jpeg_roundtrip(p, 85) for p in scene(rng, timeline, 320, 240)])
    index = [len(scenes) - 1 if i < 0 else i for i in timeline.event_of_frame()]
    return scenes[index]


def noise(frames: int, height: int = 70, width: int = 98, seed: int = 0) -> np.ndarray[Any, Any]:
    """Pictures that differ everywhere, so that a wrong position or a lost frame shows."""
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("clips", "streams"),
    [
        pytest.param(CLIPS_BY_DEFAULT, EACH_KIND, id="a-few"),
        pytest.param(CLIPS, ENCODED, id="all", marks=pytest.mark.slow),
    ],
)
async def test_the_default_model_answers_as_transformers_does(
    tmp_path: Path, clips: int, streams: Sequence[tuple[int, MediaKind]]
) -> None:
    """Pictures, encoded streams and a killed encoder, over services that start once."""
    async with split(tmp_path, "default") as both:
        await check_clips(both, clips)
        for seed, kind in streams:
            await check_encoded(both, seed, kind)
        events = tuple(Event(shape=i % len(SHAPES), colour=i % 7, first=i, last=i) for i in range(12))
        pictures = pictures_of(Timeline(events, frames=len(events), start=0), 0, len(events))
        # A question for each second, so that a second that is lost or stands elsewhere shows in an answer.
        questions = [f"what was on screen at 00:00:{second:02}?" for second in range(len(pictures))]
        await check_killed(both, pictures, questions, max_tokens=12)


async def check_clips(both: Split, clips: int) -> None:
    """So many held-out clips x 5 questions: same greedy tokens, pushed as pictures."""
    for seed in range(clips):
        timeline, _, questions = held_out_clip(seed, 8)
        pictures = pictures_of(timeline, seed, 8)
        times_us = [i * SECOND_US for i in range(len(pictures))]
        async with both.client.watch(PICTURES, stream_id=f"clip-{seed}") as stream:
            await push_raw(stream, pictures, times_us)
            await stream.end()
        for question in questions[:QUESTIONS]:
            ours = await both.tokens(f"clip-{seed}", question.text, 12)
            theirs = both.stock_tokens(both.units(pictures), times_us, question.text, 12)
            assert ours == theirs, (seed, question.text)


async def check_encoded(both: Split, seed: int, kind: MediaKind) -> None:
    """The same frames as bytes of a codec, and decoded by transformers' side of the test."""
    timeline, _, questions = held_out_clip(seed, 8)
    data = encoded(kind, pictures_of(timeline, seed, 8), fps=5)
    pictures, times_us = decoded_each_second(kind, data, fps=5)
    name = f"{kind.value}-{seed}"
    async with both.client.watch(MediaOptions(kind=kind, nominal_fps=5), stream_id=name) as stream:
        for start in range(0, len(data), 1000):
            await stream.push_chunk(data[start : start + 1000])
        await stream.end()
    for question in questions[:QUESTIONS]:
        ours = await both.tokens(name, question.text, 12)
        theirs = both.stock_tokens(both.units(pictures), times_us, question.text, 12)
        assert ours == theirs, (name, question.text)


# The timestamped layout is that of the default model, above.
@pytest.mark.parametrize(
    "source", ["dummy:tiny", pytest.param("dummy:tiny-timestamped", marks=pytest.mark.slow)]
)
async def test_models_of_the_real_shape_family_answer_as_transformers_does(
    source: str, tmp_path: Path
) -> None:
    """Several heads, GQA, M-RoPE sections; native layout with pairs of frames, and the timestamped one."""
    async with split(tmp_path, source, "--window-units", "64") as both:
        pictures = noise(14)
        times_us = both.times_us(len(pictures))
        async with both.client.watch(both.pictures, stream_id="s") as stream:
            await push_raw(stream, pictures, times_us)
            await stream.end()
        units, starts_us = both.units(pictures), times_us[:: both.model.prompt.frames_per_unit]
        expected = [both.stock_tokens(units, starts_us, question, 24) for question in NOISE_QUESTIONS]
        if source != "dummy:tiny":  # checked below
            both.check_sensitive(units, starts_us, NOISE_QUESTIONS, expected, 24)
        for question, theirs in zip(NOISE_QUESTIONS, expected, strict=True):
            assert await both.tokens("s", question, 24) == theirs, question
        if source == "dummy:tiny":
            async with watched(both, pictures) as writing:
                await check_killed(both, pictures, NOISE_QUESTIONS, max_tokens=24, before=writing)


async def nothing() -> None:
    """Nothing happens beside it."""


async def check_killed(
    both: Split,
    pictures: np.ndarray[Any, Any],
    questions: Sequence[str],
    max_tokens: int,
    before: Callable[[], Awaitable[None]] = nothing,
) -> None:
    """SIGKILL of the encoder in mid-stream: no frame is lost, and the tokens are those of `generate()`."""
    times_us = both.times_us(len(pictures))
    half = len(pictures) // 2
    units, starts_us = both.units(pictures), times_us[:: both.model.prompt.frames_per_unit]
    expected = [both.stock_tokens(units, starts_us, question, max_tokens) for question in questions]
    both.check_sensitive(units, starts_us, questions, expected, max_tokens)
    async with both.client.watch(both.pictures, stream_id="cut") as stream:
        await push_raw(stream, pictures[:half], times_us[:half])
        await wait_for_blocks(stream, 2)
        await before()
        await kill_encoder(both)
        await push_raw(stream, pictures[half:], times_us[half:])
        last = await stream.end()
    assert last.blocks == len(units)
    assert last.gaps == ()
    for question, theirs in zip(questions, expected, strict=True):
        assert await both.tokens("cut", question, max_tokens) == theirs, question


@contextlib.asynccontextmanager
async def watched(
    both: Split, pictures: np.ndarray[Any, Any]
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A stream of the same pictures with a concurrent watcher; yields what has it write its second note.

    The encoder is killed during that. All notes are those of a watcher in this process that nothing happens
    to: every segment waits for the note before it, so that what a note sees is known.
    """
    per_segment = NOTE_UNITS * both.model.prompt.frames_per_unit
    times_us = both.times_us(len(pictures))
    expected = await undisturbed_notes(both, both.units(pictures))
    texts: dict[int, str] = {}
    told: list[tuple[int, TimeRange]] = []

    async def collect(thoughts: AsyncIterator[Thought]) -> None:
        async for piece in thoughts:
            assert not piece.failed, piece
            assert not piece.dropped, piece
            texts[piece.note] = texts.get(piece.note, "") + piece.text
            if piece.done:
                told.append((piece.note, piece.time))

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def show(segment: int) -> None:
        part = slice(segment * per_segment, (segment + 1) * per_segment)
        await push_raw(stream, pictures[part], times_us[part])

    async def second() -> None:
        await show(1)
        await until(lambda: 2 in texts)

    async with both.client.watch(both.pictures, stream_id="noted", watching=NOTES) as stream:
        collecting = asyncio.create_task(collect(stream.thoughts()))
        await show(0)
        await until(lambda: len(told) == 1)
        yield second
        for segment in range(2, len(expected)):
            await until(lambda segment=segment: len(told) == segment)
            await show(segment)
        last = await stream.end()
        await collecting
    assert last.gaps == ()
    assert [(number, time, texts[number]) for number, time in told] == expected


async def undisturbed_notes(both: Split, units: np.ndarray[Any, Any]) -> list[tuple[int, TimeRange, str]]:
    """What a watcher says about units that come segment by segment."""
    blocks = encode_clip(both.model, torch.from_numpy(units))
    notes = []
    async with running(both.model) as (engine, _):
        box = ThoughtBox(asyncio.get_running_loop(), 10**6)
        engine.watch(1, StreamId("cam"), NOTES, box)
        engine.feed(1, blocks[0], lambda: None)
        for first in range(1, len(blocks), NOTE_UNITS):
            feed_blocks(engine, blocks[first : first + NOTE_UNITS])
            if first + NOTE_UNITS > len(blocks):
                engine.finish_notes(1, lambda last: None)
            notes.append(await note(box))
    return notes


def encoded(kind: MediaKind, pictures: np.ndarray[Any, Any], fps: int) -> bytes:
    """A stream of bytes that shows each picture for a second."""
    out = io.BytesIO()
    container_format, codec = CONTAINERS[kind]
    mux = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if container_format == "mp4" else {}
    with av.open(out, "w", format=container_format, options=mux) as container:
        track = container.add_stream(codec, rate=fps)
        track.height, track.width = pictures.shape[1:3]
        track.pix_fmt = "yuv420p"
        track.codec_context.max_b_frames = 0
        track.codec_context.time_base = Fraction(1, fps)
        if codec == "libx265":
            track.codec_context.options = {"x265-params": "log-level=none:bframes=0:pools=none"}
        for number, picture in enumerate(np.repeat(pictures, fps, axis=0)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return out.getvalue()


def decoded_each_second(kind: MediaKind, data: bytes, fps: int) -> tuple[np.ndarray[Any, Any], list[int]]:
    """The frames that a rate of one per second picks, and their times."""
    with av.open(io.BytesIO(data), format=CONTAINERS[kind][0]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picked = np.stack(frames[::fps])
    return picked, [i * SECOND_US for i in range(len(picked))]


async def wait_for_blocks(stream: Any, blocks: int) -> None:
    """Until so many visual blocks are published."""
    async with asyncio.timeout(30):
        async for event in stream.events():
            if isinstance(event, Progress) and event.blocks >= blocks:
                return


async def kill_encoder(both: Split) -> None:
    """SIGKILL, with no warning."""
    status = await both.client.status()
    os.kill(next(s.build.pid for s in status.services if s.role == "encoder"), signal.SIGKILL)
