"""The front door with scripted services: order, progress, questions as of their time, end, resume."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.limits import Limits
from tandem.wire.gen.tandem.v1 import client_pb2, reasoner_pb2, types_pb2
from tests.integration.orchestrator_fakes import World


async def test_a_stream_from_open_to_goodbye(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        assert not client.welcome.resumed
        assert client.welcome.next_position == 0
        assert client.welcome.model.source == "fake"
        await client.pictures(0, 500, 1000)
        await client.ask("q1")
        answer = await client.answer("q1")
        assert answer.text == "0 500 1000 "
        assert client.deltas["q1"] == answer.text
        assert answer.finish_reason == types_pb2.FINISH_REASON_END
        assert answer.asked_us == 1_000_001
        assert answer.watermark_us == 1_500_000
        assert answer.evidence.blocks == 3
        assert 0 < answer.timings.first_token_ms <= answer.timings.total_ms
        assert answer.timings.prefill_ms == 2.0
        await client.pictures(1500)
        await client.end()
        await client.finished()
        assert client.goodbye is not None
        assert client.goodbye.progress.watermark_us == 2_000_000
        assert client.goodbye.progress.blocks == 4
        assert client.error is None


async def test_a_question_waits_for_the_frames_before_it_and_no_others(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0)
        await world.until(lambda: world.encoder.taken == 1)
        world.encoder.gate.clear()
        await client.pictures(500)
        await client.ask("waits")
        await client.ask("at-once", answer_from_published=True)
        assert (await client.answer("at-once")).text == "0 "
        assert "waits" not in client.answers
        await client.pictures(1000, 1500)
        world.encoder.gate.set()
        assert (await client.answer("waits")).text == "0 500 "


async def test_when_the_latency_budget_runs_out_the_answer_says_what_it_saw(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0)
        await world.until(lambda: world.encoder.taken == 1)
        world.encoder.gate.clear()
        await client.pictures(500)
        await client.ask(latency_budget_ms=200)
        answer = await client.answer()
        assert (answer.text, answer.watermark_us, answer.asked_us) == ("0 ", 500_000, 500_001)
        assert 190 <= answer.timings.wait_frames_ms < 1000


async def test_questions_do_not_wait_for_each_other_and_cancel_frees_the_reasoner(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        world.reasoner.gate.clear()
        await client.ask("slow")
        await client.until(lambda: client.deltas.get("slow") == "0 ")
        await client.cancel("nobody")
        await client.cancel("slow")
        answer = await client.answer("slow")
        assert answer.finish_reason == types_pb2.FINISH_REASON_CANCELLED
        assert answer.text == "0 "
        await world.until(lambda: world.reasoner.active == 0)
        world.reasoner.gate.set()
        await client.ask("next")
        assert (await client.answer("next")).text == "0 500 "


async def test_a_vanished_client_resumes_where_it_was(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        first = await world.watch()
        await first.pictures(0, 500)
        await first.until(lambda: first.progress.watermark_us == 1_000_000)
        await first.vanish()
        second = await world.watch(token=first.welcome.resume_token)
        assert second.welcome.resumed
        assert second.welcome.next_position == 2
        await second.pictures(1000)
        await second.ask()
        assert (await second.answer()).text == "0 500 1000 "


async def test_the_newer_connection_takes_the_stream_over(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        first = await world.watch()
        await first.pictures(0)
        second = await world.watch(token=first.welcome.resume_token)
        await first.finished()
        assert first.error is not None
        assert "already_exists" in str(first.error.trailing_metadata())
        await second.pictures(500)
        await second.ask()
        assert (await second.answer()).text == "0 500 "


async def test_a_question_survives_its_client_and_is_known_when_repeated(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        first = await world.watch()
        await first.pictures(0, 500)
        world.reasoner.gate.clear()
        await first.ask("open")
        await first.until(lambda: "open" in first.deltas)
        await first.vanish()
        second = await world.watch(token=first.welcome.resume_token)
        await second.ask("open")
        world.reasoner.gate.set()
        assert (await second.answer("open")).text == "0 500 "
        await second.vanish()
        third = await world.watch(token=first.welcome.resume_token)
        await third.ask("open")
        assert (await third.answer("open")).text == "0 500 "
        assert world.reasoner.questions == ["open"]


async def test_a_second_client_asks(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        question = types_pb2.Question(text="what?")
        call = world.stub.Ask(client_pb2.AskRequest(stream_id="cam", question=question))
        events = [event async for event in call]
        assert "".join(event.answer_delta.text for event in events) == "0 500 "
        assert events[-1].answer.text == "0 500 "


async def test_thoughts_are_told_with_worker_question_and_time(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.ask("q1", workers=types_pb2.Workers(count=2))
        answer = await client.answer("q1")
        told = [(t.question_id, t.number, t.worker, t.time_us, t.text) for t in client.thoughts]
        assert told == [("q1", 0, "w0", 1_000_000, "hm "), ("q1", 1, "w1", 1_000_000, "hm ")]
        assert (answer.text, len(answer.workers)) == ("0 500 ", 2)
        question = types_pb2.Question(text="what?", workers=types_pb2.Workers(count=3))
        call = world.stub.Ask(client_pb2.AskRequest(stream_id="cam", question=question))
        events = [event async for event in call]
        assert [event.WhichOneof("event") for event in events][:3] == ["thought"] * 3
        assert len(events[-1].answer.workers) == 3
        await client.ask("q2", workers=types_pb2.Workers(count=100))
        await client.until(lambda: bool(client.refusals))
        assert "workers.count is 100" in client.refusals[0].error.message


async def test_a_stream_stays_for_second_clients_until_it_expires(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0)
        await client.end()
        await client.finished()
        listed = (await world.stub.ListStreams(client_pb2.ListStreamsRequest())).streams
        assert [(s.stream_id, s.state, s.attached) for s in listed] == [("cam", "ended", False)]
        world.app.streams.get("cam").session.alone_since_s = -1e9
        await world.until(lambda: world.reasoner.closed == ["cam"])
        assert not world.reasoner.streams
        assert not world.app.streams


async def test_forget_frees_the_stream_at_once(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0)
        await client.end(forget=True)
        await client.finished()
        assert client.goodbye is not None
        await world.until(lambda: world.reasoner.closed == ["cam"])


async def test_a_byte_stream_is_asked_about_by_position(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch(kind=types_pb2.MEDIA_KIND_H264_ANNEX_B)
        await client.chunk(0, b"a" * 500)
        await client.chunk(400, b"a" * 100 + b"b" * 500)
        await client.ask()
        answer = await client.answer()
        assert answer.text == "0 500 "
        assert world.app.streams.get("cam").session.next_position == 1000


async def test_what_runs_is_told(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        status = await world.stub.GetStatus(client_pb2.GetStatusRequest())
        assert {(s.name, s.role, s.state) for s in status.services} == {
            ("encoder-0", "encoder", "ready"),
            ("reasoner-0", "reasoner", "ready"),
        }
        assert status.listeners == [f"{world.app.address} front door (plain)"]


async def test_evicted_intervals_become_gaps(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.until(lambda: client.progress.watermark_us == 1_000_000)
        epoch = world.app.streams.get("cam").session.epoch
        evicted = [types_pb2.TimeRange(start_us=0, end_us=500_000)]
        await world.reasoner.evictions.put(
            reasoner_pb2.StreamState(stream_id="cam", epoch=epoch, evicted=evicted)
        )
        await client.until(lambda: len(client.progress.gaps) == 1)
        assert client.progress.gaps[0].reason == types_pb2.GAP_REASON_EVICTED


@pytest.mark.parametrize("streams", [20])
async def test_streams_do_not_mix(tmp_path: Path, streams: int) -> None:
    async with World(tmp_path) as world:

        async def one(index: int) -> str:
            client = await world.watch(f"cam-{index}")
            await client.pictures(*(index * 1000 + i * 500 for i in range(4)))
            await client.ask()
            return (await client.answer()).text

        texts = await asyncio.gather(*(one(index) for index in range(streams)))
        assert texts == ["".join(f"{index * 1000 + i * 500} " for i in range(4)) for index in range(streams)]


async def test_news_that_cannot_be_used_does_not_end_the_news(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.until(lambda: client.progress.blocks == 2)
        epoch = world.app.streams.get("cam").session.epoch
        backwards = types_pb2.TimeRange(start_us=900_000, end_us=100_000)
        for state in (
            reasoner_pb2.StreamState(stream_id="cam", epoch=epoch, evicted=[backwards]),
            reasoner_pb2.StreamState(stream_id="cam", epoch=epoch, durable_watermark_us=700_000),
        ):
            await world.reasoner.evictions.put(state)
        await client.until(lambda: client.progress.durable_watermark_us == 700_000)


async def test_streams_that_nobody_knows_leave_a_reasoner_and_stay_on_disk(tmp_path: Path) -> None:
    async with World(tmp_path, limits=Limits(resume_seconds=1)) as world:
        await world.watch("cam")
        (tmp_path / "streams" / "journaled.json").write_text("")
        for stream in ("cam", "journaled", "stray"):
            await world.reasoner.evictions.put(reasoner_pb2.StreamState(stream_id=stream, epoch=9))
        await world.until(lambda: world.reasoner.closed == ["stray"])
        assert world.reasoner.kept_disk == {"stray": True}
        await asyncio.sleep(0.5)
        assert world.reasoner.closed == ["stray"]
