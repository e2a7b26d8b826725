"""Stream time: ranges, joining, the two text forms."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.timeline import TimeRange, format_time, merge_ranges, parse_time

ranges = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: TimeRange(pair[0], sum(pair)))


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        TimeRange(2, 1)


@given(st.lists(ranges))
def test_merging_keeps_every_moment_and_adds_none(items: list[TimeRange]) -> None:
    merged = merge_ranges(items)
    for moment in range(85):
        assert any(r.contains(moment) for r in items) == any(r.contains(moment) for r in merged)


@given(st.lists(ranges))
def test_merged_ranges_are_sorted_and_apart(items: list[TimeRange]) -> None:
    merged = merge_ranges(items)
    assert all(a.end_us < b.start_us for a, b in itertools.pairwise(merged))


@pytest.mark.parametrize(
    ("text", "time_us"),
    [("12", 12_000_000), ("00:12", 12_000_000), ("1:02:03.5", 3_723_500_000), (" 0:00 ", 0)],
)
def test_times_are_read(text: str, time_us: int) -> None:
    assert parse_time(text) == time_us


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "-1", "nan", "inf", "1::2"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a stream time"):
        parse_time(text)


@given(st.integers(0, 10**6))
def test_formatting_then_reading_gives_the_time_back(tenths: int) -> None:
    assert parse_time(format_time(tenths * 100_000)) == tenths * 100_000
