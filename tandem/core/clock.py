"""Time as an argument: decisions take `now_s`, shells hold a `Clock`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in seconds. Its zero means nothing; only differences do."""

    def __call__(self) -> float:
        """Now, in seconds."""
        ...


def monotonic_clock() -> float:
    """The process's monotonic clock, in seconds."""
    return time.monotonic()


class ManualClock:
    """A clock that a test moves by hand."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Now, in seconds."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Move time forward by `seconds`, which must not be negative."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        self.now_s += seconds
