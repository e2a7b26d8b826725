"""The orchestrator's metrics with scripted services: every value follows from what the test did."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.metrics import METRICS
from tandem.client import connect
from tandem.commands.base import Exit
from tandem.core.meters import LABELS
from tandem.wire.accepting import LOWEST_PROTOCOL
from tandem.wire.attach import attach_proof
from tandem.wire.gen.tandem.v1 import registry_pb2, registry_pb2_grpc, types_pb2
from tests.integration.orchestrator_fakes import MODEL, World
from tests.integration.scraping import Scrape, scrape
from tests.integration.test_client_commands import tandem


async def look(world: World) -> Scrape:
    return await scrape(world.app.watched.address)


async def test_a_known_stream_gives_known_values(tmp_path: Path) -> None:
    async with World(tmp_path, metrics="127.0.0.1:0") as world:
        client = await world.watch()
        await client.pictures(0, 500, 1000, 1500)
        await client.picture(100)  # goes back in time: refused
        await client.picture(5000, b"bad")  # the encoder refuses it
        await client.ask("q", workers=types_pb2.Workers(count=2))
        answer = await client.answer("q")
        await client.ask("never", text=" ")  # refused
        await client.stand("s", expect=" ")  # refused
        await client.until(lambda: len(client.refusals) == 4)
        seen = await look(world)
        assert {metric.name for metric in METRICS} <= seen.names
        assert seen.label_names() <= LABELS | {"le", "version"}

        assert seen("tandem_streams_active", outcome="live") == 1
        assert seen("tandem_streams_attached") == 1
        assert seen("tandem_stream_opens_total", outcome="new", reason="") == 1
        assert seen("tandem_frames_total", outcome="received", reason="") == 5
        assert seen("tandem_frames_total", outcome="refused", reason="bad_timestamp") == 1
        assert seen("tandem_media_bytes_total") == 4 * len(b"jpeg") + len(b"bad")
        assert seen("tandem_blocks_published_total") == 4
        assert seen("tandem_placements_total", outcome="first") == 1
        assert seen("tandem_services", role="encoder", outcome="ready") == 1
        assert seen("tandem_backlog_bytes") > 0

        assert answer.text == "0 500 1000 1500 "
        assert seen("tandem_questions_total", outcome="end", reason="") == 1
        for name in ("time_to_first_token", "time_to_first_thought", "question_duration", "question_wait"):
            assert seen(f"tandem_{name}_seconds_count") == 1, name
        total_s = answer.timings.total_ms / 1000
        assert seen("tandem_question_duration_seconds_sum") == pytest.approx(total_s, abs=0.05)
        # Asked as of 5.000001 s, and the last block ends at 2 s.
        assert seen("tandem_answer_staleness_seconds_sum") == pytest.approx(3.000001)
        assert seen("tandem_admission_rejections_total", outcome="question", reason="bad_question") == 1
        assert seen("tandem_admission_rejections_total", outcome="standing", reason="bad_question") == 1

        await asyncio.sleep(1.3)
        later = await look(world)
        assert later("tandem_frame_lag_seconds_count") >= 1
        await client.end(forget=True)
        await client.finished()
        await world.until(lambda: len(world.app.streams) == 0)
        over = await look(world)
        assert over("tandem_stream_closes_total", outcome="closed", reason="") == 1
        assert over("tandem_streams_active", outcome="live") == 0
        assert over("tandem_blocks_published_total") == 4


async def test_what_fails_is_counted_with_its_reason(tmp_path: Path) -> None:
    async with World(tmp_path, metrics="127.0.0.1:0", max_streams=1) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        with pytest.raises(grpc.aio.AioRpcError):
            await (await world.watch("one-too-many")).finished()
        world.reasoner.gate.clear()
        await client.ask("stopped")
        await client.until(lambda: "stopped" in client.deltas)
        assert (await look(world))("tandem_questions_open") == 1
        await client.cancel("stopped")
        await client.answer("stopped")
        seen = await look(world)
        assert seen("tandem_stream_opens_total", outcome="refused", reason="limit_exceeded") == 1
        assert seen("tandem_admission_rejections_total", outcome="stream", reason="limit_exceeded") == 1
        assert seen("tandem_questions_total", outcome="cancelled", reason="") == 1
        assert seen("tandem_questions_open") == 0


async def test_a_lost_encoder_and_a_lost_reasoner_are_told_apart(tmp_path: Path) -> None:
    async with World(tmp_path, metrics="127.0.0.1:0") as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.until(lambda: client.progress.blocks == 2)
        for name in ("encoder-0", "reasoner-0"):
            await world.hosted[name].kill()
            await world.until(lambda: len(world.app.streams) == 1)
            await asyncio.sleep(0.2)
            await world.add(name)
            await client.pictures(1000 if name == "encoder-0" else 1500)
            blocks = 3 if name == "encoder-0" else 4
            await client.until(lambda blocks=blocks: client.progress.blocks == blocks)
        seen = await look(world)
        for role in ("encoder", "reasoner"):
            assert seen("tandem_recovery_seconds_count", role=role) == 1, role
            assert 0.2 <= seen("tandem_recovery_seconds_sum", role=role) < 5
            assert seen("tandem_service_restarts_total", role=role) == 1
        assert seen("tandem_placement_breaks_total", reason="unavailable") >= 2
        assert seen("tandem_placements_total", outcome="again") == 2
        # What the replay published again for the new reasoner was published before.
        assert seen("tandem_blocks_published_total") == 4

        async with connect(world.app.address) as front:
            (stream,) = await front.streams()
            status = await front.status()
        assert stream.placed_because
        assert stream.last_error
        assert 0 <= stream.last_error_age_s < 30
        assert stream.epoch == 3
        assert {service.last_loss for service in status.services} == {"its attachment ended"}


async def test_a_silent_service_is_an_expired_lease(tmp_path: Path) -> None:
    async with World(tmp_path, metrics="127.0.0.1:0") as world:
        who = ("encoder-9", "encoder", "b" * 16, "127.0.0.1:9")
        hello = registry_pb2.AttachRequest.Hello(
            name=who[0],
            role=who[1],
            address=who[3],
            build=types_pb2.BuildInfo(boot_id=who[2]),
            model=MODEL,
            proof=attach_proof(world.app.cluster.secret, *who),
            protocol=LOWEST_PROTOCOL,
        )
        stub: Any = registry_pb2_grpc.RegistryServiceStub(world.channel)
        call = stub.Attach()
        await call.write(registry_pb2.AttachRequest(hello=hello))
        await world.until(lambda: world._ready() == 3)
        await world.until(lambda: world._ready() == 2)
        seen = await look(world)
        call.cancel()
    assert seen("tandem_leases_expired_total", role="encoder") == 1
    assert seen("tandem_leases_expired_total", role="reasoner") == 0
    assert seen("tandem_services", role="encoder", outcome="lost") == 1


async def test_an_operator_sees_what_is_down_since_when_and_why(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await client.picture(9000)  # the source paused; a picture was lost before it
        await client.until(lambda: client.progress.blocks == 3)
        await world.hosted["encoder-0"].kill()
        await world.until(lambda: world._ready() == 1)
        sick, listed = await asyncio.gather(
            tandem("doctor", "--no-model", "--address", world.app.address),
            tandem("streams", "--why", "--address", world.app.address),
        )
        assert sick.code == Exit.FINDING, sick.out
        for part in (
            "BAD  encoder-0 (encoder at",
            "is lost, 0 streams, 0 restarts",
            "its attachment ended",
            "see encoder-0.log in the run directory",
            "BAD  no encoder and reasoner are ready",
        ):
            assert part in sick.out, part
        assert "encoder-0 and reasoner-0: it was let in there (placement 1)" in listed.out
        # Which of its two calls is seen to end first is chance.
        why = r"(encoder encoder-0 is gone: its attachment ended|encoding on encoder-0: )"
        assert re.search(f"BAD  stream cam is recovering: {why}", sick.out), sick.out
        assert re.search(f"s ago: {why}", listed.out), listed.out
        await world.add("encoder-0")
        await client.pictures(9500)
        await client.until(lambda: client.progress.blocks == 4)
        well = await tandem("doctor", "--no-model", "--address", world.app.address)
    assert well.code == Exit.OK, well.out
    assert "note  encoder-0 was lost" in well.out
    assert "note  stream cam was interrupted" in well.out
    assert "everything is well" in well.out
