"""The client against a real gRPC server with written-down behaviour."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

import tandem
from tandem.client import (
    Answer,
    AnswerDelta,
    ClientSettings,
    ConnectionLost,
    FinishReason,
    GapNoticed,
    MediaKind,
    Opened,
    PictureFormat,
    Progress,
    Refusal,
)
from tandem.core.errors import (
    AlreadyExists,
    BadMedia,
    BadQuestion,
    DeadlineExceeded,
    LimitExceeded,
    NotFound,
    Unavailable,
    WrongState,
)
from tandem.core.timeline import Gap, GapReason, TimeRange
from tests.integration.scripted_server import Script, serve

QUICK = ClientSettings(open_timeout_s=2.0, give_up_s=5.0, backoff_first_s=0.02, backoff_cap_s=0.1)


async def push_all(stream: tandem.client.Stream, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        await stream.push_picture(b"jpeg-%d" % number, pts_us=number * 500_000)


async def wait_until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.01)


async def test_pictures_questions_and_the_end() -> None:
    async with serve(Script()) as (address, server), tandem.connect(address) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="door") as stream:
            await push_all(stream, 3)
            answer = await stream.ask("what is shown?")
            assert stream.stream_id == "door"
            assert stream.position == 3
        assert answer.text == "you asked: what is shown?"
        assert answer.finish_reason is FinishReason.END
        assert answer.watermark_us == 1_000_000, "the question came after the pictures pushed before it"
        assert answer.evidence == (TimeRange(0, 1_000_000),)
        assert (answer.usage.answer_tokens, answer.timings.first_token_ms) == (3, 12.5)
        held = server.streams["door"]
        assert held.pts == [0, 500_000, 1_000_000]
        assert held.ended
        assert stream.progress.blocks == 3


async def test_text_comes_in_pieces() -> None:
    async with (
        serve(Script()) as (address, _),
        tandem.connect(address) as t,
        t.watch(MediaKind.PICTURES) as stream,
    ):
        assert [piece async for piece in stream.ask_stream("hm?")] == ["you ", "asked: ", "hm?"]


async def test_chunks_are_cut_to_the_servers_limit() -> None:
    async with serve(Script(max_message_bytes=1000)) as (address, server), tandem.connect(address) as t:
        async with t.watch(MediaKind.MPEG_TS, stream_id="ts") as stream:
            assert await stream.push_chunk(bytes(range(250)) * 10) == 2500
        assert bytes(server.streams["ts"].media) == bytes(range(250)) * 10


async def test_events_tell_everything() -> None:
    async with serve(Script()) as (address, server), tandem.connect(address) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            events = stream.events()
            server.streams["s"].gaps.append(Gap(TimeRange(5, 9), GapReason.OVERLOAD))
            await push_all(stream, 1)
            await stream.push_picture(b"broken", pts_us=600_000)
            await stream.ask("q?")
        seen = [event async for event in events]
        kinds = {type(event) for event in seen}
        assert {Progress, GapNoticed, Refusal, AnswerDelta, Answer} <= kinds
        refusal = next(event for event in seen if isinstance(event, Refusal))
        assert refusal.position == 1
        assert isinstance(refusal.error, BadMedia)
        assert sum(isinstance(event, GapNoticed) for event in seen) == 1, "a known gap is not told twice"


@pytest.mark.parametrize("break_at", [[0], [3], [2, 5, 7]])
async def test_a_broken_connection_loses_no_picture(break_at: list[int]) -> None:
    losses = len(break_at)
    async with (
        serve(Script(break_at=break_at)) as (address, server),
        tandem.connect(address, settings=QUICK) as t,
    ):
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            events = stream.events()
            await push_all(stream, 10)
            answer = await stream.ask("after?")
        assert server.streams["s"].pts == [number * 500_000 for number in range(10)]
        assert answer.text == "you asked: after?"
        lost = [event async for event in events if isinstance(event, ConnectionLost | Opened)]
        assert [type(event) for event in lost] == [ConnectionLost, Opened] * losses
        assert [request.resume_token for request in server.opens] == ["", *["token-s"] * losses]


async def test_chunks_go_on_at_any_byte() -> None:
    data = bytes(range(256)) * 20
    script = Script(break_at=[2000], safe_lags=10_000)
    async with serve(script) as (address, server), tandem.connect(address, settings=QUICK) as t:
        async with t.watch(MediaKind.MPEG_TS, stream_id="s") as stream:
            for start in range(0, 2000, 500):
                await stream.push_chunk(data[start : start + 500])
            script.goes_on_from = 777
            await stream.push_chunk(data[2000:])
        held = server.streams["s"]
        assert bytes(held.media) == data[:2000] + data[777:]


async def test_an_answer_that_was_cut_comes_once() -> None:
    async with (
        serve(Script(break_answer=["long?"])) as (address, server),
        tandem.connect(address, settings=QUICK) as t,
    ):
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            await push_all(stream, 2)
            pieces = [piece async for piece in stream.ask_stream("long?")]
        assert "".join(pieces) == "you asked: long?"
        assert server.streams["s"].questions == ["long?", "long?"], "it was asked again after the loss"


async def test_a_server_that_forgot_the_stream_is_fed_anew_and_the_gap_told() -> None:
    script = Script(safe_lags=2, break_at=[6])
    async with serve(script) as (address, server), tandem.connect(address, settings=QUICK) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            events = stream.events()
            await push_all(stream, 6)
            await wait_until(lambda: stream.progress.watermark_us == 2_500_000)
            del server.streams["s"]
            await push_all(stream, 2, start=6)
        held = server.streams["s"]
        assert held.pts == [2_000_000, 2_500_000, 3_000_000, 3_500_000], "kept from the safe position on"
        gaps = [event.gap for event in [e async for e in events] if isinstance(event, GapNoticed)]
        assert Gap(TimeRange(0, 2_500_000), GapReason.ORCHESTRATOR_LOST) in gaps
        assert stream.position == 8


async def test_pushing_waits_when_too_much_is_unacknowledged() -> None:
    settings = ClientSettings(window_bytes=2000, retain_bytes=4000)
    script = Script(acknowledge=False)
    async with (
        serve(script) as (address, server),
        tandem.connect(address, settings=settings) as t,
        t.watch(MediaKind.PICTURES, stream_id="s") as stream,
    ):
        await stream.push_picture(bytes(900), pts_us=0)
        await stream.push_picture(bytes(900), pts_us=1)
        third = asyncio.create_task(stream.push_picture(bytes(900), pts_us=2))
        await asyncio.sleep(0.2)
        assert not third.done()
        assert stream.unacknowledged_bytes == 1800
        script.acknowledge = True
        server.tell_progress("s")
        assert await asyncio.wait_for(third, 5) == 2


async def test_what_the_server_would_refuse_is_not_sent() -> None:
    async with serve(Script(max_message_bytes=1000)) as (address, server), tandem.connect(address) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            with pytest.raises(LimitExceeded, match="the server takes 1000"):
                await stream.push_picture(bytes(2000), pts_us=0)
            with pytest.raises(BadMedia, match="0 bytes"):
                await stream.push_picture(b"", pts_us=0)
            with pytest.raises(BadQuestion, match="empty"):
                await stream.ask("  ")
            with pytest.raises(BadQuestion, match="300 characters"):
                await stream.ask("x" * 300)
            with pytest.raises(WrongState, match="opened for pictures"):
                await stream.push_chunk(b"bytes")
            await push_all(stream, 1)
            assert (await stream.ask("still here?")).text == "you asked: still here?"
        assert server.streams["s"].pts == [0]


async def test_a_failed_answer_raises_its_error_and_the_stream_goes_on() -> None:
    async with (
        serve(Script()) as (address, _),
        tandem.connect(address) as t,
        t.watch(MediaKind.PICTURES) as stream,
    ):
        with pytest.raises(BadMedia, match="scripted failure"):
            await stream.ask("please fail")
        assert (await stream.ask("ok?")).finish_reason is FinishReason.END


async def test_a_question_that_nobody_waits_for_is_cancelled() -> None:
    async with serve(Script(silent={"never?"})) as (address, server), tandem.connect(address) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            with pytest.raises(DeadlineExceeded):
                await stream.ask("never?", question_id="n1", timeout_s=0.1)
            await stream.ask("next?")
        assert server.streams["s"].cancelled == ["n1"]


async def test_refusals_of_the_open_are_typed() -> None:
    async with (
        serve(Script()) as (address, _),
        tandem.connect(address, settings=QUICK) as t,
        t.watch(MediaKind.PICTURES, stream_id="s"),
    ):
        with pytest.raises(AlreadyExists, match="exists"):
            async with t.watch(MediaKind.PICTURES, stream_id="s"):
                pass


async def test_an_overrun_server_is_tried_again() -> None:
    script = Script(refuse_open=[Unavailable("starting"), Unavailable("starting")])
    async with serve(script) as (address, server), tandem.connect(address, settings=QUICK) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            await push_all(stream, 1)
        assert len(server.opens) == 3


async def test_nobody_there_says_what_to_do() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        settings = ClientSettings(connect_timeout_s=0.3)
        async with tandem.connect(address, settings=settings) as t:
            with pytest.raises(Unavailable, match=f"nothing answers at {address}; start"):
                async with t.watch(MediaKind.PICTURES):
                    pass
            with pytest.raises(Unavailable, match="tandem up"):
                await t.streams(timeout_s=1.0)


async def test_a_server_that_stays_away_fails_everything_that_waits() -> None:
    settings = ClientSettings(give_up_s=0.4, backoff_first_s=0.05, backoff_cap_s=0.1)
    async with AsyncExitStack() as server:
        address, _ = await server.enter_async_context(serve(Script(silent={"never?"})))
        async with (
            tandem.connect(address, settings=settings) as t,
            t.watch(MediaKind.PICTURES, stream_id="s") as stream,
        ):
            events = stream.events()
            waiting = asyncio.create_task(stream.ask("never?"))
            await asyncio.sleep(0.05)
            await server.aclose()
            with pytest.raises(Unavailable):
                await waiting
            with pytest.raises(Unavailable):
                await stream.push_picture(b"x", pts_us=0)
            with pytest.raises(Unavailable):
                [event async for event in events]


async def test_a_stream_can_be_left_and_resumed_by_another_client() -> None:
    async with serve(Script()) as (address, server):
        async with tandem.connect(address) as t:
            stream = t.watch(MediaKind.PICTURES, stream_id="s")
            async with stream:
                await push_all(stream, 4)
                await stream.ask("seen?")
                info = stream.info
                await stream.abandon()
                with pytest.raises(WrongState):
                    await push_all(stream, 1)
        async with (
            tandem.connect(address) as t,
            t.watch(MediaKind.PICTURES, stream_id="s", resume_token=info.resume_token) as again,
        ):
            assert again.info.resumed
            assert again.position == 4
            await push_all(again, 2, start=4)
        assert server.streams["s"].pts == [number * 500_000 for number in range(6)]


async def test_second_client_asks_lists_and_reads_the_status() -> None:
    async with serve(Script()) as (address, _), tandem.connect(address) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            await push_all(stream, 2)
            await stream.ask("sync?")
            answer = await t.ask("s", "who?")
            assert answer.text == "you asked: who?"
            pieces = [piece async for piece in t.ask_stream("s", "who?")]
            assert pieces[:3] == ["you ", "asked: ", "who?"]
            assert isinstance(pieces[3], Answer)
            assert [item.stream_id for item in await t.streams()] == ["s"]
        status = await t.status()
        assert status.ready
        assert status.build.version == "0.2.0"
        with pytest.raises(NotFound, match="nope"):
            await t.ask("nope", "who?")
        with pytest.raises(BadMedia):
            await t.ask("s", "please fail")


async def test_raw_pictures_carry_their_size() -> None:
    async with serve(Script()) as (address, server), tandem.connect(address) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="s") as stream:
            await stream.push_picture(
                bytes(12), pts_us=0, picture_format=PictureFormat.RGB24, width=2, height=2
            )
        assert len(server.streams["s"].media) == 12


async def test_nothing_is_left_behind() -> None:
    async with serve(Script(break_at=[3])) as (address, _):
        before = len(asyncio.all_tasks())
        for _ in range(5):
            async with tandem.connect(address, settings=QUICK) as t, t.watch(MediaKind.PICTURES) as stream:
                stream.events()
                await push_all(stream, 6)
                await stream.ask("q?")
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) <= before
