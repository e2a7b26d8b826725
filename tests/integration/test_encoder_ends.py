"""However a stream ends, nothing of it stays: threads, tasks, descriptors, rooms, windows."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from encoder_svc.decode.make import MediaKind
from encoder_svc.lanes import Lane
from tandem.core.errors import DeadlineExceeded, Unavailable
from tandem.core.lifetime import CALL
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.unit.encoder_svc.media import cut, encode
from tests.unit.encoder_svc.rig import END, Call, Rig, make_rig, send_pictures

PICTURES = types_pb2.MEDIA_KIND_PICTURES
ROOT = Path(__file__).parents[2]


Held = tuple[int, int, int, int]


def held() -> Held:
    """(threads, tasks, descriptors, streams whose windows are still there) now."""
    gc.collect()
    lanes = sum(type(item) is Lane for item in gc.get_objects())
    return threading.active_count(), len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), lanes


async def settled(before: Held, rig: Rig) -> None:
    """Wait until no more is held than `before`."""
    deadline_s = time.monotonic() + 10
    while rig.app.servicer.streams or any(a > b for a, b in zip(held(), before, strict=True)):
        assert time.monotonic() < deadline_s, (held(), before, rig.app.servicer.streams)
        await asyncio.sleep(0.05)


async def opening(rig: Rig) -> Call:
    return await rig.open("s", PICTURES, reasoner_name="down", reasoner_address="127.0.0.1:1")


async def idle(rig: Rig) -> Call:
    call = await rig.open("s", PICTURES)
    await call.until(lambda c: c.opened)
    return call


async def streaming(rig: Rig) -> Call:
    call = await rig.open("s", types_pb2.MEDIA_KIND_FRAGMENTED_MP4)
    for chunk in cut(encode(MediaKind.FRAGMENTED_MP4, 60, fps=5), 1):
        await call.send(chunk=types_pb2.Chunk(offset=chunk.offset, data=chunk.data))
    await call.until(lambda c: c.progress and c.progress[-1].next_block_number > 2)
    return call


async def blocked(rig: Rig) -> Call:
    rig.reasoner.shelf.full = True
    call = await rig.open("s", PICTURES)
    await send_pictures(call, range(10))
    await call.until(lambda c: c.progress and c.progress[-1].frames_waiting)
    return call


async def ending(rig: Rig) -> Call:
    call = await blocked(rig)
    await call.send(end=END)
    return call


async def flooded(rig: Rig) -> Call:
    """Decoding is under way when it ends."""
    call = await rig.open("s", types_pb2.MEDIA_KIND_H264_ANNEX_B, sample_fps=1)
    data = encode(MediaKind.H264_ANNEX_B, 120, size=(320, 240))
    await call.send(chunk=types_pb2.Chunk(offset=0, data=data))
    return call


@pytest.mark.parametrize("state", [opening, idle, streaming, blocked, ending, flooded])
async def test_cancelling_in_any_state_frees_everything(state) -> None:  # type: ignore[no-untyped-def]
    async with make_rig(outbox_blocks=3, decode_threads=1, link_idle_s=0.05) as rig:
        call = await streaming(rig)  # everything that is made once is there now
        call.cancel()
        async with asyncio.timeout(10):
            while rig.app.servicer.streams or rig.app.links.open_links:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)  # for what ends behind them
        before = held()
        assert before[3] == 0
        for _ in range(3):
            call = await state(rig)
            call.cancel()
            await asyncio.sleep(0.02)
            del call
        await settled(before, rig)
        assert rig.app.loop.waiting == 0


async def test_draining_publishes_what_was_taken_in() -> None:
    async with make_rig() as rig:
        call = await rig.open("s", PICTURES)
        await send_pictures(call, range(5))
        await call.until(lambda c: c.progress and c.progress[-1].consumed_position == 5)
        await rig.app.servicer.drain(5.0)
        with pytest.raises(Unavailable, match="draining"):
            await call.over()
        assert len(rig.reasoner.shelf.of("s")) == 6
        assert call.progress[-1].next_block_number == 6
        late = await rig.open("t", PICTURES)
        with pytest.raises(Unavailable, match="draining"):
            await late.over()


async def test_a_drain_that_cannot_publish_ends_in_time() -> None:
    async with make_rig(drain_s=0.3) as rig:
        call = await blocked(rig)
        await rig.app.servicer.drain(3.0)
        with pytest.raises(Unavailable):
            await call.over()


def test_the_process_says_when_it_is_ready_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "encoder_svc", "--model", "dummy:tiny", "--name", "e1", "--threads", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("encoder e1 ready on 127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_it_can_be_told_to_end_while_it_still_starts() -> None:
    """As the first process of a container, which no signal ends that it does not handle."""
    command = [sys.executable, "-m", "encoder_svc", "--model", "dummy:tiny", "--name", "e1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        until_s = time.monotonic() + 60
        while "libtorch" not in maps.read_text() and time.monotonic() < until_s:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


def test_one_in_reserve_has_tried_its_model_before_it_waits_and_before_it_listens() -> None:
    command = [sys.executable, "-m", "encoder_svc", "--model", "dummy:tiny", "--threads", "1", "--standby"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        loading: list[str] = []
        for line in process.stdout:
            loading.append(line)
            if line.endswith("in reserve\n"):
                break
        assert any("a unit takes" in line for line in loading), loading
        process.stdin.write(CALL.decode())
        process.stdin.flush()
        called_s = time.monotonic()
        line = process.stdout.readline()
        assert "ready on" in line, line
        print(f"ready {time.monotonic() - called_s:.3f} s after it was called")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_settings_that_cannot_work_end_with_status_2() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "encoder_svc", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for arguments in (["--name", "a b"], ["--secret-file", "/nonexistent"], ["--model", "/nonexistent"])
    ]
    for process in processes:
        with process:
            _, said = process.communicate(timeout=60)
        assert process.returncode == 2, said
        assert "Traceback" not in said
        assert "tandem encoder: " in said


async def test_a_window_that_the_model_never_opens_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_rig(open_patience_s=0.2) as rig:
        monkeypatch.setattr(rig.app.loop, "open", lambda lane: None)
        call = await rig.open("s", PICTURES)
        with pytest.raises(DeadlineExceeded, match=r"window within 0\.2 s"):
            await call.over()
        assert rig.app.loop.waiting == 0
