"""The fault suite: every listed fault and bad input, what must come of it, and a runner that does them.

``scenarios_passed`` of ``scenarios`` ended as declared; ``lost_durable_blocks`` and ``wrong_answers`` must be
0. ``detect_s_<scenario>``: until the orchestrator or the client noticed; ``resume_s_<scenario>``: until new
frames were published again; ``load_s_<scenario>``: of that, the start of a process with its model.
``listed_shown`` of ``listed``: faults and bad inputs of the lists whose outcome something here shows.

    tandem bench faults                        everything, about ten minutes
    tandem bench faults --quick                the short form, well below a minute
    tandem bench faults --only encoder-killed,F5
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from bench.faults.runner import run_all
from bench.faults.table import chosen, listed
from bench.faults.verdict import Verdict

SETTINGS = {
    "model": "default",
    "video": "the minute of `tandem demo`, a frame a second of the stream, 25 frames a second of the clock",
    "threads": 1,
    "lease_s": 3.0,
}
Row = dict[str, Any]


def run(*, quick: bool = False, only: str = "") -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``. `only`: names with commas between."""
    # Ended by a signal or by Ctrl-C, it takes its systems down with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return rows_of(asyncio.run(run_all(chosen(only, quick), _say)))


def is_good(rows: list[Row]) -> bool:
    """True when every scenario ended as declared."""
    values = {row["metric"]: row["value"] for row in rows}
    return bool(values["scenarios_passed"] == values["scenarios"])


def rows_of(verdicts: list[Verdict]) -> list[Row]:
    """The figures of these outcomes."""
    ran = [verdict for verdict in verdicts if not verdict.skipped]
    known = listed().values()
    rows = [
        _row("scenarios_passed", sum(verdict.passed for verdict in ran), "scenarios"),
        _row("scenarios", len(ran), "scenarios"),
        _row("lost_durable_blocks", sum(verdict.lost_durable for verdict in ran), "blocks"),
        _row("wrong_answers", sum(verdict.wrong_answers for verdict in ran), "answers"),
        _row("answers", sum(verdict.answers for verdict in ran), "answers"),
        _row("listed_shown", sum(each.is_shown for each in known), "faults and bad inputs"),
        _row("listed", len(known), "faults and bad inputs"),
    ]
    rows += [_row(f"passed_{verdict.scenario}", int(verdict.passed), "yes or no") for verdict in ran]
    for word in ("detect_s", "resume_s", "load_s"):
        for verdict in ran:
            value = getattr(verdict, word)
            if value is not None:
                rows.append(_row(f"{word}_{verdict.scenario}", round(value, 3), "s"))
    return rows


def _row(metric: str, value: float, unit: str) -> Row:
    return {
        "metric": metric,
        "value": value,
        "unit": unit,
        "baseline": None,
        "ratio": None,
        "n": 1,
        "spread": None,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
