"""Records and who hears of their changes."""

from __future__ import annotations

import asyncio

import pytest

from reasoner_svc.streams import Streams
from tandem.core.errors import NotFound
from tandem.core.ids import Epoch, StreamId
from tandem.core.timeline import TimeRange
from tests.unit.reasoner_svc.making import SECOND_US, make_header

CAM = StreamId("cam")


def test_an_unknown_stream() -> None:
    streams = Streams()
    assert streams.find(CAM) is None
    assert streams.close(CAM) is None
    with pytest.raises(NotFound, match="cam"):
        streams.get(CAM)


def test_every_opening_has_its_own_run() -> None:
    streams = Streams()
    first = streams.open(CAM, Epoch(1), lambda record: None)
    assert streams.open(CAM, Epoch(1), lambda record: None) is first
    streams.close(CAM)
    assert streams.open(CAM, Epoch(1), lambda record: None).run != first.run


def test_evictions_join_where_they_touch() -> None:
    record = Streams().open(CAM, Epoch(1), lambda record: None)
    for number in (1, 2, 4, 3):
        record.show(make_header(number))
    for number in (1, 2, 4):
        record.evict(make_header(number))
    assert record.evicted == [TimeRange(0, 2 * SECOND_US), TimeRange(3 * SECOND_US, 4 * SECOND_US)]
    assert (record.blocks, record.watermark_us) == (1, 4 * SECOND_US)


async def test_a_subscriber_hears_of_each_stream_once() -> None:
    streams = Streams()
    subscription = streams.subscribe()
    for stream in ("a", "b", "a"):
        streams.changed(StreamId(stream))
    assert await subscription.changed() == ["a", "b"]
    waiting = asyncio.create_task(subscription.changed())
    await asyncio.sleep(0)
    streams.changed(StreamId("c"))
    assert await waiting == ["c"]
    streams.unsubscribe(subscription)
    streams.changed(StreamId("d"))
    waiting = asyncio.create_task(subscription.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
