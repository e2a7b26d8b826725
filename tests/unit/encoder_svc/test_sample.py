"""The sampling grid: which frames are taken, what is a unit, what is a hole."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder_svc.sample import Grid, Hole, Sampler, Unit
from tandem.core.timeline import Gap, GapReason, TimeRange


def make(fps: float = 1.0, per_unit: int = 1, from_us: int | None = None) -> Sampler[int]:
    return Sampler(Grid.of(fps, per_unit), from_us=from_us, gap_after_us=2_000_000)


def feed(sampler: Sampler[int], times: list[int]) -> list[Unit[int] | Hole]:
    events: list[Unit[int] | Hole] = []
    for time_us in times:
        if sampler.wants(time_us):
            events += sampler.take(time_us, time_us)
    return events


def test_the_first_frame_of_each_slot_is_taken() -> None:
    found = feed(make(), [0, 400_000, 999_000 - 1, 1_200_000, 1_900_000, 2_000_000])
    assert [event.frames for event in found if isinstance(event, Unit)] == [(0,), (1_200_000,), (2_000_000,)]
    assert [event.time for event in found if isinstance(event, Unit)] == [
        TimeRange(0, 1_000_000),
        TimeRange(1_200_000, 2_000_000),
        TimeRange(2_000_000, 3_000_000),
    ]


@pytest.mark.parametrize("rate", [10, 24, 25, 30, 50, 60])
def test_times_rounded_down_still_fall_into_their_slots(rate: int) -> None:
    for sample in (1, 2, rate):
        found = feed(make(sample), [index * 1_000_000 // rate for index in range(rate * 3)])
        if rate % sample == 0:
            assert len(found) == sample * 3
            assert not [event for event in found if isinstance(event, Hole)]


def test_rates_that_were_meant_as_ratios() -> None:
    assert Grid.of(30000 / 1001, 1).fps == Fraction(30000, 1001)


def test_a_unit_waits_for_its_last_slot_and_repeats_what_is_missing() -> None:
    sampler = make(fps=2, per_unit=2)
    assert feed(sampler, [0]) == []
    assert feed(sampler, [500_000]) == [Unit(TimeRange(0, 1_000_000), (0, 500_000))]
    assert feed(sampler, [1_500_000]) == [Unit(TimeRange(1_500_000, 2_000_000), (1_500_000, 1_500_000))]
    assert feed(sampler, [2_000_000]) == []
    assert feed(sampler, [3_000_000]) == [Unit(TimeRange(2_000_000, 3_000_000), (2_000_000, 2_000_000))]
    assert sampler.finish() == [Unit(TimeRange(3_000_000, 4_000_000), (3_000_000, 3_000_000))]


def test_a_long_pause_is_a_hole_and_a_short_one_is_not() -> None:
    found = feed(make(), [0, 2_500_000, 5_100_000])
    holes = [event for event in found if isinstance(event, Hole)]
    assert holes == [Hole(Gap(TimeRange(3_000_000, 5_100_000), GapReason.SOURCE), announced=False)]


def test_a_noted_loss_is_a_hole_even_when_short() -> None:
    sampler = make()
    feed(sampler, [0])
    sampler.note(GapReason.UNDECODABLE)
    hole, _ = feed(sampler, [2_000_000])
    assert hole == Hole(Gap(TimeRange(1_000_000, 2_000_000), GapReason.UNDECODABLE), announced=False)


def test_a_loss_that_cost_no_slot_is_no_hole() -> None:
    sampler = make()
    feed(sampler, [0])
    sampler.note(GapReason.UNDECODABLE)
    assert [type(event) for event in feed(sampler, [1_500_000])] == [Unit]


def test_a_known_loss_at_the_end_is_declared() -> None:
    sampler = make()
    feed(sampler, [0])
    sampler.note(GapReason.UNDECODABLE, until_us=3_300_000)
    assert sampler.finish() == [
        Hole(Gap(TimeRange(1_000_000, 3_300_000), GapReason.UNDECODABLE), announced=False)
    ]


def test_an_announced_gap_moves_on_and_completes_the_open_unit() -> None:
    sampler = make(fps=2, per_unit=2)
    feed(sampler, [0])
    gap = Gap(TimeRange(200_000, 5_000_000), GapReason.OVERLOAD)
    unit, hole = sampler.skip(gap)
    assert unit == Unit(TimeRange(0, 1_000_000), (0, 0))
    assert hole == Hole(Gap(TimeRange(1_000_000, 5_000_000), GapReason.OVERLOAD), announced=True)
    assert not sampler.wants(4_000_000)
    assert sampler.wants(5_000_000)


def test_taken_up_in_the_middle_nothing_before_is_taken() -> None:
    sampler = make(from_us=3_000_000)
    found = feed(sampler, [1_000_000, 2_000_000, 2_500_000, 2_999_500, 4_000_000])
    assert [event.frames for event in found if isinstance(event, Unit)] == [(2_999_500,), (4_000_000,)]
    assert [event.time.start_us for event in found if isinstance(event, Unit)] == [3_000_000, 4_000_000]


@given(
    st.lists(st.integers(0, 20_000_000), max_size=60).map(sorted),
    st.sampled_from([0.5, 1.0, 2.0, 3.7]),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 20_000_000),
)
def test_taking_up_at_a_watermark_gives_the_same_rest(
    times: list[int], fps: float, per_unit: int, cut: int
) -> None:
    sampler = make(fps, per_unit)
    whole = [*feed(sampler, times), *sampler.finish()]
    starts = [event for event in whole if isinstance(event, Unit)]
    previous_end = 0
    for unit in starts:
        assert unit.time.start_us >= previous_end
        assert len(unit.frames) == per_unit
        previous_end = unit.time.end_us
    done = [unit for unit in starts if unit.time.end_us <= cut]
    if not done:
        return
    watermark_us = done[-1].time.end_us
    again = make(fps, per_unit, from_us=watermark_us)
    rest = [event for event in [*feed(again, times), *again.finish()] if isinstance(event, Unit)]
    assert rest == starts[len(done) :]
