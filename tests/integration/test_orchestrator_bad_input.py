"""Bad input and rude clients: typed refusals, every stream goes on, nothing is left behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

import tandem
from orchestrator.gateway import Gateway
from orchestrator.limits import Limits
from tandem.client import ClientSettings, MediaKind, PictureFormat
from tandem.wire.accepting import SPOKEN
from tandem.wire.attach import attach_proof
from tandem.wire.gen.tandem.v1 import client_pb2, registry_pb2, registry_pb2_grpc, types_pb2
from tandem.wire.status import CODE_KEY
from tests.integration.orchestrator_fakes import Client, World

PNG = types_pb2.PICTURE_FORMAT_PNG
RGB = types_pb2.PICTURE_FORMAT_RGB24


async def status_of(call: Any, *requests: client_pb2.WatchRequest) -> tuple[grpc.StatusCode, str]:
    """Write requests, read to the end; how the call ended."""
    try:
        for request in requests:
            await call.write(request)
        await call.done_writing()
        while isinstance(await call.read(), client_pb2.WatchResponse):
            pass
    except grpc.aio.AioRpcError:
        pass
    trailing = dict(await call.trailing_metadata() or ())
    return await call.code(), str(trailing.get(CODE_KEY, ""))


def opening(stream_id: str = "cam", token: str = "", kind: int = 1, **media: Any) -> client_pb2.WatchRequest:
    options = types_pb2.MediaOptions(kind=kind, **media)  # type: ignore[arg-type]
    opened = client_pb2.WatchRequest.Open(stream_id=stream_id, resume_token=token, media=options)
    return client_pb2.WatchRequest(open=opened)


ASK = client_pb2.WatchRequest(ask=types_pb2.Question(question_id="q", text="what?"))


@pytest.mark.parametrize(
    ("requests", "status", "code"),
    [
        ([], "FAILED_PRECONDITION", "wrong_state"),
        ([ASK], "FAILED_PRECONDITION", "wrong_state"),
        ([client_pb2.WatchRequest()], "FAILED_PRECONDITION", "wrong_state"),
        ([opening(kind=0)], "INVALID_ARGUMENT", "invalid_input"),
        ([opening(kind=99)], "INVALID_ARGUMENT", "invalid_input"),
        ([opening("../../etc/passwd")], "INVALID_ARGUMENT", "invalid_input"),
        ([opening("x" * 65)], "INVALID_ARGUMENT", "invalid_input"),
        ([opening(sample_fps=float("nan"))], "INVALID_ARGUMENT", "invalid_input"),
        ([opening(nominal_fps=-1.0)], "INVALID_ARGUMENT", "invalid_input"),
        ([opening(token="f" * 64)], "PERMISSION_DENIED", "permission_refused"),
        ([opening(token="é")], "PERMISSION_DENIED", "permission_refused"),
        ([opening("", token="f" * 64)], "INVALID_ARGUMENT", "invalid_input"),
        ([opening(), opening()], "FAILED_PRECONDITION", "wrong_state"),
    ],
)
async def test_a_bad_beginning_ends_the_call(
    tmp_path: Path, requests: list[client_pb2.WatchRequest], status: str, code: str
) -> None:
    async with World(tmp_path) as world:
        ended, exact = await status_of(world.stub.Watch(), *requests)
        assert (ended.name, exact) == (status, code)


async def test_an_id_in_use_and_one_stream_too_many(tmp_path: Path) -> None:
    async with World(tmp_path, max_streams=1) as world:
        await world.watch("cam")
        assert (await status_of(world.stub.Watch(), opening("cam")))[1] == "already_exists"
        assert (await status_of(world.stub.Watch(), opening("other")))[1] == "limit_exceeded"
        assert len(world.app.streams) == 1


async def test_unknown_streams(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        call = world.stub.Ask(client_pb2.AskRequest(stream_id="nobody", question=ASK.ask))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [event async for event in call]
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


Send = Callable[[Client], Awaitable[None]]
MEDIA: list[tuple[str, Send, str]] = [
    ("zero bytes", lambda c: c.picture(1000, b""), "bad_media"),
    ("pts goes back", lambda c: c.picture(100), "bad_timestamp"),
    ("pts below zero", lambda c: c.picture(-1), "bad_timestamp"),
    ("pts far away", lambda c: c.picture(1 << 50), "bad_timestamp"),
    ("no format", lambda c: c.picture(1000, format=0), "invalid_input"),
    ("unknown format", lambda c: c.picture(1000, format=9), "invalid_input"),
    ("raw, wrong size", lambda c: c.picture(1000, b"xx", format=RGB, width=2, height=2), "bad_media"),
    ("raw, 40 megapixels", lambda c: c.picture(1000, b"x", format=RGB, width=8000, height=5000), "bad_media"),
    ("undecodable", lambda c: c.picture(1000, b"bad"), "bad_media"),
    ("a chunk among pictures", lambda c: c.chunk(0, b"x"), "invalid_input"),
]


@pytest.mark.parametrize(("send", "code"), [(m[1], m[2]) for m in MEDIA], ids=[m[0] for m in MEDIA])
async def test_bad_media_is_refused_and_the_stream_goes_on(tmp_path: Path, send: Send, code: str) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await send(client)
        await client.until(lambda: bool(client.refusals))
        await client.pictures(1500)
        await client.ask()
        assert (await client.answer()).text == "0 500 1500 "
        [refusal] = client.refusals
        assert refusal.error.code == code
        assert refusal.error.message
        assert refusal.HasField("position")


def question(**fields: Any) -> Send:
    return lambda client: client.ask("bad", **fields)


QUESTIONS: list[tuple[str, Send, str]] = [
    ("empty", question(text=" "), "bad_question"),
    ("long", question(text="x" * 100_000), "bad_question"),
    ("no id", lambda c: c.ask(""), "bad_question"),
    ("budget", question(latency_budget_ms=2**31), "bad_question"),
    ("temperature", question(sampling=types_pb2.Sampling(temperature=float("nan"))), "bad_question"),
    ("top_p", question(sampling=types_pb2.Sampling(top_p=7)), "bad_question"),
    ("max_tokens", question(sampling=types_pb2.Sampling(max_tokens=10**9)), "bad_question"),
    ("stops", question(sampling=types_pb2.Sampling(stop=["x"] * 9)), "bad_question"),
]


@pytest.mark.parametrize(("send", "code"), [(q[1], q[2]) for q in QUESTIONS], ids=[q[0] for q in QUESTIONS])
async def test_bad_questions_are_refused_and_good_ones_answered(
    tmp_path: Path, send: Send, code: str
) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0)
        await send(client)
        await client.ask("good")
        assert (await client.answer("good")).text == "0 "
        [refusal] = client.refusals
        assert (refusal.error.code, refusal.question_id) == (code, "" if send is QUESTIONS[2][1] else "bad")


async def test_questions_without_video_twice_and_too_many(tmp_path: Path) -> None:
    async with World(tmp_path, limits=Limits(max_open_questions=2)) as world:
        client = await world.watch()
        await client.ask("early")
        await client.until(lambda: bool(client.refusals))
        assert client.refusals.pop().error.code == "wrong_state"
        await client.pictures(0, 500)
        world.reasoner.gate.clear()
        await client.ask("a")
        await client.ask("a")
        await client.ask("b")
        await client.ask("c")
        await client.until(lambda: len(client.refusals) == 2)
        assert [r.error.code for r in client.refusals] == ["already_exists", "limit_exceeded"]
        assert client.refusals[1].error.retry_after_ms > 0
        world.reasoner.gate.set()
        await client.answer("a")
        await client.answer("b")


async def test_media_after_end_and_pictures_sent_twice_or_never(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.picture(500, sequence=1)
        await client.picture(2500, sequence=5)
        await client.until(lambda: bool(client.progress.gaps))
        assert client.progress.gaps[0].reason == types_pb2.GAP_REASON_SOURCE
        world.encoder.gate.clear()
        await client.end()
        await client.pictures(3000)
        await client.until(lambda: bool(client.refusals))
        assert client.refusals[0].error.code == "wrong_state"
        world.encoder.gate.set()
        await client.finished()
        assert client.goodbye is not None
        assert client.goodbye.progress.blocks == 3


async def test_garbage_on_the_wire_costs_its_call_only(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        raw = world.channel.stream_stream("/tandem.v1.TandemService/Watch")()
        await raw.write(b"\xff\xff\xff garbage")
        with pytest.raises(grpc.aio.AioRpcError):
            await raw.read()
        await client.pictures(0)
        await client.ask()
        assert (await client.answer()).text == "0 "


async def test_a_service_without_the_secret_is_not_let_in(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        stub: Any = registry_pb2_grpc.RegistryServiceStub(world.channel)
        build = types_pb2.BuildInfo(boot_id="b")

        def proof(address: str = "127.0.0.1:9", secret: bytes = world.app.cluster.secret) -> str:
            return attach_proof(secret, "encoder-9", "encoder", "b", address)

        async def hello(**changes: Any) -> str:
            fields: dict[str, Any] = {
                "name": "encoder-9",
                "role": "encoder",
                "address": "127.0.0.1:9",
                "build": build,
                "protocol": 1,
                "proof": proof(),
            }
            call = stub.Attach()
            try:
                request = registry_pb2.AttachRequest(
                    hello=registry_pb2.AttachRequest.Hello(**fields | changes)
                )
                await call.write(request)
                await call.read()
                await call.read()
            except grpc.aio.AioRpcError as error:
                return error.code().name
            finally:
                call.cancel()
            return "OK"

        assert await hello(proof=proof(secret=b"x" * 32)) == "PERMISSION_DENIED"
        assert await hello(address="127.0.0.1:10") == "PERMISSION_DENIED", "the proof is for another address"
        assert await hello(proof="") == "PERMISSION_DENIED"
        assert await hello(protocol=SPOKEN.newest + 1) == "FAILED_PRECONDITION"
        assert await hello(address="nowhere", proof=proof("nowhere")) == "INVALID_ARGUMENT"
        assert world.app.cluster.service("encoder-9") is None


async def test_a_client_that_does_not_read_is_cut_off_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        await world.add("encoder-1")
        good = await world.watch("good")
        slow = world.stub.Watch()
        await slow.write(opening("slow"))
        assert (await slow.read()).WhichOneof("event") == "welcome"
        outbox = world.app.streams.get("slow").session.outbox
        assert outbox is not None
        for _ in range(20_000):
            if outbox.is_closed:
                break
            answer = client_pb2.Answer(question_id="q", text="x" * 4000)
            outbox.put(client_pb2.WatchResponse(answer=answer))
        assert outbox.is_closed
        assert outbox.bytes == 0
        await good.pictures(0)
        await good.ask()
        assert (await good.answer()).text == "0 "
        ended, code = await status_of(slow)
        assert (ended.name, code) == ("RESOURCE_EXHAUSTED", "slow_reader")
        assert world.app.streams.get("slow").session.outbox is None


async def test_a_blocked_write_ends_the_call_and_frees_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.app.Gateway", functools.partial(Gateway, slow_s=0.5))
    async with World(tmp_path) as world:
        slow = world.stub.Watch()
        await slow.write(opening("slow"))
        assert (await slow.read()).WhichOneof("event") == "welcome"
        session = world.app.streams.get("slow").session
        outbox = session.outbox
        assert outbox is not None
        while not outbox.is_closed:  # until the connection's window is full, and then the outbox
            answer = client_pb2.Answer(question_id="q", text="x" * 400_000)
            outbox.put(client_pb2.WatchResponse(answer=answer))
            await asyncio.sleep(0.01)
        await world.until(lambda: session.outbox is None)
        ended, code = await status_of(slow)
        assert (ended.name, code) == ("RESOURCE_EXHAUSTED", "slow_reader")


# --- what is left behind ------------------------------------------------------------------------------------


async def while_opening(world: World) -> Any:
    await world.hosted["encoder-0"].kill()
    call = world.stub.Watch()
    await call.write(opening("leak"))
    await asyncio.sleep(0.1)
    return call


async def when_welcomed(world: World) -> Any:
    return (await world.watch("leak")).call


async def with_media(world: World) -> Any:
    client = await world.watch("leak")
    await client.pictures(*range(0, 5000, 500))
    return client.call


async def with_a_full_encoder(world: World) -> Any:
    world.encoder.gate.clear()
    return await with_media(world)


async def while_asking(world: World) -> Any:
    world.reasoner.gate.clear()
    client = await world.watch("leak")
    await client.pictures(0, 500)
    await client.ask()
    await client.until(lambda: bool(client.deltas))
    return client.call


async def while_waiting_for_frames(world: World) -> Any:
    client = await world.watch("leak")
    await client.pictures(0)
    await client.until(lambda: client.progress.blocks == 1)
    world.encoder.gate.clear()
    await client.pictures(500)
    await client.ask(latency_budget_ms=60_000)
    return client.call


async def while_recovering(world: World) -> Any:
    client = await world.watch("leak")
    await client.pictures(0, 500)
    await world.hosted["encoder-0"].kill()
    await client.pictures(1000)
    return client.call


async def after_end(world: World) -> Any:
    world.encoder.gate.clear()
    client = await world.watch("leak")
    await client.pictures(0, 500)
    await client.end()
    return client.call


async def after_goodbye(world: World) -> Any:
    client = await world.watch("leak")
    await client.pictures(0)
    await client.end()
    await client.finished()
    return client.call


STATES = [
    while_opening,
    when_welcomed,
    with_media,
    with_a_full_encoder,
    while_asking,
    while_waiting_for_frames,
    while_recovering,
    after_end,
    after_goodbye,
]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_a_client_that_vanishes_in_any_state_leaves_nothing(
    tmp_path: Path, state: Callable[[World], Awaitable[Any]]
) -> None:
    async with World(tmp_path) as world:
        warm = await world.watch("warm")
        await warm.pictures(0)
        await warm.ask()
        await warm.answer()
        await asyncio.sleep(0.3)
        tasks, files = _tasks(), _files()
        call = await state(world)
        call.cancel()
        await world.until(lambda: "leak" not in _streams(world) or _session(world).outbox is None)
        if "leak" in _streams(world):
            _session(world).alone_since_s = -1e9
            await world.until(lambda: _session_is_expired(world) or "leak" not in _streams(world), 20)
        if "encoder-0" in world.hosted and world.hosted["encoder-0"].server is None:
            await world.add("encoder-0")
        world.encoder.gate.set()
        world.reasoner.gate.set()
        await world.until(lambda: "leak" not in _streams(world), 20)
        await world.until(lambda: "leak" not in world.reasoner.streams)
        await warm.pictures(500)
        await warm.ask("still")
        assert (await warm.answer("still")).text == "0 500 "
        await world.until(lambda: world.encoder.active == 1 and world.reasoner.active == 0)
        gc.collect()
        try:
            await world.until(lambda: not _extra(tasks), 5)
        except TimeoutError:
            raise AssertionError(_extra(tasks)) from None
        assert _files() <= files + 2
        assert not list((tmp_path / "streams").glob("leak*"))


def _streams(world: World) -> set[str]:
    return {stream.session.stream_id for stream in world.app.streams}


def _session(world: World) -> Any:
    return world.app.streams.get("leak").session


def _session_is_expired(world: World) -> bool:
    """Questions keep a stream: stop them as their budget would."""
    for stream in world.app.streams:
        if stream.session.stream_id == "leak":
            stream.questions.cancel("q")
            stream.session.alone_since_s = -1e9
    return False


def _tasks() -> Counter[str]:
    """What runs, by name, or by what it runs: gRPC and the fakes give their tasks no names."""
    return Counter(
        getattr(task.get_coro(), "__qualname__", "?")
        if task.get_name().startswith("Task-")
        else task.get_name()
        for task in asyncio.all_tasks()
    )


def _extra(before: Counter[str]) -> list[str]:
    """What runs more often than it did. Services may have been started anew: what follows them is theirs."""
    return [name for name in _tasks() - before if not name.startswith(("follow", "child"))]


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_pictures_that_are_refused_do_not_fill_the_window_of_the_client(tmp_path: Path) -> None:
    settings = ClientSettings(window_bytes=3000)
    async with (
        World(tmp_path) as world,
        tandem.connect(world.app.address, settings=settings) as t,
        t.watch(MediaKind.PICTURES) as stream,
    ):
        async with asyncio.timeout(10):
            for number in range(20):  # 1000 bytes are not 10x10 pixels
                await stream.push_picture(
                    bytes(1000), pts_us=number, picture_format=PictureFormat.RGB24, width=10, height=10
                )
            await stream.push_picture(b"jpeg", pts_us=1_000_000)
            assert (await stream.ask("what?")).text == "1000 "
        assert stream.unacknowledged_bytes < 1000


async def test_a_disk_that_takes_nothing_does_not_stop_bytes_with_a_small_window(tmp_path: Path) -> None:
    settings = ClientSettings(window_bytes=3000)
    async with World(tmp_path) as world:
        world.reasoner.durable_us = 0
        async with (
            tandem.connect(world.app.address, settings=settings) as t,
            t.watch(MediaKind.H264_ANNEX_B) as stream,
        ):
            async with asyncio.timeout(10):
                for number in range(20):
                    await stream.push_chunk(bytes([number]) * 1000)
                await world.until(lambda: not stream.unacknowledged_bytes)
            assert stream.progress.safe_position == 0, "all of it may be asked for again"
