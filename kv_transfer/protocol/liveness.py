"""Pure. Heartbeats: when to send one, and when the peer's silence means that it is dead."""

from __future__ import annotations

from tandem.core.transfer import Heartbeat


class Liveness:
    """Counts silence. Any message is proof of life."""

    def __init__(self, now_s: float, interval_s: float, misses: int) -> None:
        self._interval_s = interval_s
        self._dead_after_s = interval_s * misses
        self._heard_s = now_s
        self._next_s = now_s + interval_s
        self._sequence = 0

    def heard(self, now_s: float) -> None:
        """A message came from the peer."""
        self._heard_s = now_s

    def silent_s(self, now_s: float) -> float:
        """Seconds since the peer's last message."""
        return now_s - self._heard_s

    def is_dead(self, now_s: float) -> bool:
        """True when the peer has been silent for longer than it may."""
        return self.silent_s(now_s) > self._dead_after_s

    def beat(self, now_s: float) -> Heartbeat | None:
        """A heartbeat to send now, if one is due."""
        if now_s < self._next_s:
            return None
        self._next_s = now_s + self._interval_s
        self._sequence += 1
        return Heartbeat(sequence=self._sequence)
