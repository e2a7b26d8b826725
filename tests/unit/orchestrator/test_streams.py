"""Which stream a client gets: a new one, its own, or its own of which nothing is known any more."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backlog import Bounds
from orchestrator.cluster import Cluster
from orchestrator.inventory import Holding
from orchestrator.journal import Journal, Record
from orchestrator.limits import Limits
from orchestrator.quotas import Quota, Quotas
from orchestrator.settings import SessionSettings
from orchestrator.standing_record import StandingRecord
from orchestrator.streams import Streams
from orchestrator.tokens import make_nonce, resume_token
from tandem.core.clock import monotonic_clock
from tandem.core.errors import LimitExceeded, PermissionRefused, Unavailable
from tandem.core.ids import StreamId
from tandem.core.standing import Standing, StandingQuestion
from tandem.wire.gen.tandem.v1 import client_pb2, reasoner_pb2, types_pb2
from tandem.wire.standing import standing_to_proto
from tests.integration.orchestrator_fakes import World

SECRET = b"s" * 32
CAM = StreamId("cam")


def open_of(token: str = "", stream_id: str = CAM, **media: Any) -> client_pb2.WatchRequest.Open:
    options = types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES, **media)
    return client_pb2.WatchRequest.Open(stream_id=stream_id, resume_token=token, media=options)


def make(
    folder: Path, quotas: Quotas | None = None, *, settling_s: float = 3.0, max_streams: int = 8
) -> Streams:
    cluster = Cluster(SECRET, settling_s, 1, monotonic_clock)
    settings = SessionSettings(limits=Limits(), bounds=Bounds())
    return Streams(cluster, Journal(folder), settings, monotonic_clock, max_streams, quotas)


@pytest.mark.parametrize("record", [None, "", "{broken"])
async def test_a_token_without_a_usable_record_never_opens_a_fresh_stream(
    tmp_path: Path, record: str | None
) -> None:
    if record is not None:
        (tmp_path / "cam.json").write_text(record)
    streams, nonce = make(tmp_path), make_nonce()
    session = streams.open(open_of(resume_token(SECRET, CAM, nonce))).session
    assert (session.nonce, session.is_fresh) == (nonce, False)
    assert session.epoch >= int(time.time()) - 60, "above what a reasoner that lives on may have"
    await streams.close()


async def test_a_standing_question_knows_of_no_time_that_was_never_watched(tmp_path: Path) -> None:
    """It would be silent until then: not checked, or for `min_interval_ms` after an alert that never was."""
    nonce = make_nonce()
    question = StandingQuestion(question_id="door", text="open?", expect="yes", min_interval_ms=1000)
    stood = StandingRecord(
        question=standing_to_proto(question).SerializeToString(),
        state=Standing(is_on=True, in_a_row=1, onsets=3, alerted_us=10**15),
        checks=7,
        checked_us=10**15,
    )
    record = replace(record_of(nonce, reasoner=""), epoch=1, standing=(stood,), tenant="acme")
    Journal(tmp_path).save(record)
    streams = make(tmp_path)
    stream = streams.open(open_of(resume_token(SECRET, CAM, nonce)))
    assert stream.session.terms.tenant == "acme", "whoever comes back with the token"
    state = replace(stood.state, alerted_us=900)
    assert stream.standing.to_records() == (replace(stood, state=state, checked_us=900),)
    await streams.close()


async def test_without_a_token_a_stream_is_fresh(tmp_path: Path) -> None:
    streams = make(tmp_path)
    with pytest.raises(PermissionRefused):
        streams.open(open_of("not.mine"))
    session = streams.open(open_of()).session
    assert session.is_fresh
    assert session.epoch == 0
    await streams.close()


def held_by(reasoner: str, nonce: str, epoch: int = 7) -> Holding:
    return Holding(
        stream=CAM,
        incarnation=nonce,
        reasoner=reasoner,
        epoch=epoch,
        watermark_us=1000,
        next_block_number=3,
    )


def record_of(nonce: str, reasoner: str = "reasoner-1") -> Record:
    return Record(
        stream_id=CAM,
        nonce=nonce,
        epoch=4,
        media_kind=types_pb2.MEDIA_KIND_PICTURES,
        sample_fps=2.0,
        nominal_fps=0.0,
        safe_position=2,
        checkpoint_us=900,
        watermark_us=900,
        reasoner=reasoner,
        decoder_header=b"",
        gaps=(),
    )


async def test_what_a_reasoner_holds_is_taken_up_before_its_client_is_back(tmp_path: Path) -> None:
    nonce = make_nonce()
    Journal(tmp_path).save(record_of(nonce))
    streams = make(tmp_path)
    streams.learn("b0", held_by("reasoner-0", nonce))
    streams.learn("b1", held_by("reasoner-1", make_nonce()))
    assert streams.find(CAM) is None, "a former place, and another life of the id"
    streams.learn("b1", held_by("reasoner-1", nonce))
    session = streams.find(CAM)
    assert session is not None
    assert (session.epoch, session.reasoner) == (7, "reasoner-1"), "above what is held, and where"
    assert session.alone_since_s is not None, "it expires like any whose client is away"
    stream = streams.open(open_of(resume_token(SECRET, CAM, nonce)))
    assert stream.session is session
    await streams.close()


async def test_without_a_usable_record_a_stream_goes_to_who_holds_it(tmp_path: Path) -> None:
    nonce, epoch = make_nonce(), int(time.time()) + 1000
    streams = make(tmp_path)
    streams.learn("b1", held_by("reasoner-1", nonce, epoch))
    session = streams.open(open_of(resume_token(SECRET, CAM, nonce))).session
    assert (session.reasoner, session.epoch) == ("reasoner-1", epoch)
    await streams.close()


async def test_a_client_may_be_back_before_its_reasoner(tmp_path: Path) -> None:
    nonce = make_nonce()
    streams = make(tmp_path)
    session = streams.open(open_of(resume_token(SECRET, CAM, nonce))).session
    assert session.reasoner == ""
    streams.learn("b1", held_by("reasoner-1", nonce))
    assert session.reasoner == "reasoner-1"
    await streams.close()


async def test_a_stream_that_is_given_up_for_want_of_services_stays_at_its_reasoner(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0)
        await client.until(lambda: client.progress.blocks == 1)
        session = world.app.streams.get("cam").session
        session.fail(Unavailable("no place for the stream"))
        await world.until(lambda: len(world.app.streams) == 0)
        again = await world.watch(token=client.welcome.resume_token)
        await again.pictures(500)
        await again.ask()
        assert (await again.answer()).text == "0 500 "
        assert world.reasoner.closed == []


async def test_what_a_client_can_do_without_outlives_the_orchestrator(tmp_path: Path) -> None:
    first = make(tmp_path)
    session = first.open(open_of(sample_fps=2.0, min_fps=0.5, max_lag_ms=3000)).session
    session.epoch, session.reasoner, session.journal_due = 1, "reasoner-1", True
    await first.close()
    streams = make(tmp_path)
    streams.learn("b1", held_by("reasoner-1", session.nonce))
    taken_up = streams.find(CAM)
    assert taken_up is not None
    assert (taken_up.media.min_fps, taken_up.media.max_lag_ms) == (0.5, 3000), "before its client is back"
    await streams.close()
    streams = make(tmp_path)
    token = resume_token(SECRET, CAM, session.nonce)
    again = streams.open(open_of(token, sample_fps=9.0, min_fps=0.25, max_lag_ms=1000)).session
    assert (again.media.sample_fps, again.media.min_fps, again.media.max_lag_ms) == (2.0, 0.25, 1000)
    await streams.close()
    record = Journal(tmp_path).load(CAM)
    assert record is not None
    assert (record.min_fps, record.max_lag_ms) == (0.25, 1000)


async def test_a_client_that_comes_back_says_anew_what_it_can_do_without(tmp_path: Path) -> None:
    streams = make(tmp_path)
    session = streams.open(open_of(sample_fps=2.0)).session
    token = resume_token(SECRET, CAM, session.nonce)
    streams.open(open_of(token, sample_fps=4.0, min_fps=0.5, max_lag_ms=2000))
    assert (session.media.min_fps, session.media.max_lag_ms) == (0.5, 2000)
    assert session.journal_due
    streams.open(open_of(token, sample_fps=4.0, min_fps=3.0, max_lag_ms=2000))
    assert session.media.min_fps == 0.5, "room is kept for that much"
    streams.open(open_of(token, sample_fps=2.0, max_lag_ms=0))
    assert (session.media.min_fps, session.media.max_lag_ms) == (0.5, 0)
    await streams.close()


async def test_an_old_token_of_a_stream_that_nobody_holds_is_no_way_past_the_door(tmp_path: Path) -> None:
    nonce = make_nonce()
    token = resume_token(SECRET, CAM, nonce)
    for settling_s, is_held, is_let_in in ((0.0, False, False), (0.0, True, True), (3.0, False, True)):
        streams = make(tmp_path, Quotas(default=Quota(streams=1)), settling_s=settling_s)
        streams.open(open_of(stream_id="another"))
        if is_held:
            streams.learn("b1", held_by("reasoner-1", nonce))
        if is_let_in:
            assert streams.open(open_of(token)).session.nonce == nonce
        else:
            with pytest.raises(LimitExceeded, match="1 of 1 streams"):
                streams.open(open_of(token))
        assert len(streams.door.decisions) == (1 if is_let_in else 2)
        await streams.close()
        Journal(tmp_path).forget(CAM)


async def test_one_stream_too_many_is_a_decision_with_its_reason(tmp_path: Path) -> None:
    streams = make(tmp_path, max_streams=1)
    streams.open(open_of())
    with pytest.raises(LimitExceeded) as caught:
        streams.open(open_of(stream_id="another"))
    told = streams.door.decisions[-1]
    assert (told.stream_id, told.outcome, told.reason) == ("another", "refused", caught.value.message)
    assert told.reason == "1 streams are open, no more fit"
    assert told.retry_after_s == caught.value.retry_after_s
    assert told.retry_after_s >= 1.0
    assert streams.door.outcomes == {("admitted", ""): 1, ("refused", "limit_exceeded"): 1}
    await streams.close()


async def test_a_stream_outlives_its_tenants_place_in_the_file_of_quotas(tmp_path: Path) -> None:
    nonce = make_nonce()
    Journal(tmp_path).save(replace(record_of(nonce), tenant="acme"))
    quotas = Quotas(tenants={"other": Quota()}, default=None)
    streams = make(tmp_path, quotas)
    streams.learn("b1", held_by("reasoner-1", nonce))
    session = streams.find(CAM)
    assert session is not None, "without its client"
    assert session.terms.tenant == "acme"
    await streams.close()
    streams = make(tmp_path, quotas)
    resumed = streams.open(open_of(resume_token(SECRET, CAM, nonce))).session
    assert (resumed.terms.tenant, resumed.terms.weight) == ("acme", 1.0)
    with pytest.raises(PermissionRefused, match="not in the file of quotas"):
        streams.open(open_of(stream_id="new"))
    await streams.close()


async def test_what_nobody_came_back_for_is_remembered_no_longer(tmp_path: Path) -> None:
    async with World(tmp_path, limits=Limits(resume_seconds=1)) as world:
        told = reasoner_pb2.StreamState(stream_id="left-behind", incarnation="life", epoch=3)
        inventory = world.app.streams.inventory
        world.reasoner.evictions.put_nowait(told)
        await world.until(lambda: len(inventory) == 1)
        await world.until(lambda: "left-behind" in world.reasoner.closed)
        assert len(inventory) == 0
