"""Losses with scripted services: what is replayed, what becomes a gap, what open questions are told."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import grpc
import pytest

import tandem
from orchestrator import streams
from orchestrator.backlog import Bounds
from tandem.client.types import MediaKind
from tandem.core.errors import Incompatible, Unavailable
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tests.integration.orchestrator_fakes import MODEL, Client, World

NOTHING_KEPT = Bounds(keep_us=0)


def gaps_of(client: Client) -> list[tuple[int, int, str]]:
    return [
        (
            gap.range.start_us // 1000,
            gap.range.end_us // 1000,
            types_pb2.GapReason.Name(gap.reason).removeprefix("GAP_REASON_").lower(),
        )
        for gap in client.progress.gaps
    ]


async def test_a_lost_encoder_costs_no_frame_even_when_its_last_progress_was_lost(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        world.encoder.die_after = 3
        await client.pictures(0, 500, 1000, 1500, 2000)
        await client.ask()
        assert (await client.answer()).text == "0 500 1000 1500 2000 "
        assert gaps_of(client) == []
        epochs = [opening.epoch for opening in world.encoder.opens]
        assert epochs == [1, 2]
        resume = world.encoder.opens[1].resume
        assert resume.next_block_number == 4
        assert resume.from_us == 1_500_000
        assert resume.position <= 3


async def test_an_encoder_that_is_gone_for_a_while(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.until(lambda: client.progress.blocks == 2)
        await world.hosted["encoder-0"].kill()
        await client.pictures(1000, 1500)
        await client.ask("at-once", answer_from_published=True)
        assert (await client.answer("at-once")).text == "0 500 "
        await client.ask("waits")
        await world.add("encoder-0")
        assert (await client.answer("waits")).text == "0 500 1000 1500 "
        assert gaps_of(client) == []


async def test_a_second_encoder_takes_over(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.add("encoder-1")
        client = await world.watch()
        await client.pictures(0, 500)
        await client.until(lambda: client.progress.blocks == 2)
        used = world.app.streams.get("cam").session.encoder
        await world.hosted[used].kill()
        await client.pictures(1000)
        await client.ask()
        assert (await client.answer()).text == "0 500 1000 "
        assert world.app.streams.get("cam").session.encoder != used


async def test_a_lost_reasoner_costs_only_what_is_not_kept(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500, 1000)
        await client.until(lambda: client.progress.blocks == 3)
        await world.hosted["reasoner-0"].kill()
        await world.add("reasoner-0")
        await client.pictures(1500)
        await client.ask()
        assert (await client.answer()).text == "0 500 1000 1500 "
        assert gaps_of(client) == []


async def test_the_gap_of_a_lost_reasoner_is_told(tmp_path: Path) -> None:
    async with World(tmp_path, bounds=NOTHING_KEPT) as world:
        client = await world.watch()
        await client.pictures(0, 500, 1000)
        await client.until(lambda: client.progress.blocks == 3)
        await world.hosted["reasoner-0"].kill()
        await world.add("reasoner-0")
        await client.pictures(1500)
        await client.ask()
        answer = await client.answer()
        assert answer.text.split()[-1] == "1500"
        await client.until(lambda: bool(client.progress.gaps))
        [(start, end, reason)] = gaps_of(client)
        assert (start, reason) == (0, "reasoner_lost")
        assert f"{end} " in answer.text or end == 1500
        assert [gap.reason for gap in answer.gaps] == [types_pb2.GAP_REASON_REASONER_LOST]


async def test_a_question_in_the_middle_of_its_answer_fails_with_its_reason(tmp_path: Path) -> None:
    async with World(tmp_path, bounds=NOTHING_KEPT) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        world.reasoner.gate.clear()
        await client.ask("half")
        await client.until(lambda: "half" in client.deltas)
        await world.hosted["reasoner-0"].kill()
        answer = await client.answer("half")
        assert answer.finish_reason == types_pb2.FINISH_REASON_ERROR
        assert answer.error.code == "data_lost"
        assert answer.text == "0 "


async def test_an_open_question_is_asked_again_when_the_reasoner_is_back(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.until(lambda: client.progress.blocks == 2)
        await world.hosted["reasoner-0"].kill()
        await client.ask("early", answer_from_published=True)
        await asyncio.sleep(0.3)
        await world.add("reasoner-0")
        answer = await client.answer("early")
        assert answer.error.code == ""
        assert answer.text.startswith("0 ")


async def test_a_question_after_the_loss_of_a_reasoner_waits_for_the_whole_replay(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500, 1000)
        await client.until(lambda: client.progress.blocks == 3)
        # The replay hangs after its first picture: an answer from that one alone would look whole.
        world.encoder.pause_after = world.encoder.taken + 1
        await world.hosted["reasoner-0"].kill()
        await client.ask("q", latency_budget_ms=200)
        await world.add("reasoner-0")
        await world.until(lambda: "cam" in world.reasoner.streams and world.reasoner.streams["cam"].blocks)
        await asyncio.sleep(0.5)
        assert "q" not in client.answers
        world.encoder.gate.set()
        assert (await client.answer("q")).text == "0 500 1000 "


async def test_a_lost_reasoner_of_an_ended_stream_is_replayed(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.end()
        await client.finished()
        await world.hosted["reasoner-0"].kill()
        await world.add("reasoner-0")
        session = world.app.streams.get("cam").session
        await world.until(lambda: "cam" in world.reasoner.streams and session.state == "ended")
        request = client_pb2.AskRequest(stream_id="cam", question=types_pb2.Question(text="what?"))
        events = [event async for event in world.stub.Ask(request)]
        assert events[-1].answer.text == "0 500 "


async def test_a_silent_encoder_is_fenced_when_its_lease_runs_out(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0)
        await client.until(lambda: client.progress.blocks == 1)
        # Frozen: it takes nothing in and beats no more, but its connections stay.
        world.encoder.gate.clear()
        attachment = world.hosted["encoder-0"].attachment
        assert attachment is not None
        attachment._load = _freeze  # type: ignore[assignment]
        await world.add("encoder-1")
        await client.pictures(500)
        await client.ask(latency_budget_ms=8000)
        assert (await client.answer()).text == "0 500 "
        assert world.app.streams.get("cam").session.encoder == "encoder-1"
        world.encoder.gate.set()
        await client.pictures(1000)
        await client.ask("q2")
        assert (await client.answer("q2")).text == "0 500 1000 "


def _freeze() -> None:
    raise RuntimeError("frozen")


async def test_a_killed_orchestrator_knows_where_to_go_on(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        first = await world.watch()
        token = first.welcome.resume_token
        await first.pictures(0, 500, 1000)
        await first.until(lambda: first.progress.safe_position == 3)
        await _kill_orchestrator(world)
    async with World(tmp_path) as world:
        second = await world.watch(token=token)
        assert not second.welcome.resumed
        assert second.welcome.next_position == 3
        await second.pictures(1500)
        await second.ask()
        answer = await second.answer()
        assert answer.text == "1500 "
        await second.until(lambda: bool(second.progress.gaps))
        assert gaps_of(second) == [(0, 1500, "orchestrator_lost")]
        assert [gap.reason for gap in answer.gaps] == [types_pb2.GAP_REASON_ORCHESTRATOR_LOST]


async def test_an_orchestrator_without_a_journal_declares_what_came_before(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        first = await world.watch()
        token = first.welcome.resume_token
        await first.pictures(0, 500)
        await _kill_orchestrator(world)
    for record in (tmp_path / "streams").glob("*.json"):
        record.write_text("{broken")
    async with World(tmp_path) as world:
        second = await world.watch(token=token)
        assert (second.welcome.resumed, second.welcome.next_position) == (False, 0)
        await second.pictures(1000)
        await second.until(lambda: bool(second.progress.gaps))
        assert gaps_of(second) == [(0, 1000, "orchestrator_lost")]


async def test_a_full_backlog_gives_up_the_oldest_waiting_pictures(tmp_path: Path) -> None:
    bounds = Bounds(max_bytes=16 * 1024 * 1024, max_wait_s=0.5, ahead_items=2)
    async with World(tmp_path, bounds=bounds) as world:
        client = await world.watch()
        await client.pictures(0)
        await client.until(lambda: client.progress.blocks == 1)
        world.encoder.gate.clear()
        await client.pictures(500, 1000, 1500, 2000)
        await client.until(lambda: bool(client.progress.gaps))
        await client.pictures(2500)
        world.encoder.gate.set()
        await client.ask()
        answer = await client.answer()
        assert answer.text == "0 500 1000 2500 "
        [(start, end, reason)] = gaps_of(client)
        assert (start, reason) == (1500, "backlog_full")
        assert 2000 <= end <= 2500


async def test_a_stream_waits_for_services_that_start(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.hosted["encoder-0"].kill()
        opening = asyncio.create_task(world.watch())
        await asyncio.sleep(0.3)
        assert not opening.done()
        await world.add("encoder-0")
        client = await opening
        await client.pictures(0)
        await client.ask()
        assert (await client.answer()).text == "0 "


async def test_an_encoder_that_cannot_read_the_media_ends_the_stream(tmp_path: Path) -> None:
    import grpc

    async with World(tmp_path) as world:
        world.encoder.open_error = Incompatible("other model")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.watch()
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await world.until(lambda: len(world.app.streams) == 0)


async def test_services_of_different_models_end_the_stream_at_once(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.hosted["reasoner-0"].close()
        await world.add("reasoner-0", types_pb2.ModelInfo(source="other", fingerprint="0" * 32))
        await world.until(lambda: all(member.is_ready for member in world.app.cluster.members))
        with pytest.raises(Incompatible, match=f"{MODEL.fingerprint}.*{'0' * 32}"):
            async with (
                asyncio.timeout(5),
                tandem.connect(world.app.address) as client,
                client.watch(MediaKind.PICTURES, stream_id="cam"),
            ):
                pass
        await world.until(lambda: len(world.app.streams) == 0)


async def _kill_orchestrator(world: World) -> None:
    """As near to SIGKILL as one process can come: nothing is written, nobody is told."""
    app = world.app
    assert app._server is not None
    app.streams._journal.save = lambda record: b""  # type: ignore[method-assign]
    await app._server.stop(0)


async def test_a_token_of_a_former_stream_of_the_same_id_is_refused(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        first = await world.watch()
        await first.end(forget=True)
        await first.finished()
        await world.until(lambda: not len(world.app.streams))
        second = await world.watch()
        await second.pictures(0)
        await second.until(lambda: second.progress.safe_position == 1)
        with pytest.raises(grpc.aio.AioRpcError, match="does not belong"):
            await world.watch(token=first.welcome.resume_token)
        await _kill_orchestrator(world)
    async with World(tmp_path) as world:
        with pytest.raises(grpc.aio.AioRpcError, match="does not belong"):
            await world.watch(token=first.welcome.resume_token)
        third = await world.watch(token=second.welcome.resume_token)
        assert third.welcome.next_position == 1
        assert third.welcome.resume_token == second.welcome.resume_token


async def test_after_the_orchestrator_a_stream_is_kept_for_who_has_its_token(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        first = await world.watch()
        await first.pictures(0)
        await first.until(lambda: first.progress.safe_position == 1)
        await _kill_orchestrator(world)
    async with World(tmp_path) as world:
        with pytest.raises(grpc.aio.AioRpcError, match="kept for its former client"):
            await world.watch()
        record = tmp_path / "streams" / "cam.json"
        age_s = time.time() - 6
        os.utime(record, (age_s, age_s))
        assert (await world.watch()).welcome.next_position == 0


async def test_a_new_stream_has_one_deadline_for_all_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "OPEN_TIMEOUT_S", 0.5)
    async with World(tmp_path) as world:
        world.encoder.open_error = Unavailable("not now")
        began_s = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match="no encoder took the stream"):
            await world.watch()
        assert time.monotonic() - began_s < 5
        await world.until(lambda: not len(world.app.streams))


async def test_a_question_during_a_replay_waits_for_all_of_it(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(*range(0, 5000, 500))
        await client.until(lambda: client.progress.blocks == 10)
        world.encoder.pause_after = world.encoder.taken + 3
        await world.hosted["reasoner-0"].kill()
        await world.add("reasoner-0")
        await client.until(lambda: client.progress.blocks == 3)
        await client.ask("replay", latency_budget_ms=100)
        await asyncio.sleep(0.5)
        assert not client.deltas
        world.encoder.gate.set()
        assert len((await client.answer("replay")).text.split()) == 10
        assert list(world.app.cluster.placed) == ["encoder-0", "reasoner-0"]
        await world.hosted["encoder-0"].kill()
        await world.until(lambda: not world.app.cluster.placed)
