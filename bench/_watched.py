"""Pure. What was measured of the watching modes, and its rows."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from bench._decoding import Row
from bench._decoding import row as median_row
from tandem.core.watching import WatchMode


@dataclass
class Measured:
    """One mode, over all turns."""

    first_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    several_right: list[float] = field(default_factory=list)
    several_after: list[float] = field(default_factory=list)
    few_right: list[float] = field(default_factory=list)
    few_in_view: list[float] = field(default_factory=list)
    notes_right: list[float] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)
    growth_ms: list[float] = field(default_factory=list)

    def take(self, asked: Measured) -> None:
        """What a play at a second a frame found, in place of the timed one's tokens of notes."""
        self.before[-1:] = asked.before
        self.right += asked.right
        self.several_right += asked.several_right
        self.several_after += asked.several_after
        self.few_right += asked.few_right
        self.few_in_view += asked.few_in_view
        self.notes_right += asked.notes_right


def of_mode(mode: WatchMode, ours: Measured, off: Measured) -> list[Row]:
    """With the model's own notes; `off` is the baseline."""
    name = mode.value.replace("-", "_")
    found = [
        _time("first_token", name, ours.first_ms, off.first_ms),
        _time("answer", name, ours.answer_ms, off.answer_ms),
        _time("frame_lag", name, ours.lags_ms, off.lags_ms),
        row(f"frame_lag_growth_{name}", ours.growth_ms, "ms", baseline=statistics.median(off.growth_ms)),
        row(f"tokens_before_{name}", ours.before, "tokens"),
        row(f"tokens_after_{name}", ours.after, "tokens"),
        _part(f"accuracy_{name}", ours.right, off.right),
        _part(f"accuracy_several_{name}", ours.several_right, off.several_right),
        row(f"tokens_after_several_{name}", ours.several_after, "tokens", baseline=_mean(off.several_after)),
    ]
    if ours.notes_right:
        found.append(_part(f"notes_right_{name}", ours.notes_right))
    if ours.few_right:
        found.append(_part(f"accuracy_several_few_{name}", ours.few_right, off.few_right))
        in_view = _mean(off.few_in_view)
        found.append(row(f"tokens_in_view_few_{name}", ours.few_in_view, "tokens", baseline=in_view))
    return found


def of_busy(mode: WatchMode, ours: Measured, off: Measured) -> list[Row]:
    """With notes that use their whole budget."""
    name = "busy_" + mode.value.replace("-", "_")
    return [
        _time("first_token", name, ours.first_ms, off.first_ms),
        _time("frame_lag", name, ours.lags_ms, off.lags_ms),
        row(f"frame_lag_growth_{name}", ours.growth_ms, "ms", baseline=statistics.median(off.growth_ms)),
        row(f"tokens_before_{name}", ours.before, "tokens"),
    ]


def _time(metric: str, name: str, values: list[float], base: list[float]) -> Row:
    return row(f"{metric}_{name}", values, "ms", baseline=statistics.median(base), faster=True)


def _part(metric: str, ours: list[float], base: list[float] | None = None) -> Row:
    """How many of so many are right."""
    baseline = None if base is None else _mean(base)
    return {**row(metric, [_mean(ours)], "fraction", baseline=baseline), "n": len(ours)}


def _mean(values: list[float]) -> float:
    return statistics.fmean(values)


def row(
    metric: str, values: list[float], unit: str, *, baseline: float | None = None, faster: bool = False
) -> Row:
    """A row of the report; with `faster` its ratio is the baseline over the median."""
    middle = statistics.median(values)
    ratio = baseline / middle if baseline is not None and faster and middle > 0 else None
    return median_row(metric, values, unit, baseline=baseline, ratio=ratio)
