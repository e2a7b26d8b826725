"""Conversions are total and go both ways."""

import pytest

from tandem.core.errors import InvalidInput
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.wire.convert import gap_from_proto, gap_to_proto, range_from_proto
from tandem.wire.gen.tandem.v1 import types_pb2


@pytest.mark.parametrize("reason", list(GapReason))
def test_gaps_come_back_as_they_were(reason: GapReason) -> None:
    gap = Gap(TimeRange(5, 9), reason)
    assert gap_from_proto(gap_to_proto(gap)) == gap


def test_a_reason_from_the_future_is_refused() -> None:
    with pytest.raises(InvalidInput, match="unknown gap reason"):
        gap_from_proto(types_pb2.Gap(range=types_pb2.TimeRange(start_us=0, end_us=1)))


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidInput, match="ends before it starts"):
        range_from_proto(types_pb2.TimeRange(start_us=2, end_us=1))
