"""Pure. The life of one lane direction: open, broken, rebuilt, replaced by the next kind, given up.

Only the initiator decides; the acceptor follows `LaneOpen` and reports `LaneBroken`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from kv_transfer.protocol.actions import CloseLink, OpenLane
from tandem.core.errors import Unavailable
from tandem.core.transfer import Direction, LaneKind


class LaneDirector:
    """Decides what to open next for one direction."""

    def __init__(
        self, direction: Direction, kinds: Sequence[LaneKind], max_rebuilds: int, window_s: float
    ) -> None:
        self._direction = direction
        self._kinds = deque(kinds)
        self._max_rebuilds = max_rebuilds
        self._window_s = window_s
        self._breaks: deque[float] = deque()
        self.lane_epoch = 0
        """Epoch of the lane opened last; 0 before the first."""

    def first(self) -> OpenLane:
        """Open the lane for the first time."""
        return self._open()

    def broken(
        self, now_s: float, *, lane_epoch: int, was_up: bool, reason: str
    ) -> OpenLane | CloseLink | None:
        """The lane of `lane_epoch` is down at our end. None when that is old news.

        A lane that never came up is not tried again: the next kind is. One that worked is rebuilt, but no
        more than `max_rebuilds` times within the window.
        """
        if lane_epoch != self.lane_epoch:
            return None
        self._breaks.append(now_s)
        while self._breaks[0] < now_s - self._window_s:
            self._breaks.popleft()
        if not was_up or len(self._breaks) > self._max_rebuilds:
            self._kinds.popleft()
            self._breaks.clear()
        if not self._kinds:
            return CloseLink(Unavailable(f"no lane is left for {self._direction}: {reason}"))
        return self._open()

    def _open(self) -> OpenLane:
        self.lane_epoch += 1
        return OpenLane(self._direction, self.lane_epoch, self._kinds[0])
