"""The commands as a user types them, against a server with written-down behaviour."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tandem.commands.base import Exit
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.integration.orchestrator_fakes import MODEL, World
from tests.integration.scripted_server import Script, ScriptedServer, serve
from tests.unit.client.media_files import write_video


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def tandem(*arguments: str, stdin: bytes | None = None) -> Ran:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tandem.cli",
        *arguments,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, ScriptedServer]]:
    async with serve(Script()) as running:
        yield running


def pictures(folder: Path, count: int) -> Path:
    for number in range(count):
        Image.new("RGB", (8, 8), (number,) * 3).save(folder / f"{number}.png")
    return folder


async def test_watch_asks_at_its_times_and_at_the_end(
    server: tuple[str, ScriptedServer], tmp_path: Path
) -> None:
    address, scripted = server
    folder = pictures(tmp_path, 10)
    ran = await tandem(
        "watch", str(folder), "--fps", "10", "--address", address, "--stream-id", "door", "--json",
        "--ask-at", "0.25", "early?", "--ask", "late?", "--ask-at", "0.7", "middle?",
        "--ask-at", "9", "after?",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    answers = {event["text"]: event for event in ran.events if event["event"] == "answer"}
    # Everything before the time was pushed before the question, nothing after it.
    assert answers["you asked: early?"]["watermark_us"] == 200_000
    assert answers["you asked: middle?"]["watermark_us"] == 600_000
    assert answers["you asked: late?"]["watermark_us"] == 900_000
    assert answers["you asked: after?"]["watermark_us"] == 900_000
    opened = next(event for event in ran.events if event["event"] == "opened")
    assert opened["stream_id"] == "door"
    assert "resume_token" not in opened
    assert scripted.streams["door"].ended


async def test_watch_in_plain_lines(server: tuple[str, ScriptedServer], tmp_path: Path) -> None:
    address, _ = server
    path = write_video(tmp_path / "clip.mp4", frames=20)
    ran = await tandem("watch", str(path), "--speed", "max", "--address", address, "--ask", "what?")
    assert ran.code == 0, ran.err
    assert "opened    s0, watching 2 fps" in ran.out
    assert "answer    what? -> you asked: what?" in ran.out
    assert "first token 12 ms" in ran.out


async def test_a_file_plays_at_its_own_pace(server: tuple[str, ScriptedServer], tmp_path: Path) -> None:
    address, _ = server
    path = write_video(tmp_path / "clip.mp4", frames=30)
    loop = asyncio.get_running_loop()

    async def seconds(*speed: str) -> float:
        began = loop.time()
        assert (await tandem("watch", str(path), "--address", address, *speed)).code == 0
        return loop.time() - began

    fast, real = await seconds("--speed", "max"), await seconds()
    assert 2.0 < real - fast < 6.0, "three seconds of video"


async def test_watch_reads_standard_input(server: tuple[str, ScriptedServer], tmp_path: Path) -> None:
    address, scripted = server
    path = write_video(tmp_path / "clip.ts")
    ran = await tandem(
        "watch", "-", "--speed", "max", "--address", address, "--stream-id", "p", stdin=path.read_bytes()
    )
    assert ran.code == 0, ran.err
    assert len(scripted.streams["p"].media) > 10_000


async def test_a_cut_file_is_sent_and_then_told(server: tuple[str, ScriptedServer], tmp_path: Path) -> None:
    address, scripted = server
    path = write_video(tmp_path / "clip.mp4", container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    ran = await tandem(
        "watch", str(path), "--speed", "max", "--address", address, "--stream-id", "c", "--ask", "still?"
    )
    assert ran.code == 4
    assert "[bad_media]" in ran.out
    assert "you asked: still?" in ran.out, "what there was can be asked about"
    assert scripted.streams["c"].ended
    assert len(scripted.streams["c"].media) > 5_000


async def test_a_bad_picture_does_not_stop_the_others(
    server: tuple[str, ScriptedServer], tmp_path: Path
) -> None:
    address, scripted = server
    folder = pictures(tmp_path, 3)
    (folder / "1.png").write_bytes(b"")
    ran = await tandem("watch", str(folder), "--speed", "max", "--address", address, "--stream-id", "f")
    assert ran.code == 0, ran.err
    assert "1.png" in ran.out
    assert "0 bytes" in ran.out
    assert scripted.streams["f"].pts == [0, 2_000_000]


async def test_errors_are_one_line_with_their_exit_code(
    server: tuple[str, ScriptedServer], tmp_path: Path
) -> None:
    address, _ = server
    cases = [
        (4, "not_found", ("watch", str(tmp_path / "nope.mp4"), "--address", address)),
        (3, "tandem up", ("streams", "--address", "127.0.0.1:9")),
        (5, "not_found", ("ask", "nobody", "what?", "--address", address)),
        (5, "bad_question", ("ask", "nobody", " ", "--address", address)),
        (5, "not an address", ("streams", "--address", "here")),
        (2, "not a stream time", ("watch", "x", "--ask-at", "soon", "what?")),
        (2, "above zero", ("watch", "x", "--speed", "-1")),
    ]
    all_ran = await asyncio.gather(*(tandem(*arguments) for _, _, arguments in cases))
    for (code, words, arguments), ran in zip(cases, all_ran, strict=True):
        assert ran.code == code, (arguments, ran)
        assert words in ran.err, (arguments, ran)
        assert "Traceback" not in ran.err
        if code != 2:
            assert len(ran.err.strip().splitlines()) == 1, ran.err


async def test_ask_and_streams(server: tuple[str, ScriptedServer], tmp_path: Path) -> None:
    address, _ = server
    assert (await tandem("streams", "--address", address)).out.startswith("no streams")
    folder = pictures(tmp_path, 2)
    await tandem("watch", str(folder), "--speed", "max", "--address", address, "--stream-id", "door")
    ran = await tandem("ask", "door", "who?", "--address", address)
    assert ran.code == 0
    assert ran.out == "you asked: who?\n"
    assert "seen 00:00.0-00:01.0" in ran.err
    record = (await tandem("ask", "door", "who?", "--address", address, "--json")).events
    assert record[0]["text"] == "you asked: who?"
    listed = await tandem("streams", "--address", address)
    assert listed.out.splitlines()[1].startswith("door")
    assert (await tandem("streams", "--address", address, "--json")).events[0]["stream_id"] == "door"


async def test_how_older_video_comes_back_is_said_and_told(
    server: tuple[str, ScriptedServer], tmp_path: Path
) -> None:
    address, servicer = server
    folder = pictures(tmp_path, 2)
    options = (
        "--retrieval",
        "uniform",
        "--blocks",
        "5",
        "--load-budget",
        "0.25",
        "--mass",
        "0.9",
        "--chunk",
        "2",
    )
    watched = await tandem(
        "watch", str(folder), "--speed", "max", "--address", address, "--stream-id", "door", *options,
        "--ask", "who?", "--json",
    )  # fmt: skip
    [answer] = [event for event in watched.events if event["event"] == "answer"]
    assert answer["recall"]["strategy"] == "uniform"
    assert answer["recall"]["blocks"] == [{"time": {"start_us": 0, "end_us": 1}, "score": 0.5, "layers": 2}]
    assert answer["recall"]["disk_bytes"] == 7
    ran = await tandem("ask", "door", "who?", "--address", address, *options)
    assert "recalled 00:00.0-00:00.0 by uniform" in ran.err
    wish = types_pb2.Retrieval(strategy="uniform", blocks=5, load_budget_ms=250, mass=0.9, chunk=2)
    assert servicer.streams["door"].wishes == [wish, wish]
    wrong = await tandem("ask", "door", "who?", "--address", address, "--retrieval", "unifrom")
    assert wrong.code == Exit.REFUSED
    assert "no retrieval strategy 'unifrom' here; there are: uniform [bad_question]" in wrong.err
    assert (await tandem("ask", "door", "who?", "--blocks", "0")).code == Exit.USAGE


async def test_workers_are_asked_for_and_their_thoughts_shown(
    server: tuple[str, ScriptedServer], tmp_path: Path
) -> None:
    address, servicer = server
    folder = pictures(tmp_path, 2)
    options = ("--workers", "2", "--layout", "interleaved", "--think-tokens", "9", "--self-check", "0")
    watched = await tandem(
        "watch", str(folder), "--speed", "max", "--address", address, "--stream-id", "door", *options,
        "--ask", "who?",
    )  # fmt: skip
    lines = [line.split("  ", 1)[-1] for line in watched.out.splitlines() if "thought" in line]
    assert sorted(line.split(maxsplit=1)[1] for line in lines) == [
        "w0: let me see", "w0: so", "w1: let me see", "w1: so",
    ]  # fmt: skip
    ran = await tandem("ask", "door", "who?", "--address", address, *options, "--wait-for-all")
    assert ran.out == "you asked: who?\n"
    assert "[worker w1] let me see" in ran.err
    assert "[worker w0] so" in ran.err
    assert "worker w0: 3 tokens in 2 steps, ended its turn" in ran.err
    wish = types_pb2.Workers(
        count=2,
        layout=types_pb2.WORKER_LAYOUT_INTERLEAVED,
        max_tokens=9,
        self_check_tokens=0,
        over=types_pb2.WORKERS_OVER_FIRST,
    )
    assert servicer.streams["door"].workers[0] == wish
    wish.over = types_pb2.WORKERS_OVER_ALL
    assert servicer.streams["door"].workers[1] == wish
    record = (await tandem("ask", "door", "who?", "--address", address, *options, "--json")).events
    assert record[0]["workers"][1] == {
        "number": 1, "name": "w1", "tokens": 3, "steps": 2, "self_checks": 0, "finish": "end",
    }  # fmt: skip
    assert (await tandem("ask", "door", "who?", "--workers", "0")).code == Exit.USAGE
    assert (await tandem("ask", "door", "who?", "--workers", "2", "--layout", "x")).code == Exit.USAGE


async def test_a_failed_question_makes_the_exit_code(
    server: tuple[str, ScriptedServer], tmp_path: Path
) -> None:
    address, _ = server
    folder = pictures(tmp_path, 2)
    ran = await tandem("watch", str(folder), "--speed", "max", "--address", address, "--ask", "please fail")
    assert ran.code == 1
    assert "failed    please fail -> scripted failure [bad_media]" in ran.out


async def test_ctrl_c_ends_the_video_and_answers(server: tuple[str, ScriptedServer], tmp_path: Path) -> None:
    address, scripted = server
    path = write_video(tmp_path / "clip.mp4", frames=600)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tandem.cli", "watch", str(path), "--address", address, "--stream-id", "i",
        "--ask", "so far?", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    while not ("i" in scripted.streams and scripted.streams["i"].media):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, err
    assert b"you asked: so far?" in out
    assert scripted.streams["i"].ended


async def test_doctor_looks_at_a_running_server(server: tuple[str, ScriptedServer]) -> None:
    address, _ = server
    ran = await tandem("doctor", "--no-model", "--address", address)
    assert f"Tandem 0.2.0 answers at {address}" in ran.out
    assert "encoder-0 (encoder at 127.0.0.1:1) is ready" in ran.out
    assert ran.code == 0, ran.out


async def test_doctor_shows_the_models_that_differ(tmp_path: Path) -> None:
    other = types_pb2.ModelInfo(source="other", fingerprint="0" * 32)
    async with World(tmp_path) as world:
        await world.add("reasoner-1", other)
        await world.until(lambda: sum(member.is_ready for member in world.app.cluster.members) == 3)
        ran = await tandem("doctor", "--no-model", "--address", world.app.address)
    assert f"model other {other.fingerprint}" in ran.out
    assert f"the services run 2 models: {other.fingerprint}, {MODEL.fingerprint}" in ran.out
    assert ran.code == 1, ran.out


async def test_doctor_says_what_to_do_when_nothing_runs() -> None:
    ran = await tandem("doctor", "--no-model", "--address", "127.0.0.1:9")
    assert "nothing runs at 127.0.0.1:9" in ran.out
    assert "tandem up" in ran.out
