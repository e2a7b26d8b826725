"""Pure. What reasoners hold of streams that nobody here knows: a new orchestrator learns it from them.

The journal says what a former orchestrator wanted; this says what is really there, and where.
"""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.ids import StreamId


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one start of a reasoner holds of one stream."""

    stream: StreamId
    incarnation: str
    reasoner: str
    epoch: int
    watermark_us: int
    next_block_number: int


class Inventory:
    """Holdings by the boot of their reasoner. Owned by the event loop."""

    def __init__(self) -> None:
        self._of: dict[str, dict[StreamId, Holding]] = {}

    def __len__(self) -> int:
        return sum(len(holdings) for holdings in self._of.values())

    def told(self, boot: str, holding: Holding) -> None:
        """A reasoner says what it holds; the newest word counts."""
        self._of.setdefault(boot, {})[holding.stream] = holding

    def dropped(self, boot: str, stream: StreamId) -> None:
        """This start of a reasoner lets go of a stream; what others hold of it stays."""
        self._of.get(boot, {}).pop(stream, None)

    def gone(self, boot: str) -> None:
        """This start of a reasoner is over."""
        self._of.pop(boot, None)

    def forget(self, stream: StreamId) -> None:
        """The stream is known now, or was closed."""
        for holdings in self._of.values():
            holdings.pop(stream, None)

    def find(self, stream: StreamId, incarnation: str, preferred: str = "") -> Holding | None:
        """Who holds most of this life of a stream: the latest placement, the longest, then `preferred`."""
        found = [
            holdings[stream]
            for holdings in self._of.values()
            if stream in holdings and incarnation and holdings[stream].incarnation == incarnation
        ]

        def rank(holding: Holding) -> tuple[int, int, bool]:
            return holding.epoch, holding.watermark_us, holding.reasoner == preferred

        return max(found, key=rank, default=None)
