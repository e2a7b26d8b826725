from __future__ import annotations

import io
import json
import time

from tandem.client import Progress
from tandem.load.hearing import Ear
from tandem.load.log import EventLog
from tandem.load.pace import Pace


def test_a_lowered_rate_is_followed_and_told() -> None:
    """Frames that are left out by a lowered rate are not waited for: they would count as seen late."""
    out, pace = io.StringIO(), Pace(time.monotonic())
    ear = Ear("s", pace, EventLog(out, pace))
    ear.sample_fps = 4.0

    def push(first: int, end: int) -> list[int]:
        for index in range(first, end):
            ear.pushed(index * 250_000, 0.0, 0.0, period_us=250_000)
        return [frame.pts_us for frame in ear.unseen]

    assert push(0, 4) == [0, 250_000, 500_000, 750_000]
    ear.take(Progress(watermark_us=1_000_000, sample_fps=1.0, rate_reason="too much to do"))
    assert push(4, 12) == [1_000_000, 2_000_000]
    ear.take(Progress(watermark_us=3_000_000))  # a server that does not say
    ear.take(Progress(watermark_us=3_000_000, sample_fps=4.0))
    assert push(12, 16) == [3_000_000, 3_250_000, 3_500_000, 3_750_000]
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    rates = [(event["fps"], event["why"]) for event in events if event["kind"] == "rate"]
    assert rates == [(1.0, "too much to do"), (4.0, "")]
    assert sum(event["kind"] == "seen" for event in events) == 6
