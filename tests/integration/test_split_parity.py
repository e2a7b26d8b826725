"""Fidelity (design 5.1, 5.6): the split pipeline gives the tokens that transformers' `generate()` gives.

Everything runs for real: three processes, blocks over the wire, pictures and encoded streams, and an encoder
that is killed in mid-stream.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tandem.client import MediaKind, MediaOptions
from tandem.client.types import Progress
from tandem.shapes.draw import jpeg_roundtrip
from tandem.shapes.evaluate import held_out_clip
from tandem.shapes.events import Timeline
from tandem.shapes.video import scene
from tests.integration.split import PICTURES, SECOND_US, Split, push_raw, split

CLIPS = 20
QUESTIONS = 5


def pictures_of(timeline: Timeline, seed: int, events: int) -> np.ndarray[Any, Any]:
    """The frames of a held-out clip at camera size: uint8 [frames, 240, 320, 3]."""
    rng = np.random.default_rng([7, seed, events])
    scenes = np.stack([jpeg_roundtrip(p, 85) for p in scene(rng, timeline, 320, 240)])
    index = [len(scenes) - 1 if i < 0 else i for i in timeline.event_of_frame()]
    return scenes[index]


def noise(frames: int, height: int = 70, width: int = 98, seed: int = 0) -> np.ndarray[Any, Any]:
    """Pictures that differ everywhere, so that a wrong position or a lost frame shows."""
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


async def test_the_default_model_answers_as_transformers_does(tmp_path: Path) -> None:
    """20 held-out clips x 5 questions: same greedy tokens, pushed as pictures."""
    async with split(tmp_path, "default") as both:
        for seed in range(CLIPS):
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


@pytest.mark.parametrize("source", ["dummy:tiny", "dummy:tiny-timestamped"])
async def test_models_of_the_real_shape_family_answer_as_transformers_does(
    source: str, tmp_path: Path
) -> None:
    """Several heads, GQA, M-RoPE sections; native layout with pairs of frames, and the timestamped one."""
    async with split(tmp_path, source, "--window-units", "64") as both:
        pictures = noise(14)
        unit = both.model.prompt.seconds_per_unit / both.model.prompt.frames_per_unit
        times_us = [round(i * unit * SECOND_US) for i in range(len(pictures))]
        async with both.client.watch(
            MediaOptions(kind=MediaKind.PICTURES, sample_fps=1 / unit), stream_id="s"
        ) as stream:
            await push_raw(stream, pictures, times_us)
            await stream.end()
        per_unit = both.model.prompt.frames_per_unit
        for question in ("What is this?", "And what was before it, do you know?"):
            theirs = both.stock_tokens(both.units(pictures), times_us[::per_unit], question, 24)
            assert await both.tokens("s", question, 24) == theirs


async def test_a_killed_encoder_changes_no_token_and_loses_no_frame(tmp_path: Path) -> None:
    async with split(tmp_path, "dummy:tiny-timestamped", "--window-units", "4") as both:
        pictures = noise(40)
        times_us = [i * SECOND_US for i in range(len(pictures))]
        answers = []
        for stream_id, kill in (("whole", False), ("cut", True)):
            async with both.client.watch(PICTURES, stream_id=stream_id) as stream:
                await push_raw(stream, pictures[:20], times_us[:20])
                if kill:
                    await wait_for_blocks(stream, 5)
                    await kill_encoder(both)
                await push_raw(stream, pictures[20:], times_us[20:])
                last = await stream.end()
            assert last.blocks == len(pictures)
            assert last.gaps == ()
            answers.append(await both.tokens(stream_id, "What is this?", 24))
        assert answers[0] == answers[1]


async def test_an_encoded_stream_gives_the_tokens_of_its_decoded_pictures(tmp_path: Path) -> None:
    """The same frames as an H.264 byte stream, and decoded by transformers' side of the test."""
    data = h264(pictures_of(held_out_clip(3, 8)[0], 3, 8), fps=5)
    pictures, times_us = decoded_each_second(data, fps=5)
    async with split(tmp_path, "default") as both:
        media = MediaOptions(kind=MediaKind.H264_ANNEX_B, nominal_fps=5)
        async with both.client.watch(media, stream_id="h264") as stream:
            for start in range(0, len(data), 1000):
                await stream.push_chunk(data[start : start + 1000])
            await stream.end()
        for question in held_out_clip(3, 8)[2][:QUESTIONS]:
            ours = await both.tokens("h264", question.text, 12)
            assert ours == both.stock_tokens(both.units(pictures), times_us, question.text, 12), question.text


def h264(pictures: np.ndarray[Any, Any], fps: int) -> bytes:
    """An Annex B stream that shows each picture for a second."""
    out = io.BytesIO()
    with av.open(out, "w", format="h264") as container:
        track = container.add_stream("libx264", rate=fps)
        track.height, track.width = pictures.shape[1:3]
        track.pix_fmt = "yuv420p"
        track.codec_context.max_b_frames = 0
        track.codec_context.time_base = Fraction(1, fps)
        for number, picture in enumerate(np.repeat(pictures, fps, axis=0)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return out.getvalue()


def decoded_each_second(data: bytes, fps: int) -> tuple[np.ndarray[Any, Any], list[int]]:
    """The frames that a rate of one per second picks, and their times."""
    with av.open(io.BytesIO(data), format="h264") as container:
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
