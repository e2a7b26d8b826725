"""Pure. Whether a stream's encoder keeps up, and what follows for its client and for media that waits."""

from __future__ import annotations

from orchestrator.backlog import Backlog

STALL_S = 10.0
"""How long a full backlog holds the client back while the encoder takes nothing in. Longer than the restart
of an encoder, so that a file that is read as fast as possible loses nothing; then media becomes a gap."""


class Pace:
    """One stream's; time comes in as an argument, in seconds."""

    def __init__(self, now_s: float, max_wait_s: float) -> None:
        """`max_wait_s`: see `Bounds.max_wait_s`."""
        self._hold_s = max_wait_s / 2
        self._moved_s = self._live_s = now_s

    @property
    def live_s(self) -> float:
        """Since when there is an encoder to deliver to."""
        return self._live_s

    def live(self, now_s: float) -> None:
        """An encoder is ready for media."""
        self._moved_s = self._live_s = now_s

    def moved(self, now_s: float) -> None:
        """The encoder took media in."""
        self._moved_s = now_s

    def is_moving(self, now_s: float) -> bool:
        """True while it takes media in."""
        return now_s - self._moved_s < min(STALL_S, self._hold_s)

    def must_wait(self, backlog: Backlog, size_bytes: int, now_s: float, *, is_live: bool) -> bool:
        """True while the client should be held back: the encoder is at work and behind.

        Behind is a full backlog, or media that waits for half the time after which it would be late.
        """
        if not backlog.has_room(size_bytes):
            return now_s - self._moved_s < STALL_S
        return is_live and self.is_moving(now_s) and backlog.waits(now_s, self._live_s) > self._hold_s
