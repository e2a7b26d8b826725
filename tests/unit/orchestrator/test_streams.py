"""Which stream a client gets: a new one, its own, or its own of which nothing is known any more."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.backlog import Bounds
from orchestrator.cluster import Cluster
from orchestrator.inventory import Holding
from orchestrator.journal import Journal, Record
from orchestrator.limits import Limits
from orchestrator.settings import SessionSettings
from orchestrator.standing_record import StandingRecord
from orchestrator.streams import Streams
from orchestrator.tokens import make_nonce, resume_token
from tandem.core.clock import monotonic_clock
from tandem.core.errors import PermissionRefused, Unavailable
from tandem.core.ids import StreamId
from tandem.core.standing import Standing, StandingQuestion
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tandem.wire.standing import standing_to_proto
from tests.integration.orchestrator_fakes import World

SECRET = b"s" * 32
CAM = StreamId("cam")


def open_of(token: str = "") -> client_pb2.WatchRequest.Open:
    media = types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES)
    return client_pb2.WatchRequest.Open(stream_id=CAM, resume_token=token, media=media)


def make(folder: Path) -> Streams:
    cluster = Cluster(SECRET, 3, 1, monotonic_clock)
    settings = SessionSettings(limits=Limits(), bounds=Bounds())
    return Streams(cluster, Journal(folder), settings, monotonic_clock, 8)


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
    record = Record(
        stream_id=CAM,
        nonce=nonce,
        epoch=1,
        media_kind=types_pb2.MEDIA_KIND_PICTURES,
        sample_fps=2.0,
        nominal_fps=0.0,
        safe_position=2,
        checkpoint_us=900,
        watermark_us=900,
        reasoner="",
        decoder_header=b"",
        gaps=(),
        standing=(stood,),
        tenant="acme",
    )
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
