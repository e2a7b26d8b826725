"""Pure. Streams that a reasoner holds in memory and nobody here knows: how long they stay, and which must go.

They are left by a former orchestrator. Whose client comes back finds them; the others would stand in the way
of new streams for as long as the reasoner lives.
"""

from __future__ import annotations

from collections.abc import Callable

from tandem.core.ids import StreamId


class Strays:
    """Of one start of one reasoner. Owned by the event loop; time comes in as an argument, in seconds."""

    def __init__(self, grace_s: float) -> None:
        """`grace_s`: how long a stream is kept for a client that may come back."""
        self._grace_s = grace_s
        self._since_s: dict[StreamId, float] = {}

    def told(self, stream: StreamId, now_s: float) -> None:
        """The reasoner said that it holds a stream that is not known."""
        self._since_s.setdefault(stream, now_s)

    def due(self, now_s: float, is_awaited: Callable[[StreamId], bool]) -> list[StreamId]:
        """Those that must go now: they are forgotten here. `is_awaited`: it is known again, or journaled."""
        gone = []
        for stream, since_s in list(self._since_s.items()):
            if is_awaited(stream):
                self._since_s[stream] = now_s
            elif now_s - since_s > self._grace_s:
                del self._since_s[stream]
                gone.append(stream)
        return gone
