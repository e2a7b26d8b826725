"""Shell: how a run goes, in the terminal while it goes: a picture that is redrawn, or now and then a line."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tandem.load.workload import Workload

REDRAWS_PER_S = 4
LINE_S = 10.0
"""Between two lines where no picture can be redrawn."""
RECENT = 200
"""First tokens whose spread is shown."""


class Progress:
    """Takes the ticks of all processes of one run after the other. Use it with ``with``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ticks: dict[int, dict[str, Any]] = {}
        self._firsts: deque[float] = deque(maxlen=RECENT)
        self._load = Workload()
        self._title = ""
        self._line_s = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=REDRAWS_PER_S, get_renderable=self._picture
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def begin(self, load: Workload, title: str) -> None:
        """A run begins."""
        self._load, self._title, self._line_s = load, title, 0.0
        self._ticks.clear()
        self._firsts.clear()
        if not self._live:
            self._console.print(title)

    def take(self, process: int, tick: dict[str, Any]) -> None:
        """One tick of a process."""
        if tick["kind"] != "tick":
            return
        self._ticks[process] = tick
        self._firsts.extend(tick["first_tokens_s"])
        if not self._live and process == 0 and tick["t"] >= self._line_s:
            self._line_s = tick["t"] + LINE_S
            self._console.print("  ".join(f"{name} {value}" for name, value in self._rows()), soft_wrap=True)

    def _rows(self) -> list[tuple[str, str]]:
        ticks = list(self._ticks.values())
        if not ticks:
            return [("run", "starting")]
        now_s = max(tick["t"] for tick in ticks)
        lags = [max(tick["lags_s"][at] for tick in ticks) for at in range(3)]

        def total(name: str) -> int:
            return sum(tick[name] for tick in ticks)

        firsts = "-"
        if self._firsts:
            p50, p95 = np.percentile(self._firsts, [50, 95]) * 1000
            firsts = f"median {p50:.0f} ms, p95 {p95:.0f} ms"
        return [
            ("time", f"{now_s:.0f} of {self._load.total_s:.0f} s ({phase(self._load, now_s)})"),
            ("streams", f"{total('open')} open, {total('failed_streams')} failed"),
            ("frames", f"{total('frames')} sent, {total('unseen')} not in memory yet"),
            ("lag", f"median {lags[0]:.2f} s, p95 {lags[1]:.2f} s, worst {lags[2]:.2f} s"),
            ("questions", f"{total('asked')} asked, {total('answered')} answered, {total('failed')} failed"),
            ("first token", firsts),
            ("generator late", f"p99 {max(tick['late_p99_s'] for tick in ticks) * 1000:.1f} ms"),
        ]

    def _picture(self) -> Table:
        table = Table(title=self._title, show_header=False, title_justify="left")
        for row in self._rows():
            table.add_row(*row)
        return table


def phase(load: Workload, now_s: float) -> str:
    """Which part of a run it is."""
    start_s, end_s = load.window_s
    if now_s < start_s:
        return "warm-up"
    return "measured" if now_s < end_s else "cool-down" if now_s < load.total_s else "last answers"
