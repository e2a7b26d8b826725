"""Which stream a client gets: a new one, its own, or its own of which nothing is known any more."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.backlog import Bounds
from orchestrator.cluster import Cluster
from orchestrator.journal import Journal, Record
from orchestrator.limits import Limits
from orchestrator.settings import SessionSettings
from orchestrator.standing_record import StandingRecord
from orchestrator.streams import Streams
from orchestrator.tokens import make_nonce, resume_token
from tandem.core.clock import monotonic_clock
from tandem.core.errors import PermissionRefused
from tandem.core.ids import StreamId
from tandem.core.standing import Standing, StandingQuestion
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tandem.wire.standing import standing_to_proto

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
