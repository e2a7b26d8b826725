"""Many streams: who is let in and at which rate, quotas, and overload from its first late unit to its end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import encoder_svc.loop
import tandem
from encoder_svc.app import EncoderApp
from encoder_svc.config import EncoderConfig
from encoder_svc.encode import Run, see_runs
from orchestrator.app import Orchestrator
from orchestrator.carried import carry
from orchestrator.config import OrchestratorConfig
from orchestrator.journal import encode_record
from orchestrator.naming import id_of
from orchestrator.quotas import Quota, Quotas
from orchestrator.tokens import resume_token
from reasoner_svc.app import Reasoner
from reasoner_svc.config import ReasonerConfig
from tandem.client import Client, MediaKind, MediaOptions, PictureFormat, Stream
from tandem.core.errors import LimitExceeded, TandemError
from tandem.core.overload import Overload
from tandem.core.timeline import GapReason
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tandem.wire.status import error_from_rpc
from tests.integration.orchestrator_fakes import World
from tests.integration.scraping import scrape
from tests.unit.encoder_svc.rig import model, png
from tests.unit.orchestrator.test_files import RECORD

COSTS = {"unit_seconds": "0.2", "unit_tokens": "64", "token_bytes": "1000", "window_units": "50"}
"""Of a fake encoder: a stream of 2 fps needs 0.4 of it."""


async def refusal_of(opening: Any) -> TandemError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await opening
    return error_from_rpc(caught.value, "opening")


async def test_a_stream_without_room_is_refused_or_let_in_at_less(tmp_path: Path) -> None:
    async with World(tmp_path, metrics="127.0.0.1:0") as world:
        world.hosted["encoder-0"].details = COSTS
        await world.until(lambda: any(member.details for member in world.app.cluster.members))
        kept = [await world.watch(f"cam{k}") for k in range(2)]
        error = await refusal_of(world.watch("third"))
        assert isinstance(error, LimitExceeded)
        assert "4 are kept for 2 streams; this stream needs at least 2" in error.message
        assert error.retry_after_s is not None
        assert error.retry_after_s >= 1.0
        modest = tandem.connect(world.app.address)
        async with (
            modest as t,
            t.watch(MediaOptions(kind=MediaKind.PICTURES, sample_fps=2.0, min_fps=0.5)) as stream,
        ):
            assert stream.info.sample_fps == pytest.approx(0.5)
            assert "its fair share of the rest is 0.5 frames per second" in stream.info.admission
            assert world.encoder.opens[-1].start_fps == pytest.approx(0.5)
            status = await t.status()
            assert [d.outcome for d in status.decisions] == ["admitted", "admitted", "refused", "degraded"]
            assert status.decisions[2].retry_after_s == pytest.approx(error.retry_after_s, abs=1e-3)
            seen = await scrape(world.app.watched.address)
            decisions = {("admitted", ""): 2, ("degraded", ""): 1, ("refused", "limit_exceeded"): 1}
            for (outcome, why), count in decisions.items():
                name = "tandem_admission_decisions_total"
                assert seen(name, outcome=outcome, reason=why) == count, outcome
            loads = {service.name: service.load for service in status.services}
            assert loads["encoder-0"] == pytest.approx(1.2), "what is asked for; 0.9 of it is promised"
        await kept[0].vanish()
        error = await refusal_of(world.watch("fourth"))
        assert error.retry_after_s is not None
        assert error.retry_after_s <= 5.1, "the stream without a client goes after resume_seconds"


async def test_quotas_of_a_tenant_are_its_own(tmp_path: Path) -> None:
    quotas = Quotas(
        tenants={"acme": Quota(streams=1, open_questions=1, weight=3.0), "b": Quota()}, default=None
    )
    async with (
        World(tmp_path, quotas=quotas) as world,
        tandem.connect(world.app.address) as t,
        t.watch(MediaKind.PICTURES, stream_id="a1", tenant="acme") as stream,
    ):
        assert (world.encoder.opens[-1].tenant, world.encoder.opens[-1].weight) == ("acme", 3.0)
        with pytest.raises(LimitExceeded, match="tenant acme has 1 of 1 streams"):
            async with t.watch(MediaKind.PICTURES, stream_id="a2", tenant="acme"):
                pass
        with pytest.raises(TandemError, match="'default' is not in the file of quotas"):
            async with t.watch(MediaKind.PICTURES):
                pass
        async with t.watch(MediaKind.PICTURES, stream_id="b1", tenant="b"):
            assert {(s.stream_id, s.tenant) for s in await t.streams()} == {("a1", "acme"), ("b1", "b")}
        await stream.push_picture(b"jpeg", pts_us=0)
        world.reasoner.gate.clear()
        first = stream.pose("one?")
        await world.until(lambda: world.reasoner.active == 1)
        with pytest.raises(LimitExceeded, match="1 questions of tenant acme are open"):
            await t.ask("a1", "two?")
        world.reasoner.gate.set()
        assert (await first.answer).text
        assert (await t.ask("a1", "three?")).text


async def test_what_a_client_alone_tells_of_its_stream_lets_it_past_no_quota(tmp_path: Path) -> None:
    """A record and a token are good for as long as somebody knows of the stream, or may yet hear of it."""
    quotas = Quotas(tenants={"acme": Quota(streams=1)}, default=None)
    async with (
        World(tmp_path, quotas=quotas) as world,
        tandem.connect(world.app.address) as t,
        t.watch(MediaKind.PICTURES, stream_id="a1", tenant="acme"),
    ):
        await world.until(lambda: not world.app.cluster.is_settling, 20)
        secret, former = world.app.cluster.secret, id_of("acme", "a2")
        record = replace(RECORD, stream_id=former, tenant="acme", name="a2")
        opening = client_pb2.WatchRequest.Open(
            stream_id="a2",
            tenant="acme",
            media=types_pb2.MediaOptions(kind=record.media_kind),  # type: ignore[arg-type]
            resume_token=resume_token(secret, former, record.nonce),
            record=carry(secret, former, encode_record(record)),
        )
        call = world.stub.Watch()
        await call.write(client_pb2.WatchRequest(open=opening))
        assert (await call.code()).name == "RESOURCE_EXHAUSTED"
        assert "tenant acme has 1 of 1 streams" in await call.details()


async def test_when_to_ask_again_is_learnt_from_questions_by_anybody(tmp_path: Path) -> None:
    async with (
        World(tmp_path, quotas=Quotas(default=Quota(open_questions=1))) as world,
        tandem.connect(world.app.address) as t,
        t.watch(MediaKind.PICTURES, stream_id="a") as stream,
    ):
        await stream.push_picture(b"jpeg", pts_us=0)
        for _ in range(8):
            assert (await t.ask("a", "quick?")).text
        world.reasoner.gate.clear()
        first = stream.pose("one?")
        await world.until(lambda: world.reasoner.active == 1)
        with pytest.raises(LimitExceeded) as caught:
            await t.ask("a", "two?")
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s < 0.7, "answers take a few milliseconds here; a second is assumed"
        world.reasoner.gate.set()
        assert (await first.answer).text


async def test_a_tenant_is_kept_when_a_stream_is_resumed(tmp_path: Path) -> None:
    async with World(tmp_path) as world, tandem.connect(world.app.address) as t:
        async with t.watch(MediaKind.PICTURES, stream_id="a", tenant="acme") as stream:
            await stream.push_picture(b"jpeg", pts_us=0)
            token = stream.info.resume_token
            await stream.abandon()
        async with t.watch(MediaKind.PICTURES, stream_id="a", resume_token=token):
            assert [s.tenant for s in await t.streams()] == ["acme"]


class SlowDevice:
    """Stands in for a device that takes `unit_s` a unit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unit_s = 0.0
        monkeypatch.setattr(encoder_svc.loop, "see_runs", self._see)

    def _see(self, vlm: Any, runs: Sequence[Run], embedder: Any = None) -> Any:
        time.sleep(self.unit_s * sum(len(run.units) for run in runs))
        return see_runs(vlm, runs, embedder)


@asynccontextmanager
async def services(folder: Path) -> AsyncIterator[tuple[Client, EncoderApp, str]]:
    """An orchestrator, an encoder and a reasoner, all real, in this process; where the first is measured."""
    config = OrchestratorConfig(
        listen="127.0.0.1:0",
        run_dir=folder,
        encoders=0,
        reasoners=0,
        heartbeat_s=0.1,
        lease_s=10.0,
        metrics="127.0.0.1:0",
    )
    app, vlm = Orchestrator(config, lambda text: None), model()
    address = await app.start()
    secret = app.cluster.secret
    encoder = EncoderApp(
        EncoderConfig(
            name="encoder-0",
            orchestrator=address,
            secret_file="-",
            batch_units=4,
            run_units=2,
            drain_s=0.5,
            metrics="127.0.0.1:0",
        ),
        vlm,
        secret,
    )
    reasoner = Reasoner(ReasonerConfig(name="reasoner-0", orchestrator=address, secret=secret), vlm)
    await reasoner.start()
    await encoder.start()
    try:
        async with tandem.connect(address) as t:
            yield t, encoder, app.watched.address
    finally:
        await encoder.stop()
        await reasoner.stop(0.5)
        await app.stop()


class Camera:
    """Feeds a stream in real time, 4 pictures a second."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._task = asyncio.create_task(self._run())

    @property
    def fps(self) -> float:
        return self.stream.progress.sample_fps

    @property
    def dropped_s(self) -> float:
        gaps = [gap for gap in self.stream.progress.gaps if gap.reason is GapReason.OVERLOAD]
        return sum(gap.range.duration_us for gap in gaps) / 1e6

    async def _run(self) -> None:
        began_s = time.monotonic()
        for index in range(4 * 240):
            await asyncio.sleep(max(began_s + index / 4 - time.monotonic(), 0))
            await self.stream.push_picture(
                png(index), pts_us=index * 250_000, picture_format=PictureFormat.PNG
            )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def until(holds: Any, timeout_s: float) -> float:
    began_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)
    return time.monotonic() - began_s


async def test_overload_costs_rate_then_frames_then_new_streams_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SlowDevice(monkeypatch)
    media = MediaOptions(kind=MediaKind.PICTURES, sample_fps=4.0, min_fps=1.0, max_lag_s=2.0)
    async with (
        services(tmp_path) as (t, encoder, metrics),
        t.watch(media, stream_id="one") as one,
        t.watch(media, stream_id="two") as two,
    ):
        cameras = [Camera(one), Camera(two)]
        # Eight units a second are asked for, less than five are possible, two are the least.
        device.unit_s = 0.2
        await until(lambda: all(0 < camera.fps < 4.0 for camera in cameras), 10.0)
        reason = one.progress.rate_reason
        assert "of 4 frames per second" in reason, reason
        await asyncio.sleep(1.5)
        assert encoder.pacing.overload is Overload.RATES
        assert sum(camera.dropped_s for camera in cameras) == 0.0, "rates are enough"
        seen = await scrape(encoder.watched.address)
        assert seen("tandem_encoder_overload", outcome="rates") == 1
        assert seen("tandem_encoder_slowed_streams") == 2
        assert seen("tandem_frames_total", outcome="dropped", reason="overload") == 0
        assert (await scrape(metrics))("tandem_streams_slowed") == 2
        # Now even the least of both is too much.
        device.unit_s = 0.8
        await until(lambda: encoder.pacing.overload is Overload.GAPS, 20.0)
        await asyncio.sleep(0.3)  # for a heartbeat
        assert {camera.fps for camera in cameras} == {1.0}
        seen = await scrape(encoder.watched.address)
        assert seen("tandem_encoder_overload", outcome="gaps") == 1
        assert seen("tandem_encoder_overload", outcome="rates") == 0
        assert seen("tandem_encoder_late_seconds") > 0
        assert seen("tandem_frames_total", outcome="dropped", reason="overload") > 0
        with pytest.raises(LimitExceeded, match="no room for the stream") as refused:
            async with t.watch(media, stream_id="three"):
                pass
        assert refused.value.retry_after_s
        assert (await one.ask("What was shown?", timeout_s=10, at_once=True)).evidence_blocks
        # And it is over.
        device.unit_s = 0.0
        back_s = await until(lambda: all(camera.fps == 4.0 for camera in cameras), 20.0)
        print(f"full rates {back_s:.1f} s after the device was fast again")
        assert back_s < 10.0
        dropped_s = sum(camera.dropped_s for camera in cameras)
        assert dropped_s > 0.0
        await asyncio.sleep(0.5)
        assert sum(camera.dropped_s for camera in cameras) == dropped_s, "it is over"
        assert encoder.pacing.overload is Overload.NONE
        assert not one.progress.rate_reason
        for camera in cameras:
            await camera.stop()


async def test_an_encoder_that_is_late_and_may_give_nothing_up_takes_no_new_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SlowDevice(monkeypatch)
    media = MediaOptions(kind=MediaKind.PICTURES, sample_fps=2.0)
    async with AsyncExitStack() as stack:
        t, encoder, _ = await stack.enter_async_context(services(tmp_path))
        streams = [await stack.enter_async_context(t.watch(media, stream_id=name)) for name in "abcd"]
        cameras = [Camera(stream) for stream in streams]
        device.unit_s = 0.15  # eight units a second are asked for, less than seven are possible
        await until(lambda: encoder.pacing.overload is Overload.LATE, 20.0)
        await asyncio.sleep(0.3)  # for a heartbeat
        monkeypatch.setattr("orchestrator.admission.MAX_SHARE", 9.0)  # as if costs had been misjudged
        with pytest.raises(LimitExceeded, match="encoder-0 is late with the 4 streams"):
            await stack.enter_async_context(t.watch(media, stream_id="e"))
        device.unit_s = 0.0
        await until(lambda: encoder.pacing.overload is Overload.NONE, 10.0)
        for camera in cameras:
            await camera.stop()


async def test_streams_of_a_killed_encoder_go_to_all_that_are_left(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        clients = [await world.watch(f"cam-{number}") for number in range(12)]
        for client in clients:
            await client.pictures(0, 500)
            await client.until(lambda client=client: client.progress.blocks == 2)
        for name in ("encoder-1", "encoder-2"):
            await world.add(name)
            await world.until(lambda name=name: world.app.cluster.service(name) is not None)
        await world.hosted["encoder-0"].kill()
        sessions = [stream.session for stream in world.app.streams]
        await world.until(lambda: all(each.epoch == 2 and each.state == "live" for each in sessions))
        got = Counter(session.encoder for session in sessions)
        assert set(got) == {"encoder-1", "encoder-2"}
        assert min(got.values()) >= 4, got


def said_by(world: World, detail: str) -> int:
    """How many services that are ready have said this."""
    return sum(detail in member.details and member.is_ready for member in world.app.cluster.members)


async def test_a_service_that_says_how_many_streams_it_takes_is_given_no_more(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.add("encoder-1")
        for name in ("encoder-0", "encoder-1"):
            world.hosted[name].details["max_streams"] = "1"
        await world.until(lambda: said_by(world, "max_streams") == 2)
        first, second = await world.watch("first"), await world.watch("second")
        placed = {world.app.streams.get(name).session.encoder for name in ("first", "second")}
        assert placed == {"encoder-0", "encoder-1"}
        error = await refusal_of(world.watch("third"))
        assert isinstance(error, LimitExceeded)
        assert "takes 1 streams and has 1" in error.message
        assert error.retry_after_s
        await first.end(forget=True)
        await first.finished()
        await (await world.watch("third")).vanish()
        await second.vanish()
