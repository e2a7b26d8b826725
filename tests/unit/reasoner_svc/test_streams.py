"""Records of open streams."""

from __future__ import annotations

import pytest

from reasoner_svc.streams import Opening, Streams
from tandem.core.errors import NotFound, WrongState
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
    first, opening = streams.open(CAM, Epoch(1))
    assert opening is Opening.NEW
    assert streams.open(CAM, Epoch(1)) == (first, Opening.KNOWN)
    streams.close(CAM)
    again, opening = streams.open(CAM, Epoch(1))
    assert opening is Opening.NEW
    assert again.run != first.run


def test_epochs_only_rise() -> None:
    streams = Streams()
    record, _ = streams.open(CAM, Epoch(3))
    assert streams.open(CAM, Epoch(4)) == (record, Opening.SUPERSEDED)
    with pytest.raises(WrongState, match="out of date"):
        streams.open(CAM, Epoch(3))
    assert record.epoch == 4


def test_evictions_join_where_they_touch() -> None:
    record, _ = Streams().open(CAM, Epoch(1))
    for number in (1, 2, 4, 3):
        record.show(make_header(number))
    for number in (1, 2, 4):
        record.evict(make_header(number))
    assert record.evicted == [TimeRange(0, 2 * SECOND_US), TimeRange(3 * SECOND_US, 4 * SECOND_US)]
    assert (record.blocks, record.watermark_us) == (1, 4 * SECOND_US)
