"""A tenant's quota of bytes while its streams run: what each may keep, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import ValuesView
from pathlib import Path

from orchestrator.backlog import Backlog, Bounds, Media
from orchestrator.cluster import Cluster
from orchestrator.journal import Journal
from orchestrator.limits import Limits
from orchestrator.media_share import PERIOD_S, MediaShare
from orchestrator.messages import progress_of
from orchestrator.outbox import MAX_OFFERED_BYTES, Outbox
from orchestrator.quotas import LEAST_MEDIA_BYTES, Quota, Quotas, media_bytes
from orchestrator.session import Session
from orchestrator.settings import SessionSettings
from orchestrator.streams import Streams
from tandem.core.timeline import GapReason
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2

MIB = 1 << 20


def test_an_even_share_of_what_windows_leave() -> None:
    assert media_bytes(Quota(), 3, 0.0) is None
    assert media_bytes(Quota(bytes=100 * MIB), 0, 0.0) is None
    assert media_bytes(Quota(bytes=100 * MIB), 4, 5.0 * MIB) == 20 * MIB
    assert media_bytes(Quota(bytes=100 * MIB), 100, 5.0 * MIB) == LEAST_MEDIA_BYTES


def test_a_lower_bound_gives_up_at_once_what_costs_nothing_and_no_more() -> None:
    backlog = Backlog(Bounds(max_bytes=10 * MIB, keep_us=60_000_000))
    for number in range(6):
        media = Media(position=number, length=1, time_us=number, data=bytes(MIB), arrived_s=0.0, picture=1)
        assert not backlog.append(media)
    for _ in range(4):
        backlog.take()
    backlog.release(2, 2)
    backlog.limit(3 * MIB)
    assert (backlog.front, backlog.bytes, backlog.given_up) == (2, 4 * MIB, 0)
    assert not backlog.has_room(1)
    backlog.limit(20 * MIB)
    assert backlog.has_room(6 * MIB)
    assert not backlog.has_room(6 * MIB + 1), "never above what it was made with"


def open_stream(streams: Streams, stream_id: str, tenant: str) -> Session:
    media = types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES)
    request = client_pb2.WatchRequest.Open(stream_id=stream_id, tenant=tenant, media=media)
    session = streams.open(request).session
    session.outbox = Outbox(lambda: progress_of(session), session.clock)
    return session


async def test_a_running_stream_takes_nothing_from_the_others(tmp_path: Path) -> None:
    now_s = [100.0]

    def clock() -> float:
        return now_s[0]

    quotas = Quotas(tenants={"acme": Quota(bytes=12 * MIB)})
    settings = SessionSettings(limits=Limits(), bounds=Bounds())
    streams = Streams(Cluster(b"s" * 32, 3, 1, clock), Journal(tmp_path), settings, clock, 8, quotas)
    try:
        greedy, calm = open_stream(streams, "greedy", "acme"), open_stream(streams, "calm", "acme")
        other = open_stream(streams, "other", "elsewhere")
        streams.tick()
        for number in range(10):
            for session in (greedy, other):
                if number == 6 and session is greedy:
                    assert session.must_wait(MIB), "first its client is held back"
                session.append(number, 1, number * 1_000_000, bytes(MIB), object())
        assert (greedy.backlog.bytes, other.backlog.bytes) == (6 * MIB, 10 * MIB)
        assert {gap.reason for gap in greedy.timeline.gaps} == {GapReason.BACKLOG_FULL}
        assert not other.must_wait(MIB)
        assert not calm.must_wait(6 * MIB), "its share is still there"
        now_s[0] += PERIOD_S
        streams.tick()
        now_s[0] += PERIOD_S
        streams.tick()
        assert greedy.outbox is not None
        said = [message for message in greedy.outbox._queue if message.HasField("refusal")]
        assert len(said) == 1, "told once of the same loss"
        assert said[0].refusal.error.code == "limit_exceeded"
        assert "tenant acme" in said[0].refusal.error.message
        assert other.outbox is not None
        assert not other.outbox._queue
    finally:
        await streams.close()


def refusals(outbox: Outbox) -> int:
    return sum(message.HasField("refusal") for message in outbox._queue)


async def test_a_client_that_cannot_be_told_now_is_told_later(tmp_path: Path) -> None:
    now_s = [100.0]

    def clock() -> float:
        return now_s[0]

    def tick() -> None:
        now_s[0] += PERIOD_S
        streams.tick()

    quotas = Quotas(tenants={"acme": Quota(bytes=6 * MIB)})
    settings = SessionSettings(limits=Limits(), bounds=Bounds())
    streams = Streams(Cluster(b"s" * 32, 3, 1, clock), Journal(tmp_path), settings, clock, 8, quotas)
    try:
        away, behind = open_stream(streams, "away", "acme"), open_stream(streams, "behind", "acme")
        assert away.outbox is not None
        assert behind.outbox is not None
        outbox, away.outbox = away.outbox, None
        behind.outbox._bytes = MAX_OFFERED_BYTES + 1  # as if so much waited
        streams.tick()
        for number in range(10):
            for session in (away, behind):
                session.append(number, 1, number * 1_000_000, bytes(MIB), object())
        tick()
        assert refusals(behind.outbox) == 0
        away.outbox, behind.outbox._bytes = outbox, 0
        tick()
        tick()
        assert [refusals(each) for each in (away.outbox, behind.outbox)] == [1, 1]
    finally:
        await streams.close()


def test_a_look_that_bounds_nobody_does_not_go_through_all_tenants() -> None:
    walks = []

    class Tenants(dict[str, Quota]):
        def values(self) -> ValuesView[Quota]:
            walks.append(1)
            return super().values()

    quotas = Quotas(tenants=Tenants({f"t{number}": Quota() for number in range(10)}))
    share = MediaShare(Cluster(b"s" * 32, 3, 1, lambda: 0.0), quotas)
    for number in range(20):
        share.look([], float(number))
    assert len(walks) == 1
