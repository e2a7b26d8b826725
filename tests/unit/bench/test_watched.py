"""The rows of the watching bench say what was measured."""

from __future__ import annotations

import pytest

from bench._watched import Measured, of_busy, of_mode
from tandem.core.watching import WatchMode


def measured(**values: list[float]) -> Measured:
    always = {key: [2.0, 4.0] for key in ("first_ms", "answer_ms", "before", "after", "lags_ms", "growth_ms")}
    asked = {key: [1.0, 0.0] for key in ("right", "several_right", "several_after")}
    return Measured(**{**always, **asked, **values})


def test_accuracy_is_a_part_of_what_was_asked_and_off_is_its_baseline() -> None:
    ours = measured(several_right=[1.0, 1.0, 1.0, 0.0], few_right=[1.0], few_in_view=[600.0, 700.0])
    off = measured(few_right=[0.0, 1.0], few_in_view=[708.0])
    rows = {row["metric"]: row for row in of_mode(WatchMode.SEGMENT_NOTES, ours, off)}
    several = rows["accuracy_several_segment_notes"]
    assert (several["value"], several["baseline"], several["n"]) == (0.75, 0.5, 4)
    few = rows["accuracy_several_few_segment_notes"]
    assert (few["value"], few["baseline"]) == (1.0, 0.5)
    in_view = rows["tokens_in_view_few_segment_notes"]
    assert (in_view["value"], in_view["baseline"]) == (650.0, 708.0)


def test_what_was_not_measured_has_no_row() -> None:
    off = measured()
    names = {row["metric"] for row in of_mode(WatchMode.OFF, off, off)}
    assert not any("notes_right" in name or "few" in name for name in names)


def test_delays_are_off_over_the_mode() -> None:
    slower, off = measured(lags_ms=[10.0]), measured(lags_ms=[5.0])
    rows = {row["metric"]: row for row in of_busy(WatchMode.CONCURRENT, slower, off)}
    assert rows["frame_lag_busy_concurrent"]["ratio"] == pytest.approx(0.5)


def test_what_is_asked_at_the_end_leaves_the_delays_of_the_timed_play() -> None:
    found = measured(before=[10.0, 20.0], after=[1.0, 9.0], right=[])
    found.take(Measured(before=[25.0], right=[1.0]))
    assert (found.before, found.after, found.right) == ([10.0, 25.0], [1.0, 9.0], [1.0])
