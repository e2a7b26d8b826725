"""Shell around matplotlib: the report's plots, each as the text of one SVG element."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from tandem.load.frame_measures import joined
from tandem.load.goals import Goals
from tandem.load.series import Series

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, GREEN, ORANGE, RED = "#2563a8", "#2f855a", "#c77700", "#c02f2f"
WIDE, NARROW = (9.6, 3.0), (4.7, 3.0)
MOST_POINTS = 1200
"""Of a line; more are put together."""
MOST_DOTS = 4000
"""Of a cloud; more are drawn as a picture inside of the plot."""
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def lag_plot(series: Series, window_s: Sequence[float], goals: Goals, salt: str) -> str:
    """How far memory is behind the live edge, over time, with what was lost."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"lag{salt}"}):
        figure, axes = _axes(WIDE, "Frame lag behind the live edge", "run time, s", "s")
        _window(axes, window_s)
        for values, colour, label in (
            (series.lag_max, MUTED, "worst stream"),
            (series.lag_p95, BLUE, "95 % of streams within"),
            (series.lag_p50, GREEN, "half of streams within"),
        ):
            times, most = thinned(series.times, values)
            axes.plot(times, most, color=colour, linewidth=1.2, label=label)
        if goals.frame_lag_ms is not None:
            _goal(axes, goals.frame_lag_ms / 1000)
        for start_s, end_s in joined([(gap[2], gap[3]) for gap in series.gaps]):
            axes.axvspan(start_s, end_s, ymax=0.04, color=RED, linewidth=0)
        if series.gaps:
            axes.plot([], [], color=RED, linewidth=4, label="lost (gaps)")
        axes.set_ylim(bottom=0)
        _legend(axes)
        return _svg(figure)


def latency_plot(series: Series, window_s: Sequence[float], goals: Goals, salt: str) -> str:
    """First tokens by when their questions were due, counted from then and from the sending."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"latency{salt}"}):
        figure, axes = _axes(WIDE, "Question to first token, by when it was due", "run time, s", "s")
        _window(axes, window_s)
        due = [asked[0] for asked in series.asked]
        is_many = len(due) > MOST_DOTS
        for at, colour, marker, label in ((2, ORANGE, "x", "from sending"), (1, BLUE, "o", "from when due")):
            values = [asked[at] for asked in series.asked]
            axes.plot(
                due, values, marker, color=colour, markersize=3, alpha=0.7, label=label, rasterized=is_many
            )
        if goals.first_token_ms is not None:
            _goal(axes, goals.first_token_ms / 1000)
        highest = max((asked[1] for asked in series.asked), default=1.0)
        if series.failed:
            top = [highest * 1.1] * len(series.failed)
            axes.plot(series.failed, top, "v", color=RED, markersize=4, label="not answered")
        _logarithmic(axes, [asked[1] for asked in series.asked])
        _legend(axes)
        return _svg(figure)


def distribution_plot(series: Series, window_s: Sequence[float], salt: str) -> str:
    """Which share of first tokens came within which time."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"cdf{salt}"}):
        figure, axes = _axes(NARROW, "First token within", "s", "share of answers")
        for at, colour, label in ((2, ORANGE, "from sending"), (1, BLUE, "from when due")):
            values = np.sort([a[at] for a in series.asked if window_s[0] <= a[0] < window_s[1]])
            if values.size:
                shares = np.arange(1, values.size + 1) / values.size
                times, heights = thinned(values.tolist(), shares.tolist())
                axes.step(times, heights, where="post", color=colour, label=label)
        axes.set_ylim(0, 1.02)
        firsts = [first_s for asked in series.asked for first_s in asked[1:] if first_s > 0]
        if firsts and max(firsts) > 10 * min(firsts):
            axes.set_xscale("log")
        _legend(axes)
        return _svg(figure)


def work_plot(series: Series, window_s: Sequence[float], salt: str) -> str:
    """Streams and what is under way, over time."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"work{salt}"}):
        figure, axes = _axes(NARROW, "Work in flight", "run time, s", "")
        _window(axes, window_s)
        for values, colour, label in (
            (series.streams, MUTED, "streams"),
            (series.unseen, GREEN, "frames not in memory yet"),
            (series.questions, BLUE, "open questions"),
        ):
            times, most = thinned(series.times, values)
            axes.plot(times, most, color=colour, linewidth=1.2, label=label)
        axes.set_ylim(bottom=0)
        _legend(axes)
        return _svg(figure)


def sweep_plot(runs: Sequence[dict[str, Any]], knee: int | None, goals: Goals, salt: str) -> str:
    """Attainment, lag and goodput over the number of streams."""
    ordered = sorted(runs, key=lambda run: run["streams"])
    streams = [run["streams"] for run in ordered]
    panels = (
        ("Questions within goals", "share", [run["measures"]["questions"]["attainment"] for run in ordered]),
        ("Frame lag, 95 %", "s", [_lag_s(run) for run in ordered]),
        ("Good answers", "a second", [run["measures"]["questions"]["goodput_per_s"] for run in ordered]),
    )
    bounds = (goals.attainment, goals.frame_lag_ms and goals.frame_lag_ms / 1000, None)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"sweep{salt}"}):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        for axes, (title, unit, values), bound in zip(figure.subplots(1, 3), panels, bounds, strict=True):
            axes.set(title=title, xlabel="streams", ylabel=unit)
            numbers = [math.nan if value is None else value for value in values]
            axes.plot(streams, numbers, color=MUTED, linewidth=1, zorder=1)
            for became, colour in (("passed", GREEN), ("failed", RED), ("invalid", ORANGE)):
                rows = [i for i, run in enumerate(ordered) if _became(run) == became]
                axes.plot(
                    [streams[i] for i in rows],
                    [numbers[i] for i in rows],
                    "o",
                    color=colour,
                    label=became if rows else None,
                )
            if bound:
                _goal(axes, bound)
            if knee:
                axes.axvline(knee, color=INK, linestyle=":", linewidth=1.2, label=f"knee: {knee}")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
        _legend(figure.axes[0])
        return _svg(figure)


def thinned(
    times: Sequence[float], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float]]:
    """At most so many points; of those put together the highest stays, so that no stall disappears."""
    step = math.ceil(len(times) / most) if times else 1
    if step == 1:
        return list(times), list(values)
    starts = range(0, len(times), step)
    return [times[i] for i in starts], [max(values[i : i + step]) for i in starts]


def _became(run: dict[str, Any]) -> str:
    if not run["valid"]:
        return "invalid"
    return "passed" if run["passed"] else "failed"


def _lag_s(run: dict[str, Any]) -> float | None:
    lag_ms = run["measures"]["frames"]["lag_ms"].get("p95")
    return None if lag_ms is None else lag_ms / 1000


def _axes(size: tuple[float, float], title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _window(axes: Any, window_s: Sequence[float]) -> None:
    axes.axvspan(*window_s, color="#f3f6fa", zorder=0, linewidth=0)


def _goal(axes: Any, value: float) -> None:
    axes.axhline(value, color=RED, linestyle="--", linewidth=1, label="goal")


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", ncols=2)


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    """Where the worst is far from the middle, both must be seen."""
    above = [value for value in values if value > 0]
    if above and max(above) > 20 * float(np.median(above)):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
